"""L_PID as torch computes it."""

import itertools
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from kdtune.base import Loss, SegOutput
from kdtune.losses.idd_position import PositionInformation
from kdtune.losses.side_by_side import adapter, side_by_side

RIDGE = 1e-4  # times the mean square of a feature: features that are nearly the same need not cancel


class PositionInformationLoss(Loss):
    """L_PID with its reader P and its adapter A, an ``nn.Identity`` where the widths are equal."""

    reader: Tensor  # (2, C_T + 1), the last column for the offset

    def __init__(self, term: PositionInformation, student_width: int, teacher_width: int) -> None:
        super().__init__()
        self.term = term
        self.adapter = adapter(student_width, teacher_width)
        self.register_buffer("reader", torch.zeros(2, teacher_width + 1))

    def before_training(self, batches: Iterator[tuple[SegOutput | None, Tensor]]) -> None:
        """Fits the reader to the teacher's features, by the normal equations in float64."""
        width = self.reader.shape[1]
        squares = torch.zeros(width, width, dtype=torch.float64, device=self.reader.device)
        towards = torch.zeros(width, 2, dtype=torch.float64, device=self.reader.device)
        for seen, _ in itertools.islice(batches, self.term.batches):
            assert seen is not None
            feature = seen.taps[self.term.tap].double()  # (N, C, h, w)
            cells = torch.cat([feature, torch.ones_like(feature[:, :1])], dim=1).transpose(0, 1).flatten(1)
            squares += cells @ cells.T
            towards += cells @ places(feature).expand(len(feature), -1, -1, -1).transpose(0, 1).flatten(1).T
        ridge = RIDGE * squares.diagonal().mean() * torch.eye(width, dtype=torch.float64, device=squares.device)
        self.reader.copy_(torch.linalg.solve(squares + ridge, towards).T)

    def made_of_teacher(self) -> tuple[str, dict[str, Tensor]]:
        """The reader."""
        return f"idd_position of all batches {self.term.model_dump_json(exclude={'weight'})}", {"reader": self.reader}

    def forward(self, student: SegOutput, teacher: SegOutput | None, target: Tensor) -> Tensor:
        """See ``PositionInformation``."""
        assert teacher is not None
        maps = student.taps[self.term.tap], teacher.taps[self.term.tap]
        with torch.autocast(maps[0].device.type, enabled=False):
            from_student, from_teacher = side_by_side(*maps)
            return F.mse_loss(self._read(self.adapter(from_student)), self._read(from_teacher))

    def _read(self, feature: Tensor) -> Tensor:
        """(N, C, h, w) to (N, 2, h, w)."""
        return F.conv2d(feature, self.reader[:, :-1, None, None], self.reader[:, -1])


def places(feature: Tensor) -> Tensor:
    """Where the cells of ``feature`` lie, (1, 2, h, w), from -1 to 1 down and across; 0 where there is but one."""
    axes = [
        torch.linspace(-1, 1, n, dtype=feature.dtype, device=feature.device) if n > 1 else feature.new_zeros(1)
        for n in feature.shape[-2:]
    ]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"))[None]
