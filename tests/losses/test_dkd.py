"""L_DKD: against a loop over cells; with the teacher's share of the others as its beta it is L_PI."""

import pytest
import torch

from kdtune.base import IGNORE, SegOutput
from kdtune.losses.dkd import Decoupled
from kdtune.losses.pixel_wise import PixelWise
from tests.support.random_maps import labels, maps


def value_of(student: torch.Tensor, teacher: torch.Tensor, target: torch.Tensor, **fields: float) -> torch.Tensor:
    return Decoupled(weight=1, **fields)(SegOutput(student), SegOutput(teacher), target)


@pytest.mark.parametrize(("alpha", "beta", "tau"), [(1.0, 2.0, 1.0), (0.5, 8.0, 4.0)])
def test_against_a_loop(alpha: float, beta: float, tau: float) -> None:
    student, teacher, target = maps(2, 5, 3, 4), maps(2, 5, 3, 4, seed=1), labels(2, 3, 4, classes=5)
    values = []
    for n, y, x in torch.cartesian_prod(*(torch.arange(size) for size in target.shape)).tolist():
        label = int(target[n, y, x])
        if label != IGNORE:
            q, p = ((z[n, :, y, x] / tau).softmax(0) for z in (student, teacher))
            sure = p[label] * (p[label] / q[label]).log() + (1 - p[label]) * ((1 - p[label]) / (1 - q[label])).log()
            other = torch.tensor([c != label for c in range(5)])
            r, s = p[other] / p[other].sum(), q[other] / q[other].sum()
            values.append(float(alpha * sure + beta * (r * (r / s).log()).sum()))
    assert 0 < len(values) < target.numel()
    value = value_of(student, teacher, target, alpha=alpha, beta=beta, temperature=tau)
    assert value.item() == pytest.approx(tau**2 * sum(values) / len(values), rel=1e-7)


def test_it_is_the_pixel_wise_term_taken_apart() -> None:
    """The paper's eq. 5: with beta the teacher's share of the other classes, and alpha 1, the sum is plain KL."""
    student, teacher, target = maps(1, 4, 1, 1), maps(1, 4, 1, 1, seed=1), torch.full((1, 1, 1), 2)
    share = 1 - float(teacher.softmax(1)[0, 2, 0, 0])
    whole = PixelWise(weight=1)(SegOutput(student), SegOutput(teacher), target)
    torch.testing.assert_close(value_of(student, teacher, target, alpha=1.0, beta=share), whole)


def test_a_very_sure_teacher_and_student_are_no_reason_for_a_nan() -> None:
    student, teacher = ((200 * maps(1, 4, 3, 3, seed=i)).float().requires_grad_(True) for i in (0, 1))
    value = value_of(student, teacher, labels(1, 3, 3, classes=4))
    value.backward()
    assert torch.isfinite(value)
    assert student.grad is not None
    assert torch.isfinite(student.grad).all()


def test_gradcheck() -> None:
    teacher, target = maps(2, 3, 2, 2, seed=1), labels(2, 8, 8, classes=3)
    assert torch.autograd.gradcheck(lambda z: value_of(z, teacher, target), maps(2, 3, 4, 4).requires_grad_(True))
