"""L_CWD: by hand, its divisors, and against TorchDistiller's and CIRKD's code."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from kdtune.base import SegOutput
from kdtune.losses.channel_wise import ChannelWise
from kdtune.losses.channel_wise_loss import ChannelWiseLoss
from tests.support.golden import Case, cases

TARGET = torch.zeros(1, 1, 1, dtype=torch.long)


def built(student: torch.Tensor, teacher: torch.Tensor, **fields: Any) -> ChannelWiseLoss:
    """The term for maps of these widths, in float64."""
    return ChannelWiseLoss(ChannelWise(weight=1, **fields), student.shape[1], teacher.shape[1]).double()


def value_of(student: torch.Tensor, teacher: torch.Tensor, **fields: Any) -> torch.Tensor:
    """The term with these fields on these logits."""
    value: torch.Tensor = built(student, teacher, **fields)(SegOutput(student), SegOutput(teacher), TARGET)
    return value


def test_by_hand() -> None:
    """Two channels of two cells; one is even in the student and 1 to 3 (at tau 2) in the teacher, one is equal."""
    student = torch.zeros(1, 2, 1, 2)
    teacher = torch.tensor([[0.0, 2 * math.log(3)], [5.0, 5.0]]).reshape(1, 2, 1, 2)
    divergence = 0.25 * math.log(0.25 / 0.5) + 0.75 * math.log(0.75 / 0.5)
    assert value_of(student, teacher, temperature=2.0).item() == pytest.approx(4 * divergence / 2, rel=1e-6)
    squares = value_of(student, teacher, temperature=2.0, divergence="mse")
    assert squares.item() == pytest.approx(4 * (0.25**2 + 0.25**2) / 2, rel=1e-6)


@pytest.mark.parametrize("divergence", ["kl", "mse"])
@pytest.mark.parametrize("over", ["cells", "channels"])
def test_equal_networks(divergence: str, over: str) -> None:
    """A student that equals its teacher costs nothing; nor does one that differs by a constant along the softmax."""
    teacher = torch.randn(2, 3, 4, 5, dtype=torch.float64)
    student = teacher + torch.randn(2, 3, 1, 1) if over == "cells" else teacher + torch.randn(2, 1, 4, 5)
    student.requires_grad_(True)
    value = value_of(student, teacher, divergence=divergence, normalise_over=over)
    value.backward()
    assert value.item() == pytest.approx(0, abs=1e-12)
    assert student.grad is not None
    assert student.grad.abs().max() < 1e-12


def test_over_channels_is_pixel_wise() -> None:
    """The same distribution per cell, mean over cells, tau squared."""
    student, teacher = torch.randn(2, 5, 3, 4), torch.randn(2, 5, 3, 4)
    p, q = ((z / 3).log_softmax(1) for z in (student, teacher))
    expected = 9 * F.kl_div(p, q, log_target=True, reduction="sum") / (2 * 3 * 4)
    actual = value_of(student, teacher, normalise_over="channels", temperature=3.0)
    torch.testing.assert_close(actual, expected)


def test_conventions_differ_by_the_widths() -> None:
    """CIRKD divides by the student's 2 channels, the paper by the 6 that are compared."""
    student, teacher = torch.randn(1, 2, 3, 3), torch.randn(1, 6, 3, 3)
    values = []
    for convention in ("paper", "cirkd"):
        torch.manual_seed(0)
        term = built(student, teacher, tap="psp", convention=convention).float()
        outputs = [SegOutput(z[:, :1], taps={"psp": z}) for z in (student, teacher)]
        values.append(term(*outputs, TARGET).item())
    assert values[1] == pytest.approx(3 * values[0], rel=1e-5)


def test_adapter_only_where_the_widths_differ() -> None:
    """Without one there is nothing to train or save."""
    maps = [torch.zeros(1, width, 2, 2) for width in (3, 3, 4)]
    assert built(*maps[:2]).trained_with_student() == []
    (weight,) = built(*maps[1:], tap="psp").trained_with_student()
    assert weight.shape == (4, 3, 1, 1)
    assert ChannelWise(weight=1).taps == frozenset()
    assert ChannelWise(weight=1, tap="layer4").taps == {"layer4"}


@pytest.mark.parametrize("divergence", ["kl", "mse"])
@pytest.mark.parametrize("over", ["cells", "channels"])
def test_gradcheck(divergence: str, over: str) -> None:
    """The gradient is that of the value, with a teacher at half the cells."""
    student = torch.randn(2, 3, 4, 4, dtype=torch.float64, requires_grad=True)
    teacher = torch.randn(2, 3, 2, 2, dtype=torch.float64)
    fields: dict[str, Any] = {"divergence": divergence, "normalise_over": over}
    assert torch.autograd.gradcheck(lambda z: value_of(z, teacher, **fields), student)


def test_gradcheck_of_the_adapter() -> None:
    """It is trained with the student: the gradient of its weight is that of the value."""
    student, teacher = torch.randn(2, 2, 3, 3).double(), torch.randn(2, 3, 3, 3).double()
    term = built(student, teacher, tap="psp")
    outputs = [SegOutput(z[:, :1], taps={"psp": z}) for z in (student, teacher)]

    def value(weight: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = torch.func.functional_call(term, {"adapter.weight": weight}, (*outputs, TARGET))
        return found

    assert torch.autograd.gradcheck(value, torch.randn(3, 2, 1, 1, dtype=torch.float64, requires_grad=True))


def test_far_apart_logits_stay_finite() -> None:
    """The published code takes the log of a softmax, which underflows here."""
    student, teacher = torch.zeros(1, 1, 1, 2), torch.zeros(1, 1, 1, 2)
    student[..., 0], teacher[..., 1] = 500.0, 500.0
    assert value_of(student, teacher, temperature=1.0).item() == pytest.approx(500, rel=1e-6)


# Left out: cwd_none_mse reads the first image of the batch only, and channel_mean compares no distributions.
SOUND = [case for case in cases("cwd") if not str(case.id).startswith(("cwd_none", "cwd_channelmean"))]


@pytest.mark.parametrize("case", SOUND)
def test_parity_torch_distiller(case: Case) -> None:
    """TorchDistiller's CriterionCWD, whose tau stays 1 with mse."""
    over = {"channel": "cells", "spatial": "channels"}[case.args["norm_type"]]
    tau = 1.0 if case.args["divergence"] == "mse" else case.args["temperature"]
    student = case.input("x_S", grad=True)
    fields = {"normalise_over": over, "divergence": case.args["divergence"], "temperature": tau}
    value = value_of(student, case.input("x_T"), **fields)
    value.backward()
    case.check(value)
    case.check_grad(student, "x_S")


def test_a_convention_without_an_average_over_channels_is_refused() -> None:
    with pytest.raises(ValueError, match="with normalise_over: channels there is none: leave one of them out"):
        ChannelWise(weight=1, convention="cirkd", normalise_over="channels")


@pytest.mark.parametrize("case", cases("cirkd_cwd"))
def test_parity_cirkd(case: Case) -> None:
    """CIRKD's CriterionCWD, with its adapter where the widths differ."""
    name = "logits" if "in.logits_S" in case.arrays else "feat"
    student, teacher = case.input(f"{name}_S", grad=True), case.input(f"{name}_T")
    over = {"channel": "cells", "spatial": "channels"}[case.args["norm_type"]]
    tap = "logits" if name == "logits" else "psp"
    divided = {} if over == "channels" else {"convention": "cirkd"}
    term = built(student, teacher, tap=tap, normalise_over=over, **divided)
    assert term.term.temperature == case.args["temperature"]
    if tap == "psp":
        term.adapter.load_state_dict({"weight": torch.from_numpy(case.arrays["state.conv.weight"])})
    value = term(SegOutput(student, {"psp": student}), SegOutput(teacher, {"psp": teacher}), TARGET)
    value.backward()
    case.check(value)
    case.check_grad(student, f"{name}_S")
