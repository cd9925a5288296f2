"""L_PI: by hand, between its conventions, and against SKD's, IFVD's and CIRKD's code."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from kdtune.base import SegOutput
from kdtune.losses.pixel_wise import PixelWise
from tests.support.golden import Case, cases

TARGET = torch.zeros(1, 1, 1, dtype=torch.long)


def value_of(student: torch.Tensor, teacher: torch.Tensor, **fields: Any) -> torch.Tensor:
    """The term with these fields on these logits."""
    return PixelWise(weight=1, **fields)(SegOutput(student), SegOutput(teacher), TARGET)


def test_by_hand() -> None:
    """Two cells: student even, teacher 1 to 3 (at tau 2 from logits 2 log 3), then both even."""
    student = torch.zeros(1, 2, 1, 2)
    teacher = torch.tensor([[0.0, 0.0], [2 * math.log(3), 0.0]]).reshape(1, 2, 1, 2)
    divergence = 0.25 * math.log(0.25 / 0.5) + 0.75 * math.log(0.75 / 0.5)
    assert value_of(student, teacher, temperature=2.0).item() == pytest.approx(4 * divergence / 2, rel=1e-6)


def test_equal_networks() -> None:
    """A student that equals its teacher costs nothing; in SKD's convention the teacher's entropy per cell."""
    logits = torch.zeros(3, 4, 2, 2)
    assert value_of(logits, logits.clone()).item() == pytest.approx(0, abs=1e-7)
    assert value_of(logits, logits.clone(), convention="skd").item() == pytest.approx(3 * math.log(4), rel=1e-6)


@pytest.mark.parametrize("tau", [1.0, 4.0])
def test_conventions(tau: float) -> None:
    """The factors on the gradient that the docstring states: N for SKD, which has no tau, 1 / (K tau^2) for IFVD."""
    teacher, factors = torch.randn(4, 19, 3, 5), {"cirkd": 1.0, "ifvd": 1 / (19 * tau**2)}
    factors |= {"skd": 4.0} if tau == 1 else {}
    student = torch.randn(4, 19, 3, 5, requires_grad=True)
    (paper,) = torch.autograd.grad(value_of(student, teacher, temperature=tau), student)
    for convention, factor in factors.items():
        value = value_of(student, teacher, temperature=tau, convention=convention)
        (grad,) = torch.autograd.grad(value, student)
        torch.testing.assert_close(grad, factor * paper, rtol=1e-4, atol=1e-7)


def test_a_temperature_that_the_convention_has_not_is_refused() -> None:
    with pytest.raises(ValueError, match="convention skd has no temperature: leave it out, got temperature=4"):
        PixelWise(weight=1, convention="skd", temperature=4.0)


@pytest.mark.parametrize(("convention", "tau"), [("paper", 3.0), ("skd", 1.0), ("ifvd", 3.0), ("cirkd", 3.0)])
def test_gradcheck(convention: str, tau: float) -> None:
    """The gradient is that of the value, with a teacher at half the cells."""
    student = torch.randn(2, 3, 4, 4, dtype=torch.float64, requires_grad=True)
    teacher = torch.randn(2, 3, 2, 2, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda z: value_of(z, teacher, convention=convention, temperature=tau), student)


def test_enlarged_logits_of_a_teacher_of_another_stride() -> None:
    """Each goes from its own stride to the labels' size; the mean is over pixels."""
    student, teacher = torch.randn(2, 3, 4, 6), torch.randn(2, 3, 2, 3)
    target = torch.zeros(2, 16, 24, dtype=torch.long)
    large = [F.interpolate(z, (16, 24), mode="bilinear", align_corners=True) for z in (student, teacher)]
    found = PixelWise(weight=1, upsample=True)(SegOutput(student), SegOutput(teacher), target)
    torch.testing.assert_close(found, value_of(*large))


def test_a_term_that_enlarges_nothing_is_the_term_of_before() -> None:
    """Trials of studies from before the field was there keep their ids."""
    assert PixelWise(weight=1).model_dump() == {"weight": 1, "temperature": 1, "convention": "paper"}
    assert PixelWise(weight=1, upsample=True).model_dump()["upsample"] is True


@pytest.mark.parametrize("case", cases("skd_pixelwise", "ifvd_kd", "cirkd_kd"))
def test_parity(case: Case) -> None:
    """SKD's CriterionPixelWise, IFVD's and CIRKD's CriterionKD."""
    student, teacher = case.input("logits_S", grad=True), case.input("logits_T")
    upsample = bool(case.args.get("upsample"))
    height, width = student.shape[-2:]
    target = torch.zeros(len(student), 8 * height, 8 * width, dtype=torch.long)
    tau, convention = case.args.get("temperature", 1.0), case.id.split("_")[0]
    term = PixelWise(weight=1, convention=convention, temperature=tau, upsample=upsample)
    value = term(SegOutput(student), SegOutput(teacher), target)
    value.backward()
    case.check(value)
    case.check_grad(student, "logits_S")
