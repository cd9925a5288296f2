"""L_AT: by hand, what it does not see, and against CIRKD's code."""

import pytest
import torch

from kdtune.base import SegOutput
from kdtune.losses.attention_transfer import AttentionTransfer
from tests.support.golden import Case, cases

TARGET = torch.zeros(1, 1, 1, dtype=torch.long)


def value_of(student: torch.Tensor, teacher: torch.Tensor, tap: str = "psp") -> torch.Tensor:
    """The term on these features."""
    outputs = [SegOutput(feature[:, :1], taps={tap: feature}) for feature in (student, teacher)]
    return AttentionTransfer(weight=1, tap=tap)(*outputs, TARGET)


def test_by_hand() -> None:
    """Squares 9 and 16 of the student are (0.490, 0.872) at length 1; the teacher's 4 and 0 are (1, 0)."""
    student = torch.tensor([[3.0, 0.0], [0.0, 4.0]]).reshape(1, 2, 1, 2)
    teacher = torch.tensor([[-2.0, 0.0]]).reshape(1, 1, 1, 2)
    length = (9**2 + 16**2) ** 0.5
    expected = ((9 / length - 1) ** 2 + (16 / length) ** 2) / 2
    for tap in ("psp", "layer1"):
        assert value_of(student, teacher, tap).item() == pytest.approx(expected, rel=1e-6)


def test_sign_scale_and_order_of_channels_are_not_seen() -> None:
    """Twice the teacher, negated, its channels turned round: the same attention."""
    teacher = torch.randn(2, 3, 4, 4)
    assert value_of(-2 * teacher.flip(1), teacher).item() == pytest.approx(0, abs=1e-12)


def test_nothing_active() -> None:
    """A student of zeros: the teacher's mean square, 1 / (h w), and a gradient of 0."""
    student = torch.zeros(1, 2, 3, 3, requires_grad=True)
    value = value_of(student, torch.randn(1, 2, 3, 3))
    value.backward()
    assert value.item() == pytest.approx(1 / 9, rel=1e-6)
    assert student.grad is not None
    assert student.grad.abs().max() == 0


def test_gradcheck() -> None:
    """The gradient is that of the value, with a teacher of other width at half the cells."""
    student = torch.randn(2, 3, 4, 4, dtype=torch.float64, requires_grad=True)
    teacher = torch.randn(2, 5, 2, 2, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda f: value_of(f, teacher), student)


@pytest.mark.parametrize("case", cases("cirkd_at"))
def test_parity(case: Case) -> None:
    """CIRKD's CriterionAT."""
    student = case.input("feat_S", grad=True)
    value = value_of(student, case.input("feat_T"))
    value.backward()
    case.check(value)
    case.check_grad(student, "feat_S")
