"""The interface of a loss holds what published terms need: queues, trained modules, a stage before, no teacher.

The terms here are made for that, each with one need of a published method; none is registered. Each trains in the
loop, and goes on from a checkpoint as if it had never stopped.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdtune.base import IGNORE, Loss, LossTerm, SegNet, SegOutput, Tap
from kdtune.losses import LOSSES
from kdtune.records.parameters import hyperparameters
from kdtune.study.trial_config import TrialConfig
from kdtune.training import trial
from kdtune.training.loop import Run, fit
from kdtune.training.site import Site
from kdtune.training.teaching import Live
from tests.support.tiny import config, noise, teacher, through_a_file, untimed

pytestmark = pytest.mark.usefixtures("one_thread")


class Queue(LossTerm):
    """Contrast with a queue of the teacher's features, as CIRKD's memory has it: state from step to step."""

    symbol: ClassVar[str] = "L_Q"
    source: ClassVar[str] = "these tests"
    taps: ClassVar[frozenset[Tap]] = frozenset({"psp"})

    def build(self, student: SegNet, teacher: SegNet | None) -> Loss:
        assert teacher is not None
        return QueueLoss(teacher.channels["psp"])


class QueueLoss(Loss):
    entries: Tensor
    next: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("entries", F.normalize(torch.randn(5, channels)))
        self.register_buffer("next", torch.zeros((), dtype=torch.int64))

    def forward(self, student: SegOutput, teacher: SegOutput | None, target: Tensor) -> Tensor:
        assert teacher is not None
        likeness = [F.normalize(o.taps["psp"]).flatten(2).mT @ self.entries.T for o in (student, teacher)]
        return F.kl_div(likeness[0].log_softmax(2), likeness[1].log_softmax(2), log_target=True, reduction="batchmean")

    def after_step(self, student: SegOutput, teacher: SegOutput | None, target: Tensor, progress: float) -> None:
        assert teacher is not None
        for entry in F.normalize(teacher.taps["psp"].mean(dim=(2, 3))):
            self.entries[self.next] = entry
            self.next.copy_((self.next + 1) % len(self.entries))


class Perspective(LossTerm):
    """A classifier on the teacher's features, trained beside the student, as APD has it: own optimiser, labels."""

    symbol: ClassVar[str] = "L_P"
    source: ClassVar[str] = "these tests"
    needs_labels: ClassVar[bool] = True

    @property
    def teacher_taps(self) -> frozenset[Tap]:
        return frozenset({"layer3"})

    def build(self, student: SegNet, teacher: SegNet | None) -> Loss:
        assert teacher is not None
        return PerspectiveLoss(teacher.channels["layer3"], student.num_classes)


class PerspectiveLoss(Loss):
    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.view = nn.Conv2d(channels, classes, 1)
        self.optimizer = torch.optim.Adam(self.view.parameters(), lr=1e-3)

    def forward(self, student: SegOutput, teacher: SegOutput | None, target: Tensor) -> Tensor:
        assert teacher is not None
        seen = self.view(teacher.taps["layer3"]).detach().softmax(1)
        return F.cross_entropy(student.logits, seen)

    def trained_with_student(self) -> list[nn.Parameter]:
        return []

    def after_step(self, student: SegOutput, teacher: SegOutput | None, target: Tensor, progress: float) -> None:
        assert teacher is not None
        seen = F.interpolate(self.view(teacher.taps["layer3"]), size=target.shape[-2:])
        self.optimizer.zero_grad()
        F.cross_entropy(seen, target, ignore_index=IGNORE).backward()
        self.optimizer.step()

    def get_extra_state(self) -> dict[str, Any]:
        return {"optimizer": self.optimizer.state_dict()}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        self.optimizer.load_state_dict(state["optimizer"])


class Translator(LossTerm):
    """Codes of an auto-encoder that is trained first, then frozen, as KA has it; a student's adapter reaches them."""

    symbol: ClassVar[str] = "L_T"
    source: ClassVar[str] = "these tests"
    taps: ClassVar[frozenset[Tap]] = frozenset({"layer4"})
    steps: int = 3

    def build(self, student: SegNet, teacher: SegNet | None) -> Loss:
        assert teacher is not None
        return TranslatorLoss(self.steps, student.channels["layer4"], teacher.channels["layer4"])


class TranslatorLoss(Loss):
    def __init__(self, steps: int, student_width: int, teacher_width: int) -> None:
        super().__init__()
        self.steps = steps
        self.encoder, self.decoder = nn.Conv2d(teacher_width, 4, 1), nn.Conv2d(4, teacher_width, 1)
        self.adapter = nn.Conv2d(student_width, 4, 1)
        self.register_buffer("errors", torch.zeros(steps))

    def before_training(self, batches: Iterator[tuple[SegOutput | None, Tensor]]) -> None:
        optimizer = torch.optim.SGD([*self.encoder.parameters(), *self.decoder.parameters()], lr=1e-2)
        for i, (seen, _) in zip(range(self.steps), batches, strict=False):
            assert seen is not None
            feature = seen.taps["layer4"]
            error = F.mse_loss(self.decoder(F.dropout(self.encoder(feature), 0.1)), feature)
            optimizer.zero_grad()
            error.backward()
            optimizer.step()
            self.get_buffer("errors")[i] += error.detach()

    def forward(self, student: SegOutput, teacher: SegOutput | None, target: Tensor) -> Tensor:
        assert teacher is not None
        return F.l1_loss(self.adapter(student.taps["layer4"]), self.encoder(teacher.taps["layer4"]).detach())

    def trained_with_student(self) -> list[nn.Parameter]:
        return list(self.adapter.parameters())


class Rows(LossTerm):
    """Student features scored by both networks' classifiers, as FAKD reads them: weights as they are at each step."""

    symbol: ClassVar[str] = "L_R"
    source: ClassVar[str] = "these tests"
    taps: ClassVar[frozenset[Tap]] = frozenset({"psp"})

    def build(self, student: SegNet, teacher: SegNet | None) -> Loss:
        assert teacher is not None
        return RowsLoss((student.classifier, teacher.classifier))


class RowsLoss(Loss):
    def __init__(self, classifiers: tuple[nn.Conv2d, nn.Conv2d]) -> None:
        super().__init__()
        self.classifiers = classifiers  # in a tuple, so that the networks' weights do not become the term's own

    def forward(self, student: SegOutput, teacher: SegOutput | None, target: Tensor) -> Tensor:
        own, theirs = (classifier(student.taps["psp"]) for classifier in self.classifiers)
        return F.kl_div(own.log_softmax(1), theirs.log_softmax(1), log_target=True, reduction="batchmean")


class Deeper(LossTerm):
    """The student's deep layer teaches its shallow one, as SALC's layer-wise context does: no teacher."""

    symbol: ClassVar[str] = "L_D"
    source: ClassVar[str] = "these tests"
    needs_teacher: ClassVar[bool] = False
    taps: ClassVar[frozenset[Tap]] = frozenset({"layer2", "layer3"})

    def __call__(self, student: SegOutput, teacher: SegOutput | None, target: Tensor) -> Tensor:
        unit = [F.normalize(F.adaptive_avg_pool2d(student.taps[tap], 2).flatten(2), dim=1) for tap in sorted(self.taps)]
        shallow, deep = (nodes.mT @ nodes for nodes in unit)
        return F.mse_loss(shallow, deep.detach())


TERMS = {"queue": Queue, "perspective": Perspective, "translator": Translator, "rows": Rows, "deeper": Deeper}
every_term = pytest.mark.parametrize("name", TERMS)


@pytest.fixture
def with_teacher(tmp_path: Path) -> TrialConfig:
    return config({"teacher": teacher(tmp_path), "recipe.num_steps": 4, "recipe.eval_every": 1})


def using(which: TrialConfig, *names: str) -> TrialConfig:
    """With these terms beside the cross-entropy, although no study file can name them."""
    return which.model_copy(update={"losses": {**which.losses, **{name: TERMS[name](weight=0.5) for name in names}}})


def history(which: TrialConfig, saved: dict[str, Any] | None = None) -> tuple[list[Any], list[dict[str, Any]]]:
    """Every evaluation, and every checkpoint as another process would read it."""
    told, states = [], []
    for evaluation, run in trial.run(which, Site(), saved):
        told.append(untimed(evaluation))
        states.append(through_a_file(run.state_dict()))
    return told, states


def same(one: Any, other: Any) -> bool:
    """To the last bit, but for seconds."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one.keys() - {"seconds"})
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(same(a, b) for a, b in zip(one, other, strict=True))
    return torch.equal(one, other) if isinstance(one, Tensor) else bool(one == other)


@every_term
def test_trains_and_resumes_as_if_undisturbed(with_teacher: TrialConfig, name: str) -> None:
    which = using(with_teacher, name)
    told, states = history(which)
    values = [row["losses"][name] for row in told]
    assert all(value is not None for value in values)
    assert len(set(values)) == 4
    assert all(row["grad_norms"][name] > 0 for row in told)
    for step in (1, 3):
        torch.manual_seed(step)  # another process: whatever its generator stands at
        rest, last = history(which, states[step - 1])
        assert rest == told[step:]
        assert same(last[-1], states[-1])


def test_all_of_the_packages_terms_at_once_resume_as_if_undisturbed(with_teacher: TrialConfig) -> None:
    """Also with a memory that a step fills and more, and an encoder that two terms learn alike."""
    small = {"size": 20, "batches": 2, "critic_width": 0.125}
    terms = {}
    for name in LOSSES.table:
        term = LOSSES.resolve(name)
        terms[name] = term.plain(**{key: value for key, value in small.items() if key in term.model_fields})
    which = with_teacher.model_copy(update={"losses": terms})
    told, states = history(which)
    assert [name for name in terms for row in told if row["losses"][name] is None] == []
    torch.manual_seed(1)
    rest, last = history(which, states[1])
    assert rest == told[2:]
    assert same(last[-1], states[-1])
    learnt, pair = states[-1]["losses"], ("ka_adaptation", "ka_affinity")
    encoders = [{key: value for key, value in learnt.items() if key.startswith(f"{name}.encoder.")} for name in pair]
    assert encoders[0]
    assert all(torch.equal(*both) for both in zip(*(each.values() for each in encoders), strict=True))


def test_terms_do_not_disturb_each_other(with_teacher: TrialConfig) -> None:
    """A first step has the same value of a term whichever others are there, their stage before training included."""
    together, _ = history(using(with_teacher, *TERMS))
    for name in TERMS:
        alone, _ = history(using(with_teacher, name))
        assert alone[0]["losses"][name] == together[0]["losses"][name]


def test_the_stage_before_training_runs_once(with_teacher: TrialConfig) -> None:
    """Its loss falls, it is in the first checkpoint, frozen afterwards, and neither repeated nor redone on resume."""
    which = using(with_teacher, "translator")
    _, states = history(which)
    errors = states[0]["losses"]["translator.errors"]
    assert (errors > 0).all()
    assert errors[-1] < errors[0]
    _, resumed = history(which, states[1])
    for state in (states[-1], resumed[-1]):
        for key in ("errors", "encoder.weight", "decoder.weight"):
            assert torch.equal(state["losses"][f"translator.{key}"], states[0]["losses"][f"translator.{key}"])
    first, last = (states[i]["losses"]["translator.adapter.weight"] for i in (0, -1))
    assert not torch.equal(first, last)


def test_a_term_that_reads_a_classifier_does_not_own_it(with_teacher: TrialConfig) -> None:
    _, states = history(using(with_teacher, "rows"))
    assert states[-1]["losses"] == {}


class Asked(SegNet):
    """Notes which taps it is asked for."""

    def __init__(self, network: SegNet) -> None:
        super().__init__()
        self.network, self.asked = network, set[frozenset[Tap]]()
        self.num_classes, self.channels, self.classifier = network.num_classes, network.channels, network.classifier

    def forward(self, image: Tensor, taps: frozenset[Tap] = frozenset()) -> SegOutput:
        self.asked.add(taps)
        return self.network(image, taps)


@pytest.mark.parametrize(
    ("names", "student_taps", "teacher_taps"),
    [
        ((), set(), None),
        (("deeper",), {"layer2", "layer3"}, None),
        (("perspective",), set(), {"layer3"}),
        (("perspective", "deeper", "queue"), {"layer2", "layer3", "psp"}, {"layer3", "psp"}),
    ],
)
def test_nothing_is_computed_that_no_term_declares(
    with_teacher: TrialConfig, names: tuple[str, ...], student_taps: set[Tap], teacher_taps: set[Tap] | None
) -> None:
    """Each network keeps its own terms' taps; without a term that needs it, there is no teacher at all."""
    which, split = using(with_teacher, *names), noise([(32, 48)] * 4)
    assert which.uses_teacher == (teacher_taps is not None)
    student, other = (Asked(which.student.build(12)) for _ in range(2))
    used = other.eval().requires_grad_(False) if which.uses_teacher else None
    losses = {name: term.build(student, used) for name, term in which.active_losses.items()}
    cpu = torch.device("cpu")
    taught = Live(which, lambda: other, cpu) if which.uses_teacher else None
    evaluation = next(fit(which, Run(student, losses, which.recipe), taught, split, split, cpu))
    assert evaluation.losses.keys() == {"ce", *names}
    assert student.asked == {frozenset(student_taps), frozenset()}  # none in the evaluation
    assert other.asked == (set() if teacher_taps is None else {frozenset(teacher_taps)})


def test_a_term_without_teacher_is_a_method_with_a_column(with_teacher: TrialConfig) -> None:
    """Self-distillation needs no teacher, and is yet not the student alone."""
    which = using(with_teacher, "deeper")
    assert which.method == "deeper"
    assert hyperparameters(which)["lambda_deeper"] == 0.5
