"""The loop: one network, its loss terms, one optimiser; yields an evaluation whenever one is due. Names no loss."""

import contextlib
import math
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch._functorch.config
from torch import Tensor, nn

from kdtune import signs
from kdtune.base import Loss, SegNet, SegOutput, Tap
from kdtune.filesystem import home
from kdtune.loading.batches import Batch, train_batches
from kdtune.loading.images import Images
from kdtune.study.recipe import Recipe
from kdtune.study.trial_config import TrialConfig
from kdtune.training.energy import Bill, Spent, unmeasured
from kdtune.training.evaluation import autocast, confusion, intersection_over_union
from kdtune.training.image_counts import Cells, ImageCounts, collected
from kdtune.training.loss_values import LossSums, grad_norms

COMPILED = "TORCHINDUCTOR_CACHE_DIR"  # where torch keeps what it compiled, and loads it from

CHECK_EVERY = 10  # steps between looks at the loss: each look makes a GPU wait


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

    def set_rate(self, recipe: Recipe) -> float:
        """The learning rate of this step, for the optimiser, and returned."""
        lr = poly_rate(recipe.lr, self.step, recipe.num_steps, recipe.power)
        for group in self.sgd.param_groups:
            group["lr"] = lr
        return lr

    def state_dict(self) -> dict[str, Any]:
        """Readable by ``torch.load(weights_only=True)``."""
        return {
            "student": self.student.state_dict(),
            "losses": self.losses.state_dict(),
            "sgd": self.sgd.state_dict(),
            "step": self.step,
            "seconds": self.seconds,
            "energy": self.bill.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Puts a checkpoint back."""
        self.student.load_state_dict(state["student"])
        self.losses.load_state_dict(state["losses"])
        self.sgd.load_state_dict(state["sgd"])
        self.step, self.seconds = state["step"], state["seconds"]
        if "energy" in state:  # not in those of an earlier version
            self.bill.load_state_dict(state["energy"])


def poly_rate(base: float, i: int, total: int, power: float) -> float:
    """The learning rate of step i = 1 ... total: ``base * (1 - i / total) ** power`` (Niemann et al. 2023, eq. 4)."""
    return base * math.pow(1 - i / total, power)


def fit(
    config: TrialConfig,
    run: Run,
    teacher: SegNet | None,
    train: Images,
    val: Images,
    device: torch.device,
    spent: Spent = unmeasured,
) -> Iterator[Evaluation]:
    """Trains from ``run.step`` to the end of the recipe, or until the loss is not finite (a diverged evaluation).

    ``spent``: asked before and after each evaluation, so that ``run.bill`` tells steps from evaluations.
    """
    recipe, terms, due = config.recipe, config.active_losses, set(config.recipe.evaluation_steps)
    networks = _Networks(config, run.student, teacher, device)
    sums = LossSums()
    used = spent()
    if recipe.num_steps == 0:
        evaluation = _evaluation(run, val, config, device, sums, {}, 0.0)
        run.bill.evaluated(used, spent(), len(val))
        yield evaluation
    elif run.step == 0:
        _before_training(config, run, networks, train, device)
    began = time.perf_counter()
    for batch in train_batches(train, recipe, config.seed, run.step, device):
        run.step += 1
        lr = run.set_rate(recipe)
        torch.manual_seed(config.seed * 2**32 + run.step)  # dropout: a function of seed and step, so resume is exact
        images, target = networks.images(batch), batch.target
        del batch  # its memory serves the next one
        from_student, from_teacher = networks.outputs(*images)
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
            fault = _fault(run, sums) if looks else None
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


@contextlib.contextmanager
def waiting(device: torch.device) -> Iterator[None]:
    """Where a GPU may be waited for; ``kdtune bench gpu`` makes any other wait within the loop an error."""
    if device.type != "cuda":
        yield
        return
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("default")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)


class _Networks:
    """Student and teacher as a step runs them: memory layout, compiled forward, taps, each with its preprocessing."""

    def __init__(self, config: TrialConfig, student: SegNet, teacher: SegNet | None, device: torch.device) -> None:
        recipe, terms = config.recipe, config.active_losses.values()
        self._student, self._teacher, self._recipe, self._device = student, teacher, recipe, device
        self._taps = frozenset[Tap]().union(*(term.taps for term in terms))
        self._teacher_taps = frozenset[Tap]().union(*(term.teacher_taps for term in terms))
        self._layout = (
            torch.channels_last if recipe.channels_last and device.type == "cuda" else torch.contiguous_format
        )
        if teacher is not None:
            teacher.to(memory_format=self._layout)
        student.to(memory_format=self._layout)
        self._forward = compiled(student) if recipe.compile else student
        self._preprocessing = config.student.preprocessing
        of_teacher = config.teacher.model.preprocessing if config.teacher else self._preprocessing
        self._teacher_preprocessing = self._preprocessing if teacher is None else of_teacher

    def images(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The batch (N, 3, H, W) as the student and as the teacher is fed; one tensor where both are fed alike."""
        image = batch.image(self._preprocessing).to(memory_format=self._layout)
        return image, image if self._teacher_preprocessing == self._preprocessing else self._for_teacher(batch)

    def _for_teacher(self, batch: Batch) -> Tensor:
        return batch.image(self._teacher_preprocessing).to(memory_format=self._layout)

    def outputs(self, image: Tensor, for_teacher: Tensor) -> tuple[SegOutput, SegOutput | None]:
        """What both make of it; the teacher without gradients, none where there is no teacher."""
        self._student.train()
        with autocast(self._recipe, self._device):
            from_student = self._forward(image, self._taps)
        return from_student, self._of_teacher(for_teacher, self._teacher_taps)

    def taught(self, batch: Batch, taps: frozenset[Tap]) -> SegOutput | None:
        """What the teacher alone makes of a batch."""
        return None if self._teacher is None else self._of_teacher(self._for_teacher(batch), taps)

    def _of_teacher(self, image: Tensor, taps: frozenset[Tap]) -> SegOutput | None:
        if self._teacher is None:
            return None
        with torch.no_grad(), autocast(self._recipe, self._device):
            return self._teacher(image, taps)


def compiled(network: SegNet) -> Any:
    """The network's compiled forward, made once per network."""
    if not hasattr(network, "kdtune_compiled"):
        if COMPILED not in os.environ:  # torch's own choice is a name in /tmp that another user can take before
            os.environ[COMPILED] = str(home.private(f"and compiled code is kept there: set {COMPILED}") / "compiled")
        torch._functorch.config.donated_buffer = False  # ``grad_norms`` goes back through the graph more than once
        # bypasses nn.Module's registration: the compiled twin must not enter the state dict
        object.__setattr__(network, "kdtune_compiled", torch.compile(network))
    return network.kdtune_compiled


def _before_training(config: TrialConfig, run: Run, networks: _Networks, train: Images, device: torch.device) -> None:
    """The stage before training of the terms that have one; its time counts as the trial's."""
    began = time.perf_counter()
    for name, loss in run.losses.items():
        assert isinstance(loss, Loss)
        torch.manual_seed(config.seed * 2**32)  # what one term draws does not depend on the others
        loss.before_training(_seen(config, networks, config.losses[name].teacher_taps, train, device))
    run.seconds += time.perf_counter() - began


def _seen(
    config: TrialConfig, networks: _Networks, taps: frozenset[Tap], train: Images, device: torch.device
) -> Iterator[tuple[SegOutput | None, Tensor]]:
    """What ``Loss.before_training`` is given; costs nothing until it is asked."""
    for batch in train_batches(train, config.recipe, config.seed, 0, device):
        signs.alive()
        yield networks.taught(batch, taps), batch.target


def _after_step(run: Run, student: SegOutput, teacher: SegOutput | None, target: Tensor, recipe: Recipe) -> None:
    for loss in run.losses.values():
        assert isinstance(loss, Loss)
        loss.after_step(student, teacher, target, run.step / recipe.num_steps)


def _fault(run: Run, sums: LossSums) -> str | None:
    """Why the trial has diverged; none if it has not."""
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
