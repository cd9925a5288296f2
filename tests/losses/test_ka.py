"""L_adapt and L_aff: what their encoder learns, against loops, and what stays as it was learnt."""

import copy
import itertools
import math

import pytest
import torch
from torch import Tensor

from kdtune.base import SegOutput
from kdtune.losses.ka_adaptation import KnowledgeAdaptation
from kdtune.losses.ka_affinity import KnowledgeAffinity
from kdtune.losses.ka_loss import AdaptationLoss, Autoencoder, KnowledgeAdaptationLoss, KnowledgeAffinityLoss, learn
from tests.support.random_maps import NO_LABELS, maps


def output(feature: Tensor) -> SegOutput:
    return SegOutput(feature[:, :1], taps={"layer4": feature})


def adaptation(**fields: float) -> KnowledgeAdaptationLoss:
    torch.manual_seed(0)
    return KnowledgeAdaptationLoss(KnowledgeAdaptation(weight=1, **fields), 3, 6).double()


def affinity(**fields: float) -> KnowledgeAffinityLoss:
    torch.manual_seed(0)
    return KnowledgeAffinityLoss(KnowledgeAffinity(weight=1, **fields), 3, 6).double()


def taught(term: AdaptationLoss, teacher: Tensor, seed: int = 5) -> AdaptationLoss:
    """After the stage before training, as a trial of this seed has it."""
    torch.manual_seed(seed)
    term.before_training(itertools.repeat((output(teacher), NO_LABELS)))
    return term


def test_the_encoder_learns_what_the_teacher_can_be_made_of_again() -> None:
    """The error falls, also of maps that it has not seen; as many batches are made as are asked for."""
    torch.manual_seed(0)
    mixing, learner = maps(6, 2, seed=1), Autoencoder(6, 6).double()
    teachers = [torch.einsum("ch,nhyx->ncyx", mixing, maps(4, 2, 5, 4, seed=seed)) for seed in range(9)]
    *shown, unseen = [each.repeat_interleave(2, 2).repeat_interleave(2, 3)[:, :, :9] for each in teachers]
    errors = []
    for _ in range(3):
        learn(learner, itertools.cycle(shown), KnowledgeAffinity(weight=1, batches=40))
        encoded, decoded = learner(unseen)
        assert encoded.shape == (4, 6, 5, 4)
        errors.append(float((decoded - unseen).square().mean().detach() / unseen.square().mean()))
    assert errors[2] < 0.8 * errors[0]
    assert errors[2] < 0.5
    batches = itertools.repeat((output(unseen), NO_LABELS), 5)
    adaptation(batches=3).before_training(batches)
    assert len(list(batches)) == 2


def test_a_step_of_the_encoder_against_its_formula() -> None:
    """SGD down the mean square of what is lost, and ``sparsity`` times the sum of each image's encoding."""
    torch.manual_seed(0)
    learner, feature = Autoencoder(3, 2).double(), maps(2, 3, 5, 4)
    before = {name: value.detach().clone().requires_grad_(True) for name, value in learner.named_parameters()}
    encoded, decoded = torch.func.functional_call(copy.deepcopy(learner), before, (feature,))
    lost = sum((decoded[n] - feature[n]).square().sum() for n in range(2)) / feature.numel()
    sparse = sum(encoded[n].sum() for n in range(2)) / 2
    slopes = torch.autograd.grad(lost + 0.3 * sparse, list(before.values()))
    learn(learner, iter([feature]), KnowledgeAffinity(weight=1, batches=1, encoder_lr=0.05, sparsity=0.3))
    for (name, value), slope in zip(before.items(), slopes, strict=True):
        expected = value - 0.05 * (slope + 1e-4 * value)
        torch.testing.assert_close(learner.get_parameter(name).detach(), expected.detach(), rtol=1e-9, atol=1e-12)


def test_both_terms_of_a_trial_learn_the_same_encoder() -> None:
    teacher = maps(2, 6, 9, 9)
    states = [taught(term, teacher).encoder.state_dict() for term in (adaptation(batches=2), affinity(batches=2))]
    other = taught(affinity(batches=2), teacher, seed=6).encoder.state_dict()
    for key, value in states[0].items():
        assert torch.equal(value, states[1][key]), key
    assert not torch.equal(states[0]["0.weight"], other["0.weight"])


def test_the_encoder_stays() -> None:
    """Its statistics too, though the trial trains."""
    teacher = maps(2, 6, 9, 9)
    term = taught(adaptation(batches=2), teacher)
    before = {key: value.clone() for key, value in term.encoder.state_dict().items()}
    term.train()
    term(output(maps(2, 3, 9, 9, seed=1)), output(teacher), NO_LABELS).backward()
    assert {id(p) for p in term.trained_with_student()} == {id(p) for p in term.parameters() if p.grad is not None}
    for key, value in term.encoder.state_dict().items():
        assert torch.equal(value, before[key]), key


def cells_of(feature: Tensor) -> list[list[Tensor]]:
    """Of each image, unit vectors; zeros stay, as a ReLU may leave them."""
    return [[cell / max(float(cell.norm()), 1e-12) for cell in image.flatten(1).T] for image in feature.detach()]


def test_adaptation_against_loops() -> None:
    student, teacher = maps(2, 3, 5, 4, seed=1), maps(2, 6, 9, 7)  # 5 x 4 cells are those of the encoding
    term = taught(adaptation(batches=2), teacher)
    pair = zip(cells_of(term.adapter(student)), cells_of(term.encoder(teacher)), strict=True)
    total = sum(float((u - v).abs().sum()) for ours, theirs in pair for u, v in zip(ours, theirs, strict=True))
    assert term(output(student), output(teacher), NO_LABELS).item() == pytest.approx(total / 40, rel=1e-9)


def test_affinity_against_loops() -> None:
    student, teacher = maps(2, 3, 5, 4, seed=1), maps(2, 6, 9, 7)
    term = taught(affinity(batches=2), teacher)
    roots = []
    for ours, theirs in zip(cells_of(term.adapter(student)), cells_of(term.encoder(teacher)), strict=True):
        pairs = itertools.product(range(20), range(20))
        roots.append(math.sqrt(sum(float(ours[i] @ ours[j] - theirs[i] @ theirs[j]) ** 2 for i, j in pairs) / 400))
    value = term(output(student), output(teacher), NO_LABELS)
    assert value.item() == pytest.approx(sum(roots) / 2, rel=1e-9)
    fewer = taught(affinity(batches=2, cells=2), teacher)
    assert fewer(output(student), output(teacher), NO_LABELS) != value


def test_equal_maps_cost_nothing_and_have_a_gradient() -> None:
    encoded = maps(2, 3, 4, 4).relu().requires_grad_(True)
    for term in (adaptation(), affinity()):
        value = term.compared(encoded, encoded.detach())
        value.backward()
        assert value == 0
        assert encoded.grad is not None
        assert torch.isfinite(encoded.grad).all()


def test_gradcheck() -> None:
    teacher = maps(2, 6, 5, 5)
    for term in (adaptation(batches=2), affinity(batches=2, cells=2)):

        def value_of(feature: Tensor, term: AdaptationLoss = term) -> Tensor:
            value: Tensor = term(output(feature), output(teacher), NO_LABELS)
            return value

        taught(term, teacher)
        assert torch.autograd.gradcheck(value_of, maps(2, 3, 3, 3, seed=1).requires_grad_(True))
