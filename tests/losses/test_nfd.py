"""L_NFD: against loops, and that scales and shifts are nothing to it."""

import pytest
import torch

from kdtune.base import SegOutput
from kdtune.losses.nfd import NormalisedFeatures
from kdtune.losses.nfd_loss import NormalisedFeaturesLoss
from tests.support.random_maps import NO_LABELS, maps

over = pytest.mark.parametrize("axis", ["cells", "channels"])


def value_of(student: torch.Tensor, teacher: torch.Tensor, axis: str, weight: torch.Tensor) -> torch.Tensor:
    """The term whose adapter is ``weight`` (C_T, C_S)."""
    term = NormalisedFeaturesLoss(NormalisedFeatures(weight=1, normalise_over=axis), *reversed(weight.shape)).double()
    term.adapter.load_state_dict({"weight": weight[:, :, None, None]})
    outputs = [SegOutput(feature[:, :1], taps={"psp": feature}) for feature in (student, teacher)]
    value: torch.Tensor = term(*outputs, NO_LABELS)
    return value


def normalised(values: torch.Tensor) -> torch.Tensor:
    return (values - values.mean()) / (values.var(correction=0) + 1e-5).sqrt()


@over
def test_against_loops(axis: str) -> None:
    student, teacher, weight = maps(2, 3, 4, 5), maps(2, 4, 4, 5, seed=1), maps(4, 3, seed=2)
    mapped = torch.einsum("ts,nshw->nthw", weight, student)
    total = 0.0
    for n in range(2):
        if axis == "cells":
            pairs = [(mapped[n, c], teacher[n, c]) for c in range(4)]
        else:
            pairs = [(mapped[n, :, y, x], teacher[n, :, y, x]) for y in range(4) for x in range(5)]
        total += sum(float((normalised(one) - normalised(other)).square().sum()) for one, other in pairs)
    assert value_of(student, teacher, axis, weight).item() == pytest.approx(total / teacher.numel(), rel=1e-7)


def test_size_and_offset_of_a_channel_cost_nothing() -> None:
    """The key idea of the paper: magnitudes are not to be imitated."""
    teacher = maps(2, 3, 9, 9)
    student = 7 + 3 * teacher
    assert value_of(student, teacher, "cells", torch.eye(3, dtype=torch.float64)).item() == pytest.approx(0, abs=1e-9)
    assert value_of(maps(2, 3, 40, 40), maps(2, 3, 40, 40, seed=3), "cells", torch.eye(3).double()).item() == (
        pytest.approx(2, abs=0.1)
    )


@over
def test_gradcheck(axis: str) -> None:
    teacher, weight = maps(2, 3, 2, 2, seed=1), maps(3, 2, seed=2)
    assert torch.autograd.gradcheck(
        lambda feature: value_of(feature, teacher, axis, weight), maps(2, 2, 4, 4).requires_grad_(True)
    )
