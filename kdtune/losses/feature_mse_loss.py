"""L_FitNet as torch computes it."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdtune.base import Loss, SegOutput
from kdtune.losses.feature_mse import FeatureMse
from kdtune.losses.side_by_side import side_by_side


class FeatureMseLoss(Loss):
    """L_FitNet with its adapter W."""

    def __init__(self, term: FeatureMse, student_width: int, teacher_width: int) -> None:
        super().__init__()
        self.term = term
        self.adapter = nn.Conv2d(student_width, teacher_width, 1, bias=False)

    def forward(self, student: SegOutput, teacher: SegOutput | None, target: Tensor) -> Tensor:
        """See ``FeatureMse``."""
        assert teacher is not None
        maps = student.taps[self.term.tap], teacher.taps[self.term.tap]
        with torch.autocast(maps[0].device.type, enabled=False):
            from_student, from_teacher = side_by_side(*maps)
            return F.mse_loss(self.adapter(from_student), from_teacher)
