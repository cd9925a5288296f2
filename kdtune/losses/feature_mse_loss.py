"""L_FitNet as torch computes it."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdtune.base import Loss, SegOutput, align, at_least_float32
from kdtune.losses.feature_mse import FeatureMse


class FeatureMseLoss(Loss):
    """L_FitNet with its adapter W."""

    def __init__(self, term: FeatureMse, student_width: int, teacher_width: int) -> None:
        super().__init__()
        self.term = term
        self.adapter = nn.Conv2d(student_width, teacher_width, 1, bias=False)

    def forward(self, student: SegOutput, teacher: SegOutput | None, target: Tensor) -> Tensor:
        """See ``FeatureMse``."""
        assert teacher is not None
        from_student, from_teacher = student.taps[self.term.tap], teacher.taps[self.term.tap].detach()
        with torch.autocast(from_student.device.type, enabled=False):
            from_student, from_teacher = at_least_float32(from_student, from_teacher)
            return F.mse_loss(self.adapter(from_student), align(from_teacher, from_student))
