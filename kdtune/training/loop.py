"""The loop: one network, its loss terms, one optimiser; yields an evaluation whenever one is due. Names no loss."""

import logging
import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from kdtune import signs
from kdtune.base import Loss, LossTerm, Preprocessing, SegNet, SegOutput, Tap
from kdtune.loading.batches import Batch, train_batches
from kdtune.loading.images import Images
from kdtune.study.recipe import Recipe
from kdtune.study.trial_config import TrialConfig
from kdtune.training.compiling import compiled
from kdtune.training.energy import Bill, Spent, unmeasured
from kdtune.training.evaluation import autocast, confusion, intersection_over_union, layout
from kdtune.training.image_counts import Cells, ImageCounts, collected
from kdtune.training.loss_values import LossSums, grad_norms
from kdtune.training.teaching import Asked, Teaching
from kdtune.training.waiting import waiting

COLOURS = Preprocessing(mean=(0.0, 0.0, 0.0), std=(255.0, 255.0, 255.0))  # of ``SegOutput.image``
CHECK_EVERY = 10  # steps between looks at the loss: each look makes a GPU wait
ENDLESS = 10**9  # steps: as many as somebody asks for
TOLD_EVERY = 10.0  # seconds between two lines about a stage before training

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Evaluation:
    """One row of a trial's history. A diverged trial's last one has no mIoU."""

    step: int
    miou: float | None  # percent
    per_class_iou: list[float | None]  # percent; none where labels and predictions lack the class
    loss: float | None  # weighted sum, mean since the last evaluation
    losses: dict[str, float | None]  # unweighted, mean since the last evaluation
    grad_norms: dict[str, float | None]  # of each unweighted term over the student's parameters, at this step
    lr_now: float
    seconds: float  # spent in steps, in waiting for their batches and before the first, so far
    diverged: bool = False
    error: str | None = None  # of a diverged trial: which terms were not finite, and since when
    images: ImageCounts | None = None  # of a trial's last one


class Run:
    """Everything that changes while a trial trains; ``state_dict`` is its checkpoint."""

    def __init__(self, student: SegNet, losses: Mapping[str, Loss], recipe: Recipe) -> None:
        self.student = student
        self.losses = nn.ModuleDict(losses)
        owned = [p for loss in losses.values() for p in loss.trained_with_student()]
        self.sgd = torch.optim.SGD(
            [*student.parameters(), *owned],
            lr=recipe.lr,
            momentum=recipe.momentum,
            weight_decay=recipe.weight_decay,
        )
        self.step = 0
        self.seconds = 0.0
        self.bill = Bill()
        self.asked = Asked()

    def set_rate(self, recipe: Recipe) -> float:
        """The learning rate of this step, for the optimiser, and returned."""
        lr = poly_rate(recipe.lr, self.step, recipe.num_steps, recipe.power)
        for group in self.sgd.param_groups:
            group["lr"] = lr
        return lr

    def columns(self) -> dict[str, float | int | None]:
        """Of the trial's row: what it used, and of its teacher."""
        return self.bill.columns() | self.asked.columns(self.bill.training.kwh, self.seconds)

    def state_dict(self) -> dict[str, Any]:
        """Readable by ``torch.load(weights_only=True)``."""
        return {
            "student": self.student.state_dict(),
            "losses": self.losses.state_dict(),
            "sgd": self.sgd.state_dict(),
            "step": self.step,
            "seconds": self.seconds,
            "energy": self.bill.state_dict(),
            "teacher": asdict(self.asked),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Puts a checkpoint back."""
        self.student.load_state_dict(state["student"])
        self.losses.load_state_dict(state["losses"])
        self.sgd.load_state_dict(state["sgd"])
        self.step, self.seconds = state["step"], state["seconds"]
        if "energy" in state:  # not in those of an earlier version
            self.bill.load_state_dict(state["energy"])
        self.asked.load(state.get("teacher", {}))


def poly_rate(base: float, i: int, total: int, power: float) -> float:
    """The learning rate of step i = 1 ... total: ``base * (1 - i / total) ** power`` (Niemann et al. 2023, eq. 4)."""
    return base * math.pow(1 - i / total, power)


def fit(
    config: TrialConfig,
    run: Run,
    teaching: Teaching | None,
    train: Images,
    val: Images,
    device: torch.device,
    spent: Spent = unmeasured,
    rungs: Sequence[int] = (),
) -> Iterator[Evaluation]:
    """Trains from ``run.step`` to the end of the recipe, or until the loss is not finite (a diverged evaluation).

    ``spent``: asked around each evaluation, which ``run.bill`` tells from steps. ``rungs``: steps with one more.

    Raises:
        UserError: no validation pixel has a class; the teacher's logits do not fit their precision.
    """
    recipe, terms, due = config.recipe, config.active_losses, {*config.recipe.evaluation_steps, *rungs}
    student = _Student(config, run.student, device)
    sums = LossSums()
    used = spent()
    if recipe.num_steps == 0:
        evaluation = _evaluation(run, val, config, device, sums, {}, 0.0)
        run.bill.evaluated(used, spent(), len(val))
        yield evaluation
    elif run.step == 0:
        _before_training(config, run, teaching, train, device)
    began = time.perf_counter()
    for batch in train_batches(train, recipe, config.seed, run.step, device):
        run.step += 1
        lr = run.set_rate(recipe)
        from_teacher = _taught(teaching, run.step - 1, batch, run.asked, terms.values())
        image, target, shown = student.image(batch), batch.target, _shown(batch, terms.values())
        del batch  # its memory serves the next one
        from_student = student.output(image, config.seed * 2**32 + run.step, shown)
        values = {name: loss(from_student, from_teacher, target) for name, loss in run.losses.items()}
        total = torch.stack([terms[name].weight * value for name, value in values.items()]).sum()
        norms = grad_norms(values, run.student) if run.step in due else {}
        run.sgd.zero_grad()
        total.backward()  # type: ignore[no-untyped-call]
        run.sgd.step()
        _after_step(run, from_student, from_teacher, target, recipe)
        sums.add(run.step, total, values)
        looks = run.step in due or run.step % CHECK_EVERY == 0
        with waiting(device):
            fault = _fault(run, sums, teaching) if looks else None
        signs.stepped(run.step)
        run.seconds += time.perf_counter() - began
        if fault is not None or run.step in due:
            used = run.bill.trained(used, spent())
        if fault is not None:
            yield _diverged(run, sums, lr, fault)
            return
        if run.step in due:
            with waiting(device):
                evaluation = _evaluation(run, val, config, device, sums, norms, lr)
            used = run.bill.evaluated(used, spent(), len(val))
            yield evaluation
            sums = LossSums()
        began = time.perf_counter()  # waiting for the next batch is part of its step


class _Student:
    """The student as a step runs it: memory layout, compiled forward, taps, preprocessing."""

    def __init__(self, config: TrialConfig, network: SegNet, device: torch.device) -> None:
        self._network, self._recipe, self._device = network, config.recipe, device
        self._preprocessing = config.student.preprocessing
        self._taps = frozenset[Tap]().union(*(term.taps for term in config.active_losses.values()))
        self._layout = layout(config.recipe, device)
        network.to(memory_format=self._layout)
        self._forward = compiled(network) if config.recipe.compile else network

    def image(self, batch: Batch) -> Tensor:
        """(N, 3, H, W) as the student is fed."""
        return batch.image(self._preprocessing, self._layout)

    def output(self, image: Tensor, seed: int, shown: Tensor | None) -> SegOutput:
        """What the student makes of it, in training; ``shown``: the image for the terms."""
        torch.manual_seed(seed)  # dropout, a function of seed and step, so that to resume is exact; terms that draw
        self._network.train()
        with autocast(self._recipe, self._device):
            output: SegOutput = self._forward(image, self._taps)
        output.image = shown
        return output


def _before_training(
    config: TrialConfig, run: Run, teaching: Teaching | None, train: Images, device: torch.device
) -> None:
    """The stage before training of the terms that have one; its time counts as the trial's."""
    began = time.perf_counter()
    for name, loss in run.losses.items():
        assert isinstance(loss, Loss)
        kept, first, asked = teaching.kept if teaching else None, time.perf_counter(), replace(run.asked)
        if kept is not None and kept.found(loss, run.asked):
            continue
        torch.manual_seed(config.seed * 2**32)  # what one term draws does not depend on the others
        loss.before_training(_seen(config, run, teaching, name, train, device))
        if kept is not None:
            kept.keep(loss, asked, run.asked, time.perf_counter() - first)
    run.seconds += time.perf_counter() - began


def _seen(
    config: TrialConfig,
    run: Run,
    teaching: Teaching | None,
    name: str,
    train: Images,
    device: torch.device,
) -> Iterator[tuple[SegOutput | None, Tensor]]:
    """What ``Loss.before_training`` is given; costs nothing until it is asked."""
    term: LossTerm = config.losses[name]
    told = time.monotonic()
    for step, batch in enumerate(train_batches(train, config.recipe, config.seed, 0, device, ENDLESS)):
        signs.alive()
        if time.monotonic() - told > TOLD_EVERY:
            told = time.monotonic()
            _log.info("before training, %s has taken %d batches", name, step)
        yield _taught(teaching, step, batch, run.asked, [term], term.teacher_taps), batch.target


def _taught(
    teaching: Teaching | None,
    step: int,
    batch: Batch,
    asked: Asked,
    terms: Iterable[LossTerm],
    taps: frozenset[Tap] | None = None,
) -> SegOutput | None:
    """What the teacher makes of a batch for these terms; none without a teacher."""
    if teaching is None:
        return None
    output = teaching.outputs(step, batch, asked, taps)
    output.image = _shown(batch, terms)
    return output


def _shown(batch: Batch, terms: Iterable[LossTerm]) -> Tensor | None:
    """The image for these terms, if one of them needs it."""
    return batch.image(COLOURS) if any(term.needs_image for term in terms) else None


def _after_step(run: Run, student: SegOutput, teacher: SegOutput | None, target: Tensor, recipe: Recipe) -> None:
    for loss in run.losses.values():
        assert isinstance(loss, Loss)
        loss.after_step(student, teacher, target, run.step / recipe.num_steps)


def _fault(run: Run, sums: LossSums, teaching: Teaching | None) -> str | None:
    """Why the trial has diverged; none if it has not."""
    if teaching is not None:
        teaching.refuse_overflow()
    if not math.isfinite(float(sums.total)):
        return sums.fault() or f"the weighted sum of the losses is not finite at step {run.step}"
    if not math.isfinite(float(torch.nn.utils.get_total_norm(run.student.parameters()))):
        return f"the student's weights are not finite after step {run.step}"
    return None


def _diverged(run: Run, sums: LossSums, lr: float, fault: str) -> Evaluation:
    loss, losses = sums.means()
    return Evaluation(run.step, None, [], loss, losses, {}, lr, run.seconds, diverged=True, error=fault)


def _evaluation(
    run: Run,
    val: Images,
    config: TrialConfig,
    device: torch.device,
    sums: LossSums,
    norms: dict[str, float | None],
    lr: float,
) -> Evaluation:
    dataset, of_each = config.dataset, list[Cells]()
    last = run.step >= config.recipe.num_steps
    matrix = confusion(run.student, config.student.preprocessing, val, config.recipe, device, of_each if last else None)
    miou, per_class = intersection_over_union(matrix, config.recipe.absent_classes)
    loss, losses = sums.means()
    images = None
    if last:
        images = collected(val.names, [dataset.sequence(name) for name in val.names], of_each, dataset.num_classes)
    return Evaluation(run.step, miou, per_class, loss, losses, norms, lr, run.seconds, images=images)
