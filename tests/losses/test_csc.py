"""L_CSC: against loops over shifts, regions and classes; what leaves it unchanged."""

import itertools

import pytest
import torch

from kdtune.base import SegOutput
from kdtune.losses.csc import ChannelSpaceCorrelation
from tests.support.random_maps import NO_LABELS, maps


def value_of(student: torch.Tensor, teacher: torch.Tensor, cells: int = 2) -> torch.Tensor:
    term = ChannelSpaceCorrelation(weight=1, cells=cells, acknowledge_patent=True)
    return term(SegOutput(student), SegOutput(teacher), NO_LABELS)


@pytest.mark.parametrize("classes", [3, 4])
def test_against_loops(classes: int) -> None:
    student, teacher, total = maps(2, classes, 4, 6), maps(2, classes, 4, 6, seed=1), 0.0
    for n, shift in itertools.product(range(2), range(classes)):
        associated = []
        for logits in (student, teacher):
            regions = [logits[n, :, y : y + 2, x : x + 3].mean((1, 2)) for y in (0, 2) for x in (0, 3)]
            a = [[float(f[c] * f[(c + shift) % classes] / f.norm() ** 2) for c in range(classes)] for f in regions]
            associated.append([sum(p * q for p, q in zip(i, j, strict=True)) for i in a for j in a])
        total += sum((one - other) ** 2 for one, other in zip(*associated, strict=True)) / 16
    assert value_of(student, teacher).item() == pytest.approx(total / (2 * classes), rel=1e-7)


def test_sizes_are_nothing_to_it_and_it_is_not_the_square_of_pair_wise_similarities() -> None:
    teacher = maps(2, 4, 4, 4)
    assert value_of(3 * teacher, teacher).item() == pytest.approx(0, abs=1e-20)
    assert value_of(teacher, maps(2, 4, 4, 4, seed=1)) > 0
    # One region: all similarities are 1, so pair-wise distillation sees nothing; products of classes differ.
    assert value_of(maps(1, 4, 1, 1), maps(1, 4, 1, 1, seed=1)) > 0


def test_gradcheck() -> None:
    teacher = maps(2, 3, 2, 2, seed=1)
    assert torch.autograd.gradcheck(lambda z: value_of(z, teacher), maps(2, 3, 4, 4).requires_grad_(True))
