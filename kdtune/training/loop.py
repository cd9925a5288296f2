"""The loop: one network, its loss terms, one optimiser; yields an evaluation whenever one is due. Names no loss."""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
import torch._functorch.config
import torch.nn.functional as F
from torch import Tensor, nn

from kdtune.base import IGNORE, Loss, Preprocessing, SegNet, SegOutput, Tap
from kdtune.loading.batches import MAX_PIXELS, normalise, train_batches, validation_batches
from kdtune.loading.images import Images
from kdtune.study.spec import Recipe, TrialConfig
from kdtune.training.energy import Bill, Spent, unmeasured

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


@dataclass
class _Sums:
    """Sums of loss values since the last evaluation; kept on the device, so that adding does not wait for it."""

    steps: int = 0
    total: Tensor | float = 0.0
    names: list[str] = field(default_factory=list)
    terms: Tensor | float = 0.0  # one sum per name
    broken: Tensor | None = None  # the first step at which each was not finite; 0: none

    def add(self, step: int, total: Tensor, values: Mapping[str, Tensor]) -> None:
        self.steps += 1
        self.total = self.total + total.detach()
        self.names = list(values)
        each = torch.stack([value.detach() for value in values.values()])
        self.terms = self.terms + each
        if self.broken is None:
            self.broken = torch.zeros(len(each), dtype=torch.int64, device=each.device)
        self.broken = torch.where(~torch.isfinite(each) & (self.broken == 0), step, self.broken)

    def means(self) -> tuple[float | None, dict[str, float | None]]:
        sums = self.terms.tolist() if isinstance(self.terms, Tensor) else []
        per_step = {name: _finite(value / self.steps) for name, value in zip(self.names, sums, strict=True)}
        return _finite(float(self.total) / self.steps) if self.steps else None, per_step

    def fault(self) -> str | None:
        """Which terms were the first that were not finite; none if all are."""
        since = [] if self.broken is None else self.broken.tolist()
        first = min((step for step in since if step), default=0)
        if not first:
            return None
        names = [f"losses.{name}" for name, step in zip(self.names, since, strict=True) if step == first]
        told = f"{', '.join(names)} {'is' if len(names) == 1 else 'are'} not finite at step {first}"
        if len(names) == len(self.names) > 1:
            told += ", all at once: the weights were not finite any more"
        elif len(names) < len(self.names):
            told += f"; {', '.join(f'losses.{name}' for name in self.names if f'losses.{name}' not in names)} still was"
        return told


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


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
    recipe, terms = config.recipe, config.active_losses
    taps = frozenset[Tap]().union(*(term.taps for term in terms.values()))
    teacher_taps = frozenset[Tap]().union(*(term.teacher_taps for term in terms.values()))
    due = set(recipe.evaluation_steps)
    layout = torch.channels_last if recipe.channels_last and device.type == "cuda" else torch.contiguous_format
    if teacher is not None:
        teacher.to(memory_format=layout)
    run.student.to(memory_format=layout)
    forward = compiled(run.student) if recipe.compile else run.student
    teacher_preprocessing = config.teacher.model.preprocessing if config.teacher else config.student.preprocessing
    same_image = teacher is None or teacher_preprocessing == config.student.preprocessing
    sums = _Sums()
    used = spent()
    if recipe.num_steps == 0:
        evaluation = _evaluation(run, val, config, device, sums, {}, 0.0)
        run.bill.evaluated(used, spent(), len(val))
        yield evaluation
    elif run.step == 0:
        _before_training(config, run, teacher, train, device)
    began = time.perf_counter()
    for batch in train_batches(train, recipe, config.seed, run.step, device):
        run.step += 1
        lr = poly_rate(recipe.lr, run.step, recipe.num_steps, recipe.power)
        for group in run.sgd.param_groups:
            group["lr"] = lr
        torch.manual_seed(config.seed * 2**32 + run.step)  # dropout: a function of seed and step, so resume is exact
        image = batch.image(config.student.preprocessing).to(memory_format=layout)
        for_teacher = image if same_image else batch.image(teacher_preprocessing).to(memory_format=layout)
        target = batch.target
        del batch  # its memory serves the next one
        run.student.train()
        with autocast(recipe, device):
            from_student = forward(image, taps)
            from_teacher = None
            if teacher is not None:
                with torch.no_grad():
                    from_teacher = teacher(for_teacher, teacher_taps)
        values = {name: loss(from_student, from_teacher, target) for name, loss in run.losses.items()}
        total = torch.stack([terms[name].weight * value for name, value in values.items()]).sum()
        norms = grad_norms(values, run.student) if run.step in due else {}
        run.sgd.zero_grad()
        total.backward()  # type: ignore[no-untyped-call]
        run.sgd.step()
        _after_step(run, from_student, from_teacher, target, recipe)
        sums.add(run.step, total, values)
        looked = run.step in due or run.step % CHECK_EVERY == 0
        fault = _fault(run, sums) if looked else None  # waits for the device
        run.seconds += time.perf_counter() - began
        if fault is not None or run.step in due:
            used = run.bill.trained(used, spent())
        if fault is not None:
            yield _diverged(run, sums, lr, fault)
            return
        if run.step in due:
            evaluation = _evaluation(run, val, config, device, sums, norms, lr)
            used = run.bill.evaluated(used, spent(), len(val))
            yield evaluation
            sums = _Sums()
        began = time.perf_counter()  # waiting for the next batch is part of its step


def autocast(recipe: Recipe, device: torch.device) -> AbstractContextManager[Any]:
    """bf16 on a GPU if the recipe allows it; float32 elsewhere."""
    on = recipe.bf16 and device.type == "cuda"
    return torch.autocast("cuda", dtype=torch.bfloat16) if on else nullcontext()


def compiled(network: SegNet) -> Any:
    """The network's compiled forward, made once per network."""
    if not hasattr(network, "kdtune_compiled"):
        torch._functorch.config.donated_buffer = False  # ``grad_norms`` goes back through the graph more than once
        # bypasses nn.Module's registration: the compiled twin must not enter the state dict
        object.__setattr__(network, "kdtune_compiled", torch.compile(network))
    return network.kdtune_compiled


def _before_training(
    config: TrialConfig, run: Run, teacher: SegNet | None, train: Images, device: torch.device
) -> None:
    """The stage before training of the terms that have one; its time counts as the trial's."""
    began = time.perf_counter()
    for name, loss in run.losses.items():
        assert isinstance(loss, Loss)
        torch.manual_seed(config.seed * 2**32)  # what one term draws does not depend on the others
        loss.before_training(_seen(config, teacher, config.losses[name].teacher_taps, train, device))
    run.seconds += time.perf_counter() - began


def _seen(
    config: TrialConfig, teacher: SegNet | None, taps: frozenset[Tap], train: Images, device: torch.device
) -> Iterator[tuple[SegOutput | None, Tensor]]:
    """What ``Loss.before_training`` is given; costs nothing until it is asked."""
    for batch in train_batches(train, config.recipe, config.seed, 0, device):
        from_teacher = None
        if teacher is not None and config.teacher is not None:
            with torch.no_grad(), autocast(config.recipe, device):
                from_teacher = teacher(batch.image(config.teacher.model.preprocessing), taps)
        yield from_teacher, batch.target


def _after_step(run: Run, student: SegOutput, teacher: SegOutput | None, target: Tensor, recipe: Recipe) -> None:
    for loss in run.losses.values():
        assert isinstance(loss, Loss)
        loss.after_step(student, teacher, target, run.step / recipe.num_steps)


def _fault(run: Run, sums: _Sums) -> str | None:
    """Why the trial has diverged; none if it has not."""
    if not math.isfinite(float(sums.total)):
        return sums.fault() or f"the weighted sum of the losses is not finite at step {run.step}"
    if not math.isfinite(float(torch.nn.utils.get_total_norm(run.student.parameters()))):
        return f"the student's weights are not finite after step {run.step}"
    return None


def grad_norms(values: Mapping[str, Tensor], student: SegNet) -> dict[str, float | None]:
    """Euclidean norm of each unweighted term's gradient over all of the student's parameters."""
    parameters = [p for p in student.parameters() if p.requires_grad]
    norms = {}
    for name, value in values.items():
        grads = torch.autograd.grad(value, parameters, retain_graph=True, allow_unused=True)
        squares = [grad.float().square().sum() for grad in grads if grad is not None]
        norms[name] = _finite(float(torch.stack(squares).sum().sqrt())) if squares else 0.0
    return norms


def _diverged(run: Run, sums: _Sums, lr: float, fault: str) -> Evaluation:
    loss, losses = sums.means()
    return Evaluation(run.step, None, [], loss, losses, {}, lr, run.seconds, diverged=True, error=fault)


def _evaluation(
    run: Run,
    val: Images,
    config: TrialConfig,
    device: torch.device,
    sums: _Sums,
    norms: dict[str, float | None],
    lr: float,
) -> Evaluation:
    matrix = confusion(run.student, config.student.preprocessing, val, config.recipe, device)
    miou, per_class = intersection_over_union(matrix, config.recipe.absent_classes)
    loss, losses = sums.means()
    return Evaluation(run.step, miou, per_class, loss, losses, norms, lr, run.seconds)


@torch.no_grad()
def confusion(
    network: SegNet, preprocessing: Preprocessing, val: Images, recipe: Recipe, device: torch.device
) -> Tensor:
    """One confusion matrix (K, K) int64 over all images: rows are labels, columns predictions; ``IGNORE`` is dropped.

    Logits are upsampled to the label's size (bilinear, align_corners=True) before the argmax, as SKD does.
    """
    network.eval()
    classes = network.num_classes
    counts = torch.zeros(classes * classes + 1, dtype=torch.int64, device=device)  # the last: what is ignored

    def logits_of(image: Tensor) -> Tensor:
        with autocast(recipe, device):
            return network(image).logits.float()

    for pixels, target in validation_batches(val, recipe.eval_batch_size, device):
        image = normalise(pixels, preprocessing)
        logits = logits_of(image) if recipe.eval_window is None else sliding(logits_of, image, recipe.eval_window)
        for each, label in zip(logits, target, strict=True):  # one by one: K values per pixel are most of the memory
            # (H, W); on a processor ``argmax`` takes eight times as long for the same
            predicted = enlarged(each[None], label.shape).max(dim=1).indices[0]
            pairs = torch.where(label == IGNORE, classes * classes, label * classes + predicted)
            counts += torch.bincount(pairs.flatten(), minlength=len(counts))
    return counts[:-1].view(classes, classes)


def enlarged(logits: Tensor, size: Sequence[int]) -> Tensor:
    """Logits (n, K, h, w) at ``size``: bilinear, align_corners=True."""
    return F.interpolate(logits, size=tuple(size), mode="bilinear", align_corners=True)


def sliding(logits_of: Callable[[Tensor], Tensor], image: Tensor, window: tuple[int, int]) -> Tensor:
    """Logits (n, K, H, W) of images, each pixel's the plain mean over the tiles that hold it.

    Tiles lie two thirds of the window's height apart, in both directions, the last ones at the border; an image smaller
    than the window is padded with 0. Each tile's logits are enlarged to the window. Source: SKD, ``predict_sliding``.
    """
    size = image.shape[-2:]
    image = F.pad(image, (0, max(0, window[1] - size[1]), 0, max(0, window[0] - size[0])))
    stride = math.ceil(window[0] * 2 / 3)
    rows, columns = (
        [min(i * stride, whole - tile) for i in range(math.ceil((whole - tile) / stride) + 1)]
        for whole, tile in zip(image.shape[-2:], window, strict=True)
    )
    tiles = [
        (i, np.s_[:, y : y + window[0], x : x + window[1]]) for i in range(len(image)) for y in rows for x in columns
    ]
    total, count = torch.zeros(()), image.new_zeros(image.shape[-2:])
    at_once = max(1, MAX_PIXELS // (window[0] * window[1]))  # as many pixels as a batch of whole images may have
    for first in range(0, len(tiles), at_once):
        chosen = tiles[first : first + at_once]
        logits = enlarged(logits_of(torch.stack([image[i][where] for i, where in chosen])), window)
        if first == 0:
            total = logits.new_zeros(len(image), logits.shape[1], *image.shape[-2:])
        for (i, where), each in zip(chosen, logits, strict=True):
            total[i][where] += each
    for y in rows:
        for x in columns:
            count[y : y + window[0], x : x + window[1]] += 1
    return total.div_(count)[..., : size[0], : size[1]]


def intersection_over_union(matrix: Tensor, absent: Literal["skip", "zero"]) -> tuple[float, list[float | None]]:
    """Mean and per-class IoU in percent of a confusion matrix.

    A class absent from labels and predictions alike has none and leaves the mean ("skip"), or counts as 0 ("zero", as
    in the code of SKD, IFVD, CIRKD and semseg).
    """
    matrix = matrix.double().cpu()
    hits = matrix.diag()
    union = matrix.sum(0) + matrix.sum(1) - hits
    iou = [
        100 * float(h / u) if u > 0 else (0.0 if absent == "zero" else None) for h, u in zip(hits, union, strict=True)
    ]
    present = [value for value in iou if value is not None]
    return sum(present) / len(present) if present else 0.0, iou
