"""L_NFD as torch computes it."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdtune.base import Loss, SegOutput
from kdtune.losses.nfd import NormalisedFeatures
from kdtune.losses.side_by_side import side_by_side

EPS = 1e-5  # added to a variance: a channel that is the same everywhere becomes 0


class NormalisedFeaturesLoss(Loss):
    """L_NFD with its adapter W."""

    def __init__(self, term: NormalisedFeatures, student_width: int, teacher_width: int) -> None:
        super().__init__()
        self.term = term
        self.adapter = nn.Conv2d(student_width, teacher_width, 1, bias=False)

    def forward(self, student: SegOutput, teacher: SegOutput | None, target: Tensor) -> Tensor:
        """See ``NormalisedFeatures``."""
        assert teacher is not None
        maps = student.taps[self.term.tap], teacher.taps[self.term.tap]
        with torch.autocast(maps[0].device.type, enabled=False):
            from_student, from_teacher = side_by_side(*maps)
            return F.mse_loss(self._normalised(self.adapter(from_student)), self._normalised(from_teacher))

    def _normalised(self, feature: Tensor) -> Tensor:
        """(N, C, h, w), mean 0 and variance 1."""
        axes = (2, 3) if self.term.normalise_over == "cells" else (1,)
        centred = feature - feature.mean(axes, keepdim=True)
        return centred * (centred.square().mean(axes, keepdim=True) + EPS).rsqrt()
