"""The parts of ``kdtune bench gpu``, see there."""

import hashlib
import io
import multiprocessing
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from kdtune.loading.pack import data_folder
from kdtune.study.trial_config import TrialConfig
from kdtune.training.compiling import compiled
from kdtune.training.evaluation import autocast, half_precision, layout
from kdtune.training.loop import fit
from kdtune.training.numerics import NUMERICS
from kdtune.training.site import Site, TeacherStore
from kdtune.training.teaching import prepared_for_gpu
from kdtune.training.trial import frozen_teacher, prepared, run
from kdtune.training.weights import weights_bytes

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
    """Per method: steps without a wait but for looks at the loss, and the layout that gradients have."""
    found = {}
    kept = [("pi, writing", "pi", KEPT), ("pi, reading", "pi", KEPT)]
    for name, method, site in [*((method, method, ALONE) for method in TERMS), *kept]:
        config = trial(size, method, size.gate, teacher)
        parts = prepared(config, site)
        try:
            with no_waits(device):
                steps = [each.step for each in fit(config, parts.state, parts.teaching, parts.train, parts.val, device)]
            told = f"{steps[-1]} steps"
        except RuntimeError as error:
            told = str(error).splitlines()[0]
        weight = next(p for n, p in parts.state.student.named_parameters() if n.endswith("conv2.weight"))
        last = weight.grad is not None and weight.grad.is_contiguous(memory_format=torch.channels_last)
        found[name] = {"waits": told, "gradients_channels_last": last}
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


def _step(size: Size, method: str, teacher: str, device: torch.device, site: Site, **changes: Any) -> Part:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    config = trial(size, method, 2 * size.timed, teacher, **changes)
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


def photographs(size: Size, teacher: str, device: torch.device) -> Part:
    """Milliseconds of a step on CamVid's own images, whole, by method: cropped, decoded once, evaluated."""
    root = data_folder()
    if root is None:
        return {"not run": "KDTUNE_DATA_ROOT names no folder with camvid in it"}
    whole = size is FULL
    changes: dict[str, Any] = {"dataset": {"name": "camvid", **({} if whole else {"size": [90, 120]})}}
    changes |= {"recipe.crop": [360, 480] if whole else [48, 64]}
    own = written_teacher(size, str(Path(teacher).with_name("camvid.safetensors")), classes=11)
    return {m: _step(size, m, own, device, Site(root), **changes) for m in ("student", "pi")}


def written_teacher(size: Size, file: str, classes: int = 12) -> str:
    """A teacher of random weights; the demo's classes unless told otherwise."""
    model = trial(size, "pi", 1, "none").teacher
    assert model is not None
    torch.manual_seed(0)
    Path(file).write_bytes(weights_bytes(model.model.build(classes)))
    return file


PARTS: Mapping[str, Callable[[Size, str, torch.device], Part]] = {
    "gate": gate,
    "repeated": repeated,
    "stored": stored,
    "steps": steps,
    "together": together,
    "photographs": photographs,
}
