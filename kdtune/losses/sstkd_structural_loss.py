"""L_str as torch computes it."""

import torch
import torch.nn.functional as F
from torch import Tensor

from kdtune.base import Loss, SegOutput, align
from kdtune.losses.side_by_side import adapter, side_by_side
from kdtune.losses.sstkd_structural import StructuralTexture

DIRECTIONS = ((0, 1), (1, 0), (1, 1), (1, -1))  # cells down and across


class StructuralTextureLoss(Loss):
    """L_str with its adapter A, an ``nn.Identity`` where the widths are equal."""

    def __init__(self, term: StructuralTexture, student_width: int, teacher_width: int) -> None:
        super().__init__()
        self.term = term
        self.adapter = adapter(student_width, teacher_width)

    def forward(self, student: SegOutput, teacher: SegOutput | None, target: Tensor) -> Tensor:
        """See ``StructuralTexture``."""
        assert teacher is not None
        maps = student.taps[self.term.tap], teacher.taps[self.term.tap]
        with torch.autocast(maps[0].device.type, enabled=False):
            from_student, from_teacher = side_by_side(*maps)
            # The bands are linear: those of the difference are the differences of the bands.
            rest = self.adapter(from_student) - from_teacher  # (N, C_T, h, w)
            energies = []
            for _ in range(self.term.levels):
                lower = F.avg_pool2d(rest, 2, ceil_mode=True)
                energies.append(directional_energy(rest - align(lower, rest)))
                rest = lower
            return torch.stack(energies).mean()


def directional_energy(band: Tensor) -> Tensor:
    """The mean square of a band's second differences, over directions and everything."""
    height, width = band.shape[-2:]
    padded = F.pad(band, (1, 1, 1, 1))
    energies = []
    for down, across in DIRECTIONS:
        ends = [padded[..., 1 + s * down :, 1 + s * across :][..., :height, :width] for s in (1, -1)]
        energies.append((band - (ends[0] + ends[1]) / 2).square().mean())
    return torch.stack(energies).mean()
