"""L_CWD as torch computes it."""

import torch
import torch.nn.functional as F
from torch import Tensor

from kdtune.base import Loss, SegOutput
from kdtune.losses.channel_wise import ChannelWise
from kdtune.losses.side_by_side import adapter, side_by_side


class ChannelWiseLoss(Loss):
    """L_CWD with its adapter, an ``nn.Identity`` where the widths are equal."""

    def __init__(self, term: ChannelWise, student_width: int, teacher_width: int) -> None:
        super().__init__()
        self.term = term
        self.adapter = adapter(student_width, teacher_width)

    def forward(self, student: SegOutput, teacher: SegOutput | None, target: Tensor) -> Tensor:
        """See ``ChannelWise``."""
        assert teacher is not None
        maps = [out.logits if self.term.tap == "logits" else out.taps[self.term.tap] for out in (student, teacher)]
        with torch.autocast(maps[0].device.type, enabled=False):
            own, from_teacher = side_by_side(*maps)  # the latter (N, C_T, h, w)
            from_student: Tensor = self.adapter(own)  # (N, C_T, h, w)
            total = self._divergence(from_student.flatten(2), from_teacher.flatten(2))
        images, compared = from_student.shape[:2]
        if self.term.normalise_over == "channels":
            return total / (images * own[0, 0].numel())
        return total / (images * (own.shape[1] if self.term.convention == "cirkd" else compared))

    def _divergence(self, student: Tensor, teacher: Tensor) -> Tensor:
        """tau^2 times the divergence of maps (N, C, P), summed over everything."""
        tau, axis = self.term.temperature, 2 if self.term.normalise_over == "cells" else 1
        log_student, log_teacher = F.log_softmax(student / tau, dim=axis), F.log_softmax(teacher / tau, dim=axis)
        if self.term.divergence == "mse":
            return tau**2 * (log_student.exp() - log_teacher.exp()).square().sum()
        return tau**2 * F.kl_div(log_student, log_teacher, log_target=True, reduction="sum")
