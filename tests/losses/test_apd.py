"""L_AP and L_PR: against loops, what the teacher's adapter learns, and whose weights move."""

import copy

import pytest
import torch
from torch import Tensor

from kdtune.base import IGNORE, SegOutput
from kdtune.losses.apd_kl import PerspectiveKl
from kdtune.losses.apd_loss import PerspectiveKlLoss, PerspectiveLoss, PrototypeAlignmentLoss
from kdtune.losses.apd_prototype import PrototypeAlignment
from tests.support.random_maps import labels, maps

CLASSES = 4


def both(**fields: float) -> list[PerspectiveLoss]:
    """The two terms with the same adapters, for widths 3 and 5."""
    terms: list[PerspectiveLoss] = []
    for loss, config in ((PerspectiveKlLoss, PerspectiveKl), (PrototypeAlignmentLoss, PrototypeAlignment)):
        torch.manual_seed(0)
        terms.append(loss(config(weight=1, **fields), 3, 5).double())
    return terms


def scene() -> tuple[SegOutput, SegOutput, Tensor]:
    """Labels at the cells' size of three of the four classes."""
    student, teacher = maps(2, 3, 4, 5), maps(2, 5, 4, 5, seed=1)
    logits = maps(2, CLASSES, 4, 5, seed=2)
    return SegOutput(logits, {"psp": student}), SegOutput(logits, {"psp": teacher}), labels(2, 4, 5, classes=3)


def by_loops(network: torch.nn.Module, feature: Tensor, target: Tensor) -> tuple[dict[tuple[int, ...], Tensor], Tensor]:
    """Of each cell its unit vector, and the prototypes (3, 5) of the classes that are there."""
    made = network(feature).detach()
    places = [tuple(each) for each in torch.cartesian_prod(*(torch.arange(s) for s in target.shape)).tolist()]
    cells = {(n, y, x): made[n, :, y, x] / made[n, :, y, x].norm() for n, y, x in places}
    means = [torch.stack([cells[each] for each in places if target[each] == k]).mean(0) for k in range(3)]
    return cells, torch.stack([mean / mean.norm() for mean in means])


def test_against_loops() -> None:
    kl, alignment = both()
    student, teacher, target = scene()
    ours = by_loops(kl.student_adapter, student.taps["psp"], target)
    theirs = by_loops(kl.teacher_adapter, teacher.taps["psp"], target)
    total = 0.0
    for place in ours[0]:
        rows = [(10 * prototypes @ cells[place]).softmax(0) for cells, prototypes in (ours, theirs)]
        total += float((rows[1] * (rows[1] / rows[0]).log()).sum()) / target.numel()
    assert kl(student, teacher, target).item() == pytest.approx(total, rel=1e-9)
    apart = sum(float(1 - a @ b) for a, b in zip(ours[1], theirs[1], strict=True)) / 6
    assert alignment(student, teacher, target).item() == pytest.approx(apart, rel=1e-9)


def test_the_adapter_learns_to_tell_the_classes_apart() -> None:
    """Its loss, of classes that can be told apart, falls; a class without a cell counts nowhere."""
    term = both(adapter_lr=1e-2)[0]
    student, teacher, target = scene()
    feature, before = teacher.taps["psp"], copy.deepcopy(term.state_dict())
    feature[:, 0] += 5 * (target == 1)
    cells, prototypes = by_loops(term.teacher_adapter, feature, target)
    logs = {place: (10 * prototypes @ cell).log_softmax(0) for place, cell in cells.items() if target[place] != IGNORE}
    expected = -sum(float(log[target[place]]) for place, log in logs.items()) / len(logs)
    first = term.adapters_loss(feature, target, CLASSES).item()
    assert first == pytest.approx(expected, rel=1e-9)
    for _ in range(20):
        term.after_step(student, teacher, target, 0.5)
    assert term.adapters_loss(feature, target, CLASSES).item() < 0.9 * first
    assert all(p.grad is None and not p.requires_grad for p in term.teacher_adapter.parameters())
    for key, value in term.student_adapter.state_dict().items():
        assert torch.equal(value, before[f"student_adapter.{key}"]), "the student's is the student's optimiser's"
    large = target.repeat_interleave(8, 1).repeat_interleave(8, 2)
    large[0, 0, 1] = 3  # a pixel of a class that no cell shows
    assert torch.isfinite(term.adapters_loss(feature, large, CLASSES))
    assert term.adapters_loss(feature, large, CLASSES) < 100


def test_the_rate_is_the_terms_own() -> None:
    term = both()[0]
    term.after_step(*scene(), 0.9)
    assert [(g["lr"], g["betas"]) for g in term.optimizer.param_groups] == [(1e-5, (0.9, 0.99))]


def test_equal_views_cost_nothing() -> None:
    for term in both():
        _, teacher, target = scene()
        term.student_adapter = term.teacher_adapter
        assert term(teacher, teacher, target).item() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("number", [0, 1])
def test_gradcheck(number: int) -> None:
    term, (student, teacher, target) = both()[number], scene()

    def value_of(feature: Tensor) -> Tensor:
        value: Tensor = term(SegOutput(student.logits, {"psp": feature}), teacher, target)
        return value

    assert torch.autograd.gradcheck(value_of, student.taps["psp"].requires_grad_(True))
