"""L_MGD: against a second computation with its mask, what the mask hides, and what it learns."""

import copy

import pytest
import torch
import torch.nn.functional as F

from kdtune.base import SegOutput
from kdtune.losses.mgd import MaskedGeneration
from kdtune.losses.mgd_loss import MaskedGenerationLoss
from tests.support.random_maps import NO_LABELS, maps


def built(student_width: int, teacher_width: int, **fields: float) -> MaskedGenerationLoss:
    torch.manual_seed(0)
    return MaskedGenerationLoss(MaskedGeneration(weight=1, **fields), student_width, teacher_width).double()


def value_of(term: MaskedGenerationLoss, student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    outputs = [SegOutput(feature[:, :1], taps={"layer4": feature}) for feature in (student, teacher)]
    value: torch.Tensor = term(*outputs, NO_LABELS)
    return value


@pytest.mark.parametrize("widths", [(2, 3), (3, 3)])
def test_against_a_second_computation(widths: tuple[int, int]) -> None:
    """Convolutions as sums over shifted maps; the mask from a copy of the term's generator."""
    term, student, teacher = built(*widths), maps(2, widths[0], 4, 5), maps(2, widths[1], 4, 5, seed=1)
    student.requires_grad_(True)
    drawn = torch.rand((2, 1, 4, 5), generator=copy.deepcopy(term.generator)) >= 0.75

    def convolved(values: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        side = weight.shape[-1]
        padded = F.pad(values, [side // 2] * 4)
        found = bias[None, :, None, None]
        for y in range(side):
            for x in range(side):
                found = found + torch.einsum("oi,nihw->nohw", weight[:, :, y, x], padded[:, :, y : y + 4, x : x + 5])
        return found

    state = term.state_dict()
    values = (
        student if widths[0] == widths[1] else convolved(student, *(state[f"adapter.{k}"] for k in ("weight", "bias")))
    )
    values = convolved(values * drawn, *(state[f"generation.0.{k}"] for k in ("weight", "bias"))).clamp(min=0)
    values = convolved(values, *(state[f"generation.2.{k}"] for k in ("weight", "bias")))
    expected = torch.stack([(values[n] - teacher[n]).square().sum() for n in range(2)]).sum() / teacher.numel()
    found = value_of(term, student, teacher)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=0)
    slopes = [torch.autograd.grad(each, student)[0] for each in (found, expected)]
    torch.testing.assert_close(*slopes, rtol=1e-9, atol=1e-12)


def test_masked_cells_are_not_seen_and_each_step_has_its_own_mask() -> None:
    term, student, teacher = built(3, 3), maps(4, 3, 16, 16), maps(4, 3, 16, 16, seed=1)
    hidden = []
    for _ in range(2):
        feature = student.clone().requires_grad_(True)
        value_of(term, feature, teacher).backward()
        assert feature.grad is not None
        hidden.append((feature.grad == 0).all(1))
        assert float(hidden[-1].double().mean()) == pytest.approx(0.75, abs=0.05)
        assert len({tuple(each.flatten().tolist()) for each in hidden[-1]}) == 4, "a mask for each image"
    assert not torch.equal(*hidden)


def test_adapter_and_generator_learn_and_nothing_is_masked_at_0() -> None:
    term = built(2, 3, masked=0.0)
    teacher, student = maps(2, 3, 6, 6), maps(2, 2, 6, 6, seed=1)
    optimizer = torch.optim.Adam(term.trained_with_student(), lr=1e-2)
    first = value_of(term, student, teacher).item()
    for _ in range(20):
        optimizer.zero_grad()
        value_of(term, student, teacher).backward()
        optimizer.step()
    assert value_of(term, student, teacher).item() < first
    assert torch.equal(value_of(term, student, teacher), value_of(term, student, teacher))
