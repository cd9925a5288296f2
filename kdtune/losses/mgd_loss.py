"""L_MGD as torch computes it."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdtune.base import Drawing, SegOutput
from kdtune.losses.mgd import MaskedGeneration
from kdtune.losses.side_by_side import adapter, side_by_side
from kdtune.modules import own_generator


class MaskedGenerationLoss(Drawing):
    """L_MGD with its adapter A, an ``nn.Identity`` where the widths are equal, and its generator G."""

    def __init__(self, term: MaskedGeneration, student_width: int, teacher_width: int) -> None:
        super().__init__()
        self.term = term
        self.adapter = adapter(student_width, teacher_width, bias=True)
        self.generation = nn.Sequential(
            nn.Conv2d(teacher_width, teacher_width, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(teacher_width, teacher_width, 3, padding=1),
        )
        self.generator = own_generator()

    def forward(self, student: SegOutput, teacher: SegOutput | None, target: Tensor) -> Tensor:
        """See ``MaskedGeneration``."""
        assert teacher is not None
        maps = student.taps[self.term.tap], teacher.taps[self.term.tap]
        with torch.autocast(maps[0].device.type, enabled=False):
            from_student, from_teacher = side_by_side(*maps)
            images, _, height, width = from_student.shape
            kept = self.drawn(images, 1, height, width, like=from_student) >= self.term.masked
            generated = self.generation(self.adapter(from_student) * kept)
            return F.mse_loss(generated, from_teacher)
