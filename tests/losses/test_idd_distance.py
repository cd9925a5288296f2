"""L_ID: against loops over classes, and what leaves it unchanged."""

import itertools

import pytest
import torch

from kdtune.base import IGNORE, SegOutput
from kdtune.losses.idd_distance import InterClassDistance
from tests.support.random_maps import labels, maps

CLASSES = 5


def value_of(student: torch.Tensor, teacher: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    logits = torch.zeros(len(student), CLASSES, *student.shape[2:])
    outputs = [SegOutput(logits, taps={"psp": feature}) for feature in (student, teacher)]
    return InterClassDistance(weight=1)(*outputs, target)


def distances(feature: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Of one image: of all pairs of its classes, as shares of their mean."""
    there = sorted(set(target.flatten().tolist()) - {IGNORE})
    mean = {c: feature[:, target == c].mean(1) for c in there}
    found = torch.stack([(mean[c] - mean[k]).norm() for c, k in itertools.combinations(there, 2)])
    return found / found.mean()


def test_against_loops() -> None:
    student, teacher, target = maps(3, 4, 4, 5), maps(3, 7, 4, 5, seed=1), labels(3, 4, 5, classes=4)
    target[2] = IGNORE
    target[2, 0] = 1  # one class: nothing to compare
    each = [(distances(student[n], target[n]) - distances(teacher[n], target[n])).square().mean() for n in range(2)]
    torch.testing.assert_close(value_of(student, teacher, target), torch.stack(each).sum() / 3)


def test_turned_shifted_and_scaled_features_cost_nothing() -> None:
    teacher, target = maps(2, 4, 4, 5), labels(2, 4, 5, classes=4)
    turn = torch.linalg.qr(maps(4, 4, seed=3)).Q
    student = 3 * torch.einsum("dc,nchw->ndhw", turn, teacher) + maps(1, 4, 1, 1, seed=2)
    assert value_of(student, teacher, target).item() == pytest.approx(0, abs=1e-20)
    assert value_of(maps(2, 4, 4, 5, seed=5), teacher, target) > 0


def test_equal_centres_have_a_gradient() -> None:
    student = torch.ones(2, 4, 4, 5, requires_grad=True)
    value_of(student, maps(2, 4, 4, 5).float(), labels(2, 4, 5, classes=4)).backward()
    assert student.grad is not None
    assert torch.isfinite(student.grad).all()


def test_gradcheck() -> None:
    teacher, target = maps(2, 3, 2, 2, seed=1), labels(2, 8, 8, classes=3)
    assert torch.autograd.gradcheck(lambda f: value_of(f, teacher, target), maps(2, 3, 4, 4).requires_grad_(True))
