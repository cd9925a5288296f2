"""L_FitNet: by hand, its adapter, and against CIRKD's code."""

import pytest
import torch

from kdtune.base import SegOutput
from kdtune.losses.feature_mse import FeatureMse
from kdtune.losses.feature_mse_loss import FeatureMseLoss
from tests.support.golden import Case, cases

TARGET = torch.zeros(1, 1, 1, dtype=torch.long)


def value_of(term: FeatureMseLoss, student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """The term on these features."""
    outputs = [SegOutput(feature[:, :1], taps={term.term.tap: feature}) for feature in (student, teacher)]
    value: torch.Tensor = term(*outputs, TARGET)
    return value


def with_adapter(weight: list[list[float]], tap: str = "psp") -> FeatureMseLoss:
    """The term with this adapter, (C_T, C_S)."""
    matrix = torch.tensor(weight)
    term = FeatureMseLoss(FeatureMse(weight=1, tap=tap), matrix.shape[1], matrix.shape[0])
    term.adapter.load_state_dict({"weight": matrix[:, :, None, None]})
    return term


def test_by_hand() -> None:
    """Two cells of one channel, put through (1, 2), against two channels: errors 0, 1, 3, 0 of four values."""
    student = torch.tensor([[1.0, 2.0]]).reshape(1, 1, 1, 2)
    teacher = torch.tensor([[1.0, 1.0], [5.0, 4.0]]).reshape(1, 2, 1, 2)
    for tap in ("psp", "layer2"):
        assert value_of(with_adapter([[1.0], [2.0]], tap), student, teacher).item() == pytest.approx((1 + 9) / 4)


def test_a_student_that_the_adapter_maps_to_the_teacher_costs_nothing() -> None:
    student = torch.randn(2, 2, 3, 3)
    assert value_of(with_adapter([[0.0, 1.0], [1.0, 0.0]]), student, student.flip(1)).item() == 0


def test_the_adapter_is_there_for_equal_widths_and_learns() -> None:
    term = FeatureMseLoss(FeatureMse(weight=1), 3, 3)
    (weight,) = term.trained_with_student()
    value_of(term, torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)).backward()
    assert weight.grad is not None
    assert weight.grad.abs().min() > 0


def test_gradcheck() -> None:
    """The gradient is that of the value, in the features and in the adapter, with a teacher at half the cells."""
    term = FeatureMseLoss(FeatureMse(weight=1), 2, 3).double()
    teacher = torch.randn(2, 3, 2, 2, dtype=torch.float64)

    def value(student: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        outputs = [SegOutput(feature[:, :1], taps={"psp": feature}) for feature in (student, teacher)]
        found: torch.Tensor = torch.func.functional_call(term, {"adapter.weight": weight}, (*outputs, TARGET))
        return found

    inputs = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in ((2, 2, 4, 4), (3, 2, 1, 1))]
    assert torch.autograd.gradcheck(value, inputs)


@pytest.mark.parametrize("case", cases("cirkd_fitnet"))
def test_parity(case: Case) -> None:
    """CIRKD's CriterionFitNet."""
    student = case.input("feat_S", grad=True)
    term = FeatureMseLoss(FeatureMse(weight=1), case.args["s_channels"], case.args["t_channels"]).double()
    term.adapter.load_state_dict({"weight": torch.from_numpy(case.arrays["state.conv.weight"])})
    value = value_of(term, student, case.input("feat_T"))
    value.backward()
    case.check(value)
    case.check_grad(student, "feat_S")
