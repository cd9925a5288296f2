"""``kdtune bench gpu``: what only a GPU can show: part after part, each written to a JSON file when it is done.

It needs neither Ray nor the command line: ``python -m kdtune.bench.gpu FILE.json``. The parts stand in the order of
what would be missed most if the time runs out. Without a GPU it runs the same parts at the smallest size: that shows
that they run, and no figure of them is one of a GPU.
"""

import hashlib
import io
import json
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from kdtune.base import UserError, compute_device
from kdtune.bench.own_cache import own_cache
from kdtune.study.trial_config import TrialConfig
from kdtune.training.compiling import compiled
from kdtune.training.evaluation import autocast, half_precision, layout
from kdtune.training.loop import fit
from kdtune.training.numerics import NUMERICS
from kdtune.training.site import Site, TeacherStore
from kdtune.training.teaching import prepared_for_gpu
from kdtune.training.trial import frozen_teacher, prepared, run
from kdtune.training.weights import weights_bytes

SECONDS = 480.0  # after which no part is begun
TERMS: dict[str, dict[str, Any]] = {  # of each method that is measured
    "student": {},
    "pi": {"losses.pi": {"weight": 1.0}},
    "pi+pa": {"losses.pi": {"weight": 1.0}, "losses.pa": {"weight": 0.5}},
    "pi+ifv": {"losses.pi": {"weight": 1.0}, "losses.ifv": {"weight": 1.0}},
    "pi+ho": {"losses.pi": {"weight": 1.0}, "losses.ho": {"weight": 0.1}},
}
TERMS["all"] = TERMS["pi+pa"] | TERMS["pi+ifv"] | TERMS["pi+ho"]
ALONE, KEPT = Site(), Site(store=TeacherStore())
Part = dict[str, Any]


@dataclass(frozen=True)
class Size:
    """How large the networks and crops are, and how many steps each part takes."""

    crop: int  # pixels a side
    batch: int
    teacher: str
    width: float
    gate: int
    repeated: int
    timed: int
    at_once: tuple[int, ...]  # trials that share the GPU


FULL = Size(512, 8, "resnet101", 1.0, 50, 200, 40, (1, 4, 8))
SMALLEST = Size(64, 2, "resnet18", 0.0625, 4, 4, 2, (1, 2))


def trial(size: Size, method: str, steps: int, teacher: str, **changes: Any) -> TrialConfig:
    """A configuration on drawn scenes; evaluated at its middle and its end."""
    data = {
        "dataset": {"name": "demo", "size": [size.crop, size.crop], "num_train": 4 * size.batch, "num_val": size.batch},
        "student": {"name": "pspnet", "backbone": "resnet18", "width": size.width},
        "losses": {"ce": {"weight": 1.0}},
        "recipe": {"lr": 0.01, "weight_decay": 5e-4, "crop": [size.crop, size.crop], "batch_size": size.batch}
        | {"num_steps": steps, "eval_every": max(1, steps // 2)},
        "seed": 1,
    }
    extra = dict(TERMS[method])
    if extra:
        model = {"name": "pspnet", "backbone": size.teacher, "width": size.width}
        extra["teacher"] = {"model": model, "checkpoint": teacher}
    return TrialConfig.model_validate(data).replace(extra | changes)


@contextmanager
def no_waits(device: torch.device) -> Iterator[None]:
    """Makes a wait for the GPU an error."""
    if device.type == "cuda":
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        if device.type == "cuda":
            torch.cuda.set_sync_debug_mode("default")


def where(device: torch.device) -> Part:
    """The device and the versions."""
    gpu = device.type == "cuda"
    return {
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "device": torch.cuda.get_device_name() if gpu else "cpu",
        "torch": str(torch.__version__),
        "cuda": torch.version.cuda if gpu else None,
        "cudnn": torch.backends.cudnn.version() if gpu else None,  # type: ignore[no-untyped-call]
        "numerics": NUMERICS,
        "command": "python -m kdtune.bench.gpu",
    }


def gate(size: Size, teacher: str, device: torch.device) -> Part:
    """Per method: steps without a wait but for looks at the loss, and the layout that maps and gradients have."""
    found = {}
    for method in TERMS:
        config = trial(size, method, size.gate, teacher)
        parts = prepared(config, Site())
        try:
            with no_waits(device):
                steps = [each.step for each in fit(config, parts.state, parts.teaching, parts.train, parts.val, device)]
            told = f"{steps[-1]} steps"
        except RuntimeError as error:
            told = str(error).splitlines()[0]
        weight = next(p for name, p in parts.state.student.named_parameters() if name.endswith("conv2.weight"))
        last = weight.grad is not None and weight.grad.is_contiguous(memory_format=torch.channels_last)
        found[method] = {"waits": told, "gradients_channels_last": last}
    return found


def repeated(size: Size, teacher: str, device: torch.device) -> Part:
    """SHA-256 of the weights of the same trial, twice, and from its saved middle: student, and with all terms."""
    found = {}
    for method in ("student", "all"):
        config = trial(size, method, size.repeated, teacher)
        once, saved = _hash_and_middle(config)
        twice, _ = _hash_and_middle(config)
        resumed, _ = _hash_and_middle(config, torch.load(io.BytesIO(saved), map_location="cpu", weights_only=True))
        found[method] = {"once": once, "twice": twice, "resumed": resumed, "equal": once == twice == resumed}
    return found


def _hash_and_middle(
    config: TrialConfig, saved: Mapping[str, Any] | None = None, site: Site = ALONE
) -> tuple[str, bytes]:
    """SHA-256 of a trial's weights at its end, and its state at its first evaluation."""
    states = []
    for _, state in run(config, site, saved):
        buffer = io.BytesIO()
        torch.save(state.state_dict(), buffer)
        states.append(buffer.getvalue())
        weights = weights_bytes(state.student)
    return hashlib.sha256(weights).hexdigest(), states[0]


def stored(size: Size, teacher: str, device: torch.device) -> Part:
    """SHA-256 of the weights of the same trial with the teacher live, writing its store, and reading it."""
    config = trial(size, "all", size.repeated, teacher)
    live, cold, warm = (_hash_and_middle(config, site=site)[0] for site in (ALONE, KEPT, KEPT))
    return {"live": live, "cold": cold, "warm": warm, "equal": live == cold == warm}


def steps(size: Size, teacher: str, device: torch.device) -> Part:
    """Per method: milliseconds of a step, and the peak of the memory [MB]; reading the store; the teacher's pass."""
    found: Part = {method: _step(size, method, teacher, device, ALONE) for method in TERMS}
    _step(size, "pi", teacher, device, KEPT)
    found["pi, reading"] = _step(size, "pi", teacher, device, KEPT)
    found["teacher"] = _teacher(size, teacher, device)
    found["bf16_tflops"] = _matrix_rate(device)
    return found


def _step(size: Size, method: str, teacher: str, device: torch.device, site: Site) -> Part:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    config = trial(size, method, 2 * size.timed, teacher)
    first, last = (evaluation for evaluation, _ in run(config, site))  # the first half warms up
    memory = torch.cuda.max_memory_allocated(device) / 2**20 if device.type == "cuda" else None
    return {"step_ms": 1000 * (last.seconds - first.seconds) / size.timed, "memory_mb": memory}


def _teacher(size: Size, teacher: str, device: torch.device) -> Part:
    """Milliseconds of the teacher's pass over a batch: as it is, folded and cast, and that compiled."""
    config = trial(size, "pi", 1, teacher)
    assert config.teacher is not None
    network = frozen_teacher(config.teacher, teacher, config.dataset.num_classes, device)
    shape = (size.batch, 3, size.crop, size.crop)
    image = torch.randn(shape, device=device).to(memory_format=layout(config.recipe, device))

    def timed(forward: Callable[..., Any]) -> float:
        with torch.no_grad(), autocast(config.recipe, device):
            return _milliseconds(lambda: forward(image, frozenset()), size.timed, device)

    ready = prepared_for_gpu(network, half_precision(config.recipe, device)).to(
        memory_format=layout(config.recipe, device)
    )
    found = {"eager_ms": timed(network), "folded_ms": timed(ready)}
    return found | {"compiled_ms": timed(compiled(ready)) if device.type == "cuda" else None}


def _matrix_rate(device: torch.device) -> float | None:
    """What this GPU does of products of large bf16 matrices [TFLOP/s]."""
    if device.type != "cuda":
        return None
    matrix = torch.randn(8192, 8192, device=device, dtype=torch.bfloat16)
    return 2 * 8192**3 / (_milliseconds(lambda: matrix @ matrix, 20, device) / 1000) / 1e12


def _milliseconds(action: Callable[[], Any], times: int, device: torch.device) -> float:
    for _ in range(3):
        action()

    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    wait()
    began = time.perf_counter()
    for _ in range(times):
        action()
    wait()
    return 1000 * (time.perf_counter() - began) / times


def together(size: Size, teacher: str, device: torch.device) -> Part:
    """GPU seconds of a trial where several share it and its teacher, by how many they are: without store, cold, warm.

    All of them, their start apart; of one seed, so that they share.
    """
    found = {}
    for count in size.at_once:
        seconds = {}
        for store in ("off", "cold", "warm"):
            seed = 100 + count  # no other part has kept anything of it
            context = multiprocessing.get_context("spawn")
            with context.Pool(count, maxtasksperchild=1) as pool:
                spans = pool.map(_span, [(size, seed, i, teacher, store) for i in range(count)], chunksize=1)
            seconds[store] = (max(end for _, end in spans) - min(begin for begin, _ in spans)) / count
        found[str(count)] = {"seconds_per_trial": seconds, "steps": 2 * size.timed}
    return found


def _span(given: tuple[Size, int, int, str, str]) -> tuple[float, float]:
    """When a trial's networks and data were there, and when it had ended; in a process of its own."""
    size, seed, number, teacher, store = given
    site = ALONE if store == "off" else KEPT
    config = trial(size, "pi", 2 * size.timed, teacher, seed=seed, **{"recipe.lr": 0.01 * (number + 1)})
    parts = prepared(config, site)
    began = time.time()
    for _ in fit(config, parts.state, parts.teaching, parts.train, parts.val, parts.device):
        pass
    return began, time.time()


PARTS: Mapping[str, Callable[[Size, str, torch.device], Part]] = {
    "gate": gate,
    "repeated": repeated,
    "stored": stored,
    "steps": steps,
    "together": together,
}


def gpu(file: str, seconds: float = SECONDS) -> Part:
    """Runs all parts, as far as ``seconds`` reach, and returns what is in the file."""
    began, device = time.monotonic(), compute_device()
    size = FULL if device.type == "cuda" else SMALLEST
    found: Part = {"where": where(device), "size": size.__dict__}
    _write(file, found)  # what cannot be written is told now, not after minutes
    with tempfile.TemporaryDirectory() as folder, own_cache(folder):
        teacher = f"{folder}/teacher.safetensors"
        model = trial(size, "pi", 1, "none").teacher
        assert model is not None
        torch.manual_seed(0)
        Path(teacher).write_bytes(weights_bytes(model.model.build(12)))
        for name, part in PARTS.items():
            if time.monotonic() - began > seconds:
                found[name] = "not begun: the time was up"
            else:
                at = time.monotonic()
                try:
                    found[name] = part(size, teacher, device)
                except Exception as error:  # what the other parts tell is worth having
                    found[name] = {"error": f"{type(error).__name__}: {error}"}
                found[name]["seconds"] = round(time.monotonic() - at, 1)
            _write(file, found)
    return found


def _write(file: str, found: Part) -> None:
    """Replaces the file.

    Raises:
        UserError: it cannot be written.
    """
    try:
        Path(file).write_text(json.dumps(found, indent=1) + "\n")
    except OSError as error:
        raise UserError(f"{file}: cannot be written: {error.strerror or error}") from None


if __name__ == "__main__":
    print(json.dumps(gpu(sys.argv[1]), indent=1))
