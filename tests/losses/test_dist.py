"""L_DIST: against loops and NumPy's correlations, what leaves it unchanged."""

import numpy as np
import pytest
import torch

from kdtune.base import SegOutput
from kdtune.losses.dist import Dist
from tests.support.random_maps import NO_LABELS, maps


def value_of(student: torch.Tensor, teacher: torch.Tensor, **fields: float) -> torch.Tensor:
    return Dist(weight=1, **fields)(SegOutput(student), SegOutput(teacher), NO_LABELS)


def naive(student: torch.Tensor, teacher: torch.Tensor, beta: float, gamma: float, tau: float) -> float:
    """A loop over cells and one over classes."""
    ours, theirs = ((z / tau).softmax(1).numpy() for z in (student, teacher))
    images, classes, height, width = ours.shape
    places = [(n, slice(None), y, x) for n in range(images) for y in range(height) for x in range(width)]
    cells = np.mean([np.corrcoef(ours[place], theirs[place])[0, 1] for place in places])
    over = np.mean([np.corrcoef(ours[:, c].ravel(), theirs[:, c].ravel())[0, 1] for c in range(classes)])
    return float(beta * (1 - cells) + gamma * (1 - over))


@pytest.mark.parametrize(("beta", "gamma", "tau"), [(1.0, 1.0, 1.0), (2.0, 0.0, 4.0), (0.0, 0.5, 1.0)])
def test_against_loops(beta: float, gamma: float, tau: float) -> None:
    student, teacher = maps(2, 5, 3, 4), maps(2, 5, 3, 4, seed=1)
    value = value_of(student, teacher, beta=beta, gamma=gamma, temperature=tau)
    assert value.item() == pytest.approx(naive(student, teacher, beta, gamma, tau), rel=1e-6)


def test_a_scale_and_a_shift_of_the_probabilities_cost_nothing() -> None:
    """As the paper asks of a relation: here p^S = 0.1 + 0.5 p^T, of five classes."""
    teacher = maps(2, 5, 3, 4)
    student = (0.1 + 0.5 * teacher.softmax(1)).log()
    assert value_of(teacher, teacher).item() == pytest.approx(0, abs=1e-6)
    assert value_of(student, teacher).item() == pytest.approx(0, abs=1e-6)


def test_the_auxiliary_heads_count_as_much_as_they_are_given() -> None:
    heads = [SegOutput(maps(2, 5, 3, 4, seed=i), taps={"aux": maps(2, 5, 3, 4, seed=9 + i)}) for i in (0, 1)]
    term = Dist(weight=1, aux_weight=0.4)
    assert term.taps == term.teacher_taps == {"aux"}
    alone = [value_of(*(pick(head) for head in heads)) for pick in (lambda h: h.logits, lambda h: h.taps["aux"])]
    torch.testing.assert_close(term(*heads, NO_LABELS), alone[0] + 0.4 * alone[1])


def test_gradcheck() -> None:
    teacher = maps(2, 3, 2, 2, seed=1)
    assert torch.autograd.gradcheck(lambda z: value_of(z, teacher), maps(2, 3, 4, 4).requires_grad_(True))
