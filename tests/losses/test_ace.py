"""L_ACE: against a loop over pixels, and its two limits."""

import pytest
import torch

from kdtune.base import IGNORE, SegOutput
from kdtune.losses.ace import AdaptiveCrossEntropy
from kdtune.losses.cross_entropy import CrossEntropy
from tests.support.random_maps import labels, maps


def value_of(student: torch.Tensor, teacher: torch.Tensor, target: torch.Tensor, **fields: bool) -> torch.Tensor:
    return AdaptiveCrossEntropy(weight=1, **fields)(SegOutput(student), SegOutput(teacher), target)


def test_against_a_loop() -> None:
    student, teacher, target = maps(2, 3, 4, 5), maps(2, 3, 4, 5, seed=1), labels(2, 4, 5, classes=3)
    values, right = [], 0
    for n, y, x in torch.cartesian_prod(*(torch.arange(size) for size in target.shape)).tolist():
        label = int(target[n, y, x])
        if label != IGNORE:
            log_q, p = student[n, :, y, x].log_softmax(0), teacher[n, :, y, x].softmax(0)
            agrees = int(p.argmax()) == label
            right += agrees
            values.append(float(-(p * log_q).sum() if agrees else -log_q[label]))
    assert 0 < right < len(values) < target.numel()
    assert value_of(student, teacher, target).item() == pytest.approx(sum(values) / len(values), rel=1e-7)


def test_a_teacher_that_is_never_right_leaves_the_cross_entropy() -> None:
    student, target = maps(2, 3, 4, 5), labels(2, 16, 20, classes=2)
    never = torch.zeros(2, 3, 4, 5, dtype=torch.float64)
    never[:, 2] = 1  # a class that no label is
    torch.testing.assert_close(
        value_of(student, never, target), CrossEntropy(weight=1)(SegOutput(student), None, target)
    )


def test_the_labels_can_come_to_the_cells() -> None:
    student, teacher, target = maps(2, 3, 4, 5), maps(2, 3, 4, 5, seed=1), labels(2, 4, 5, classes=3)
    large = target.repeat_interleave(8, 1).repeat_interleave(8, 2)
    torch.testing.assert_close(value_of(student, teacher, large, upsample=False), value_of(student, teacher, target))


def test_gradcheck() -> None:
    teacher, target = maps(2, 3, 2, 2, seed=1), labels(2, 8, 8, classes=3)
    assert torch.autograd.gradcheck(lambda z: value_of(z, teacher, target), maps(2, 3, 4, 4).requires_grad_(True))


def test_of_two_equal_classes_either_is_right() -> None:
    student, teacher = maps(1, 3, 1, 2), torch.tensor([1.0, 1.0, 0.0], dtype=torch.float64).view(1, 3, 1, 1)
    value = value_of(student, teacher.expand(1, 3, 1, 2).clone(), torch.tensor([[[0, 1]]]))
    soft = -(teacher.softmax(1) * student.log_softmax(1)).sum() / 2
    torch.testing.assert_close(value, soft)
