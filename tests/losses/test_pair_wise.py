"""L_PA: by hand, its nodes, and against SKD's and CIRKD's code."""

from typing import Any

import pytest
import torch
from pydantic import ValidationError

from kdtune.base import SegOutput
from kdtune.losses.pair_wise import PairWise
from tests.support.golden import Case, cases

TARGET = torch.zeros(1, 1, 1, dtype=torch.long)


def value_of(student: torch.Tensor, teacher: torch.Tensor, **fields: Any) -> torch.Tensor:
    """The term with these fields on these features."""
    outputs = [SegOutput(feature[:, :1], taps={"psp": feature}) for feature in (student, teacher)]
    return PairWise(weight=1, **fields)(*outputs, TARGET)


def test_by_hand() -> None:
    """Two nodes, orthogonal in the student and parallel in the teacher: 2 of the 4 pairs differ by 1."""
    student = torch.tensor([[3.0, 0.0], [0.0, 5.0]]).reshape(1, 2, 1, 2)
    teacher = torch.tensor([[1.0, 2.0]]).reshape(1, 1, 1, 2)
    assert value_of(student, teacher).item() == pytest.approx(0.5, rel=1e-6)


@pytest.mark.parametrize(("cells", "nodes"), [(65, 9), (64, 4)])
def test_nodes(cells: int, nodes: int) -> None:
    """A student without contrast against a teacher with one odd node: 2 (M - 1) of M^2 pairs differ by 1."""
    student, teacher = torch.ones(1, 2, cells, cells), torch.zeros(1, 2, cells, cells)
    teacher[:, 0] = 1
    teacher[:, :, -1, -1] = torch.tensor([0.0, 1.0])
    if cells == 65:  # the last window is the one cell in the corner
        assert value_of(student, teacher).item() == pytest.approx(2 * (nodes - 1) / nodes**2, rel=1e-5)
    else:  # the last window's maximum is (1, 1), at 45 degrees
        assert value_of(student, teacher).item() == pytest.approx(6 * (1 - 0.5**0.5) ** 2 / 16, rel=1e-5)


def test_pool_is_read_or_refused() -> None:
    """CIRKD's pooling is fixed, so another window is an error, not a silent setting."""
    assert PairWise(weight=1, convention="cirkd").pool == 0.5
    with pytest.raises(ValidationError, match=r"got pool=0\.25"):
        PairWise(weight=1, convention="cirkd", pool=0.25)


def test_gradcheck() -> None:
    """The gradient is that of the value in CIRKD's convention, with a teacher at half the cells."""
    student = torch.randn(2, 3, 5, 4, dtype=torch.float64, requires_grad=True)
    teacher = torch.randn(2, 2, 3, 2, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda f: value_of(f, teacher, convention="cirkd"), student)


def test_gradient_skips_the_norm() -> None:
    """In SKD's convention the gradient is that of a formula whose norms are constants."""
    student = torch.rand(1, 3, 2, 2, dtype=torch.float64, requires_grad=True)
    teacher = torch.rand(1, 3, 2, 2, dtype=torch.float64)
    norm = student.detach().norm(dim=1, keepdim=True) + 1e-8
    unit_teacher = (teacher / (teacher.norm(dim=1, keepdim=True) + 1e-8)).flatten(2)

    def with_fixed_norm(feature: torch.Tensor) -> torch.Tensor:
        unit = (feature / norm).flatten(2)
        return (unit.mT @ unit - unit_teacher.mT @ unit_teacher).square().mean()

    assert torch.autograd.gradcheck(with_fixed_norm, student)
    (expected,) = torch.autograd.grad(with_fixed_norm(student), student)
    (actual,) = torch.autograd.grad(value_of(student, teacher), student)
    torch.testing.assert_close(actual, expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("case", cases("skd_pairwise", "cirkd_skd"))
def test_parity(case: Case) -> None:
    """SKD's CriterionPairWiseforWholeFeatAfterPool, CIRKD's CriterionStructuralKD."""
    student, teacher = case.input("feat_S", grad=True), case.input("feat_T")
    fields = {"pool": case.args["scale"]} if "scale" in case.args else {"convention": "cirkd"}
    value = value_of(student, teacher, **fields)
    value.backward()
    case.check(value)
    case.check_grad(student, "feat_S")
