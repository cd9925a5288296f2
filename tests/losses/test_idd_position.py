"""L_PID: what its reader learns of the teacher, against a second computation, and when it costs nothing."""

import itertools

import numpy as np
import torch

from kdtune.base import SegOutput
from kdtune.losses.idd_position import PositionInformation
from kdtune.losses.idd_position_loss import PositionInformationLoss, places
from tests.support.random_maps import NO_LABELS, maps


def fitted(student_width: int, teacher: torch.Tensor, batches: int = 2) -> PositionInformationLoss:
    """The term for a teacher that gives these features for every batch."""
    torch.manual_seed(0)
    term = PositionInformationLoss(PositionInformation(weight=1, batches=batches), student_width, teacher.shape[1])
    seen = SegOutput(teacher[:, :1], taps={"psp": teacher})
    rest = itertools.repeat((seen, NO_LABELS), batches + 1)
    term.double().before_training(rest)
    assert len(list(rest)) == 1, "no batch is made that is not looked at"
    return term


def value_of(term: PositionInformationLoss, student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    outputs = [SegOutput(feature[:, :1], taps={"psp": feature}) for feature in (student, teacher)]
    value: torch.Tensor = term(*outputs, NO_LABELS)
    return value


def test_the_reader_finds_places_that_the_features_hold() -> None:
    """Ramps down and across, mixed into noise of less than their size."""
    noise = maps(2, 6, 9, 12)
    teacher = 0.1 * noise + torch.einsum("cp,nphw->nchw", maps(6, 2, seed=1), places(noise).expand(2, -1, -1, -1))
    found = fitted(6, teacher)._read(teacher)
    assert (found - places(teacher)).square().mean() < 0.02
    assert (fitted(6, noise)._read(noise) - places(noise)).square().mean() > 0.2, "there is nothing to be found"


def test_against_least_squares_of_numpy() -> None:
    student, teacher = maps(2, 3, 4, 5, seed=1), maps(2, 4, 4, 5)
    term = fitted(3, teacher)
    cells = np.array([[*teacher[n, :, y, x].tolist(), 1.0] for n in range(2) for y in range(4) for x in range(5)])
    where = np.array([[2 * y / 3 - 1, 2 * x / 4 - 1] for _ in range(2) for y in range(4) for x in range(5)])
    ridge = np.sqrt(1e-4 * (cells**2).sum(0).mean()) * np.eye(5)
    reader = np.linalg.lstsq(np.vstack([cells, ridge]), np.vstack([where, np.zeros((5, 2))]), rcond=None)[0]
    mapped = torch.einsum("ts,nshw->nthw", term.state_dict()["adapter.weight"][:, :, 0, 0], student)
    ours = np.array([[*mapped[n, :, y, x].tolist(), 1.0] for n in range(2) for y in range(4) for x in range(5)])
    expected = ((ours @ reader - cells @ reader) ** 2).mean()
    np.testing.assert_allclose(value_of(term, student, teacher).item(), expected, rtol=1e-6)


def test_gradcheck() -> None:
    student, teacher = maps(1, 3, 3, 4, seed=1).requires_grad_(True), maps(1, 4, 3, 4)
    term = fitted(3, teacher)
    assert torch.autograd.gradcheck(lambda feature: value_of(term, feature, teacher), student)


def test_equal_features_cost_nothing_and_the_reader_stays() -> None:
    teacher = maps(2, 4, 4, 5)
    term = fitted(4, teacher)
    assert value_of(term, teacher, teacher) == 0
    assert term.trained_with_student() == []
    assert [name for name, _ in fitted(3, teacher).named_parameters()] == ["adapter.weight"]
