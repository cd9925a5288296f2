"""L_C: against a loop over neighbours, and what the paper says of it."""

import itertools

import pytest
import torch

from kdtune.base import SegOutput
from kdtune.losses.consistency import Consistency
from tests.support.random_maps import NO_LABELS, maps


def value_of(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    return Consistency(weight=1)(SegOutput(student), SegOutput(teacher), NO_LABELS)


def change(logits: torch.Tensor) -> torch.Tensor:
    """Of one image (K, h, w), a loop over cells and their neighbours."""
    _, height, width = logits.shape
    found = torch.zeros(height, width, dtype=logits.dtype)
    for y, x in itertools.product(range(height), range(width)):
        near = [(y + dy, x + dx) for dy, dx in itertools.product((-1, 0, 1), repeat=2) if (dy, dx) != (0, 0)]
        there = [(a, b) for a, b in near if 0 <= a < height and 0 <= b < width]
        norms = [(logits[:, y, x] - logits[:, a, b]).norm() for a, b in there]
        found[y, x] = torch.stack(norms).mean() if norms else 0.0
    return found


@pytest.mark.parametrize("size", [(4, 5), (1, 3), (1, 1)])
def test_against_loops(size: tuple[int, int]) -> None:
    student, teacher = maps(2, 3, *size), maps(2, 3, *size, seed=1)
    each = [(change(student[n]) - change(teacher[n])).square().mean() for n in range(2)]
    torch.testing.assert_close(value_of(student, teacher), torch.stack(each).mean())


def test_flat_maps_are_consistent_and_an_offset_is_nothing() -> None:
    """Zero-order knowledge, which class it is, is another term's: this one sees changes only."""
    flat = maps(2, 3, 1, 1).expand(2, 3, 4, 5)
    assert value_of(flat, torch.zeros(2, 3, 4, 5).double()) == 0
    teacher = maps(2, 3, 4, 5, seed=1)
    assert value_of(teacher + maps(1, 3, 1, 1), teacher).item() == pytest.approx(0, abs=1e-20)
    assert value_of(teacher, flat) > 0


def test_gradcheck_and_no_nan_where_cells_are_equal() -> None:
    teacher = maps(2, 3, 2, 2, seed=1)
    assert torch.autograd.gradcheck(lambda z: value_of(z, teacher), maps(2, 3, 4, 4).requires_grad_(True))
    flat = torch.zeros(2, 3, 4, 4, dtype=torch.float64, requires_grad=True)
    value_of(flat, teacher).backward()
    assert flat.grad is not None
    assert torch.isfinite(flat.grad).all()
