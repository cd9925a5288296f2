"""L_LSKD: against a loop over cells, and that a factor is nothing to it."""

import pytest
import torch

from kdtune.base import SegOutput
from kdtune.losses.logit_std import StandardisedLogits
from tests.support.random_maps import NO_LABELS, maps


def value_of(student: torch.Tensor, teacher: torch.Tensor, tau: float = 2.0) -> torch.Tensor:
    return StandardisedLogits(weight=1, temperature=tau)(SegOutput(student), SegOutput(teacher), NO_LABELS)


@pytest.mark.parametrize("tau", [1.0, 2.0])
def test_against_a_loop(tau: float) -> None:
    student, teacher, total = maps(2, 5, 3, 4), 3 * maps(2, 5, 3, 4, seed=1), 0.0
    for n in range(2):
        for y in range(3):
            for x in range(4):
                cells = [z[n, :, y, x] for z in (student, teacher)]
                q, p = (((z - z.mean()) / (z.std() + 1e-7) / tau).softmax(0) for z in cells)
                total += float((p * (p / q).log()).sum())
    assert value_of(student, teacher, tau).item() == pytest.approx(tau**2 * total / 24, rel=1e-7)


def test_a_factor_and_an_offset_of_the_logits_cost_nothing() -> None:
    """The paper's point: the student need not be as sure as its teacher."""
    teacher = maps(2, 5, 3, 4)
    assert value_of(0.01 * teacher + 5, teacher).item() == pytest.approx(0, abs=1e-9)
    assert value_of(-teacher, teacher).item() > 0.1


def test_a_cell_whose_logits_are_equal_has_a_gradient() -> None:
    student = torch.zeros(1, 3, 1, 1, requires_grad=True)
    value_of(student, maps(1, 3, 1, 1).float()).backward()
    assert student.grad is not None
    assert torch.isfinite(student.grad).all()


def test_gradcheck() -> None:
    teacher = maps(2, 3, 2, 2, seed=1)
    assert torch.autograd.gradcheck(lambda z: value_of(z, teacher), maps(2, 3, 4, 4).requires_grad_(True))
