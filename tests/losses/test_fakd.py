"""L_FAKD: its statistics, its bound, against loops, and the classifier that it needs."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from kdtune.base import IGNORE, SegNet, SegOutput, Tap, UserError
from kdtune.losses.channel_wise import ChannelWise
from kdtune.losses.channel_wise_loss import ChannelWiseLoss
from kdtune.losses.fakd import FeatureAugmented
from kdtune.losses.fakd_loss import FeatureAugmentedLoss
from kdtune.models.external import ExternalModel
from kdtune.study.trial_config import TrialConfig
from tests.support import tiny
from tests.support.random_maps import labels, maps

CLASSES, WIDTH = 3, 4


class Classifier(SegNet):
    """Nothing but its last layer."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.num_classes, self.channels = CLASSES, {"psp": WIDTH}
        self.classifier = nn.Conv2d(WIDTH, CLASSES, 1)

    def after(self, tap: Tap, feature: Tensor) -> Tensor:
        logits: Tensor = self.classifier(feature)
        return logits


def built(**fields: float) -> tuple[Classifier, FeatureAugmentedLoss]:
    student = Classifier().double()
    return student, FeatureAugmentedLoss(FeatureAugmented(weight=1, **fields), student).double()


def output(student: Classifier, feature: Tensor) -> SegOutput:
    return SegOutput(student.after("psp", feature), taps={"psp": feature})


def test_statistics_are_those_of_all_cells_so_far() -> None:
    student, term = built()
    seen: list[list[list[float]]] = [[] for _ in range(CLASSES)]
    for step in range(3):
        feature, target = maps(2, WIDTH, 4, 5, seed=step), labels(2, 4, 5, classes=2 + (step > 0), seed=step)
        term.after_step(output(student, feature), None, target, 0.1 * step)
        for n, y, x in np.ndindex(2, 4, 5):
            if target[n, y, x] != IGNORE:
                seen[target[n, y, x]].append(feature[n, :, y, x].tolist())
    assert term.count.tolist() == [len(each) for each in seen]
    for k, cells in enumerate(seen):
        np.testing.assert_allclose(term.mean[k].numpy(), np.mean(cells, axis=0), rtol=1e-9)
        np.testing.assert_allclose(term.covariance[k].numpy(), np.cov(np.array(cells).T, bias=True), atol=1e-12)
    assert term.progress == 0.2


def test_against_loops() -> None:
    tau, strength = 2.0, 0.7
    student, term = built(temperature=tau, strength=strength)
    feature, teacher, target = maps(2, WIDTH, 4, 5), maps(2, CLASSES, 4, 5, seed=1), labels(2, 4, 5, classes=CLASSES)
    term.after_step(output(student, 2 * feature), None, target, 0.5)
    weight, total = student.classifier.weight.detach()[:, :, 0, 0], 0.0
    for n, c in np.ndindex(2, CLASSES):
        logits = student.after("psp", feature)[n, c].flatten().tolist()
        of_teacher = (teacher[n, c].flatten() / tau).softmax(0).tolist()
        moved = []
        for z, y in zip(logits, target[n].flatten().tolist(), strict=True):
            spread = 0.0 if y == IGNORE else float(weight[c] @ term.covariance[y] @ weight[c])
            moved.append(math.exp(z / tau + 0.5 * strength / (2 * tau**2) * spread))
        pairs = zip(of_teacher, logits, strict=True)
        total += tau**2 * (sum(p * (math.log(p) - z / tau) for p, z in pairs) + math.log(sum(moved)))
    value = term(output(student, feature), SegOutput(teacher), target)
    assert value.item() == pytest.approx(total / (2 * CLASSES), rel=1e-9)


def channel_wise(logits: Tensor, teacher: Tensor) -> float:
    term = ChannelWiseLoss(ChannelWise(weight=1), CLASSES, CLASSES)
    value: Tensor = term(SegOutput(logits), SegOutput(teacher), torch.zeros(1, 1, 1))
    return value.item()


def test_a_bound_of_the_mean_over_moved_features() -> None:
    """First it is L_CWD; then above what L_CWD is in the mean when features are drawn, and near it."""
    student, term = built(strength=1.0)
    feature, teacher, target = maps(2, WIDTH, 4, 5), maps(2, CLASSES, 4, 5, seed=1), labels(2, 4, 5, classes=CLASSES)
    made = output(student, feature)
    assert term(made, SegOutput(teacher), target).item() == pytest.approx(channel_wise(made.logits, teacher), rel=1e-9)
    term.after_step(made, None, target, 1.0)
    noise = torch.distributions.MultivariateNormal(torch.zeros(WIDTH).double(), term.covariance + 1e-9 * torch.eye(4))
    cells = target.clamp(max=CLASSES - 1)
    values = []
    for _ in range(300):
        drawn = noise.sample((2, 4, 5)).gather(3, cells[..., None, None].expand(-1, -1, -1, 1, WIDTH))[..., 0, :]
        moved = feature + (drawn * (target != IGNORE)[..., None]).permute(0, 3, 1, 2)
        values.append(channel_wise(student.after("psp", moved), teacher))
    mean, bound = float(np.mean(values)), term(made, SegOutput(teacher), target).item()
    assert mean < bound < 1.5 * mean
    assert channel_wise(made.logits, teacher) < mean


def test_the_gradient_flows_into_the_classifier() -> None:
    student, term = built()
    feature, teacher, target = maps(1, WIDTH, 3, 4), maps(1, CLASSES, 3, 4, seed=1), labels(1, 3, 4, classes=CLASSES)
    term.after_step(output(student, feature), None, target, 1.0)

    def value_of(feature: Tensor, weight: Tensor) -> Tensor:
        term.networks = (SimpleNamespace(classifier=SimpleNamespace(weight=weight)),)
        logits = torch.einsum("kcyx,nchw->nkhw", weight, feature)
        found: Tensor = term(SegOutput(logits, taps={"psp": feature}), SegOutput(teacher), target)
        return found

    weight = student.classifier.weight.detach().clone().requires_grad_(True)
    assert torch.autograd.gradcheck(value_of, (feature.requires_grad_(True), weight))
    assert list(term.parameters()) == []


def study(**fields: object) -> TrialConfig:
    student = {"name": "external", "builder": "tests.models.test_external:Small", "output": "main", **fields}
    teacher = {"model": tiny.NETWORK, "checkpoint": "teacher.safetensors"}
    return tiny.config({"student": student, "teacher": teacher, "losses": {"fakd": {"weight": 1}}})


def test_a_study_names_the_classifier_or_it_is_found() -> None:
    for named in (study(taps={"psp": "second"}, classifier="last"), study(taps={"psp": "second"})):
        assert isinstance(named.student, ExternalModel)
        FeatureAugmented(weight=1).build(named.student.build(CLASSES), None)
    other = study(taps={"psp": "first"}, classifier="last").student
    with pytest.raises(UserError, match="does not read 'psp'"):
        FeatureAugmented(weight=1).build(other.build(CLASSES), None)
