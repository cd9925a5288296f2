"""``kdtune bench terms``: what each loss term adds to a step, in time and memory, on random images."""

import multiprocessing
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor

from kdtune.base import Loss, LossTerm, SegNet, SegOutput, Tap
from kdtune.bench.figures import told
from kdtune.devices import compute_device
from kdtune.losses import LOSSES
from kdtune.losses.catalogue import refuse_unknown
from kdtune.losses.cross_entropy import CrossEntropy
from kdtune.models import MODELS
from kdtune.records.rows import Row

LOOP = "ifv (a loop over classes)"  # what published code does, timed beside the term


@dataclass(frozen=True)
class Setting:
    """One measurement's sizes."""

    classes: int
    crop: int  # pixels a side
    batch: int
    steps: int  # measured rounds
    teacher_backbone: str

    @classmethod
    def of(cls, *, classes: Sequence[int], teacher_backbone: str | None, **given: int) -> Self:
        """With the first number of classes, and the teacher of this machine."""
        default = "resnet101" if compute_device().type == "cuda" else "resnet18"
        return cls(classes=classes[0], teacher_backbone=teacher_backbone or default, **given)


def loss_terms(names: Sequence[str], setting: Setting, classes: Sequence[int], output: str | None) -> str:
    """Each term beside cross-entropy: its step, relative to L_CE alone and to L_CE + L_PI; itself; peak memory.

    Every round takes one step of each variant, and ratios are taken within a round: what disturbs the machine
    disturbs all of them. ``term_ms`` is the term itself, forward, backward to its inputs and step of its own.
    ``memory_mb`` is the peak over what the networks hold: of the GPU, else of a fresh process (resident memory).

    Raises:
        UserError: there is no term of that name.
    """
    chosen = [name for name in names or LOSSES.names() if name != "ce"]
    refuse_unknown(chosen)
    variants = list(dict.fromkeys(["ce", "pi", *chosen, *([LOOP] if "ifv" in chosen else [])]))
    rows = []
    for number in classes:
        rows += _measured(variants, Setting(**{**vars(setting), "classes": number}))
    title = f"terms, crop {setting.crop}, batch {setting.batch}, teacher {setting.teacher_backbone}"
    return told(f"{title}, {setting.steps} rounds, {torch.get_num_threads()} threads", rows, output)


def _measured(variants: Sequence[str], setting: Setting) -> list[Row]:
    benches = {name: Bench(name, setting) for name in variants}
    steps = _seconds({name: bench.step for name, bench in benches.items()}, setting.steps)
    alone = _seconds({name: bench.prepared() for name, bench in benches.items()}, setting.steps)
    del benches
    memory = {name: _memory(name, setting) for name in variants}
    return [
        {
            "term": "ce" if name == "ce" else f"ce + {name}",
            "classes": setting.classes,
            "step_ms": 1000 * statistics.median(steps[name]),
            "to_ce": _ratio(steps[name], steps["ce"]),
            "to_ce_pi": _ratio(steps[name], steps["pi"]),
            "term_ms": 1000 * statistics.median(alone[name]),
            "memory_mb": memory[name] / 2**20,
            "memory_to_ce": memory[name] / max(1, memory["ce"]),
        }
        for name in variants
    ]


def _ratio(one: Sequence[float], other: Sequence[float]) -> float:
    return statistics.median(a / b for a, b in zip(one, other, strict=True))


def _seconds(variants: Mapping[str, Callable[[], None]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each variant in each round; a first round warms up."""
    found: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(rounds + 1):
        for name, run in variants.items():
            _wait()
            began = time.perf_counter()
            run()
            _wait()
            found[name].append(time.perf_counter() - began)
    return {name: seconds[1:] for name, seconds in found.items()}


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


class Bench:
    """One variant: student, teacher if the term needs it, cross-entropy and the term, one random batch."""

    def __init__(self, name: str, setting: Setting) -> None:
        self.device = compute_device()
        torch.manual_seed(0)
        self.student = _network("resnet18", setting.classes, self.device)
        self.teacher: SegNet | None = None
        self.terms: dict[str, Loss] = {"ce": CrossEntropy(weight=1.0).build(self.student, None)}
        self.taps = self.teacher_taps = frozenset[Tap]()
        self.needs_image = False
        if name != "ce":
            term: LossTerm = LOSSES.resolve("ifv" if name == LOOP else name).plain()
            self.taps, self.teacher_taps = term.taps, term.teacher_taps
            self.needs_image = term.needs_image
            if term.needs_teacher:
                self.teacher = _network(setting.teacher_backbone, setting.classes, self.device)
                self.teacher.eval().requires_grad_(False)
            self.terms[name] = ClassLoop() if name == LOOP else term.build(self.student, self.teacher).to(self.device)
        owned = [p for loss in self.terms.values() for p in loss.trained_with_student()]
        self.sgd = torch.optim.SGD([*self.student.parameters(), *owned], lr=1e-3, momentum=0.9)
        self.image = torch.randn(setting.batch, 3, setting.crop, setting.crop, device=self.device)
        # Blocks of 16 pixels: an image holds many classes, but not one per pixel.
        coarse = torch.randint(setting.classes, (setting.batch, 1, -(-setting.crop // 16), -(-setting.crop // 16)))
        target = F.interpolate(coarse.float(), size=(setting.crop, setting.crop), mode="nearest")
        self.target = target[:, 0].long().to(self.device)

    def step(self) -> None:
        """As in the loop: forward of both, backward, the student's step, the term's own."""
        student, teacher = self._outputs()
        values = [loss(student, teacher, self.target) for loss in self.terms.values()]
        self.sgd.zero_grad()
        torch.autograd.backward(torch.stack(values).sum())
        self.sgd.step()
        for loss in self.terms.values():
            loss.after_step(student, teacher, self.target, 0.0)

    def prepared(self) -> Callable[[], None]:
        """The term alone, on maps that are there already."""
        with torch.no_grad():
            student, teacher = self._outputs()
        for each in (student.logits, *student.taps.values()):
            each.requires_grad_(True)
        loss = list(self.terms.values())[-1]

        def run() -> None:
            torch.autograd.backward(loss(student, teacher, self.target))
            loss.after_step(student, teacher, self.target, 0.0)

        return run

    def _outputs(self) -> tuple[SegOutput, SegOutput | None]:
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.device.type == "cuda"):
            student = self.student(self.image, self.taps)
            with torch.no_grad():
                teacher = self.teacher(self.image, self.teacher_taps) if self.teacher is not None else None
        for output in (student, teacher):
            if output is not None and self.needs_image:
                output.image = self.image.sigmoid()
        return student, teacher


def _network(backbone: str, classes: int, device: torch.device) -> SegNet:
    network: SegNet = MODELS.resolve("pspnet")(name="pspnet", backbone=backbone).build(classes)
    return network.to(device)


def _memory(name: str, setting: Setting) -> int:
    """Bytes at the peak of two steps over what was held before them."""
    if compute_device().type == "cuda":
        bench = Bench(name, setting)
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        bench.step()
        bench.step()
        return torch.cuda.max_memory_allocated() - before
    # A fresh process: what an earlier variant freed would hide what this one takes.
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_resident_growth, (name, setting))


def _resident_growth(name: str, setting: Setting) -> int:
    bench = Bench(name, setting)
    before = _resident("VmRSS")
    bench.step()
    bench.step()
    return _resident("VmHWM") - before


def _resident(key: str) -> int:
    """Bytes of this process now (VmRSS) or at its peak (VmHWM), as Linux counts them."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(f"{key}:"))


class ClassLoop(Loss):
    """L_IFV with one pass over the maps per class: what the term is measured against, nothing else uses it."""

    def forward(self, student: SegOutput, teacher: SegOutput | None, target: Tensor) -> Tensor:
        """The same value as the term's."""
        assert teacher is not None
        maps = [student.taps["psp"].float(), teacher.taps["psp"].float()]
        labels = F.interpolate(target[:, None].float(), size=maps[0].shape[-2:], mode="nearest")  # (N, 1, h, w)
        likeness = []
        for feature in maps:
            centre = feature.clone()
            for k in range(student.logits.shape[1]):
                member = (labels == k).float()
                mean = (feature * member).sum((2, 3), keepdim=True) / (member.sum((2, 3), keepdim=True) + 1e-6)
                centre = (1 - member) * centre + member * mean
            likeness.append(F.cosine_similarity(feature, centre, dim=1))
        return (likeness[0] - likeness[1]).square().mean()
