"""``kdtune bench``: speed and memory of each part on this machine, as a table and as Parquet."""

import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from rich.console import Console
from rich.table import Table

from kdtune.api import Options, adjusted, data_folder, launch
from kdtune.base import RunError, compute_device
from kdtune.progress import Reporter
from kdtune.rows import Row
from kdtune.spec import StudySpec, TrialConfig, Value
from kdtune.storage import Storage
from kdtune.study_file import load_study
from kdtune.train import Run, fit
from kdtune.trial import Site, load_splits


def orchestration(counts: Sequence[int], output: str | None) -> str:
    """Seconds per empty trial: Tune, worker, journal and tables; Ray's start is not counted.

    An empty trial builds a tiny network and evaluates it on one image of 32 x 32, without a step of training.
    """
    measured = [_empty_trials(count) for count in counts]
    return told("empty trials", measured, output)


def _empty_trials(count: int) -> Row:
    base = {
        "dataset": {"name": "demo", "size": [32, 32], "num_train": 2, "num_val": 1},
        "student": {"name": "pspnet", "backbone": "resnet18", "width": 0.02},
        "losses": {"ce": {"weight": 1.0}},
        "recipe": {"lr": 1.0, "weight_decay": 0.0, "num_steps": 0, "crop": [32, 32]},
    }
    grid = {"recipe.lr": [i + 1 for i in range(count)]}
    spec = {"name": f"empty-{count}", "scheduler": "none", "base": base, "stages": [{"name": "empty", "grid": grid}]}
    clock = _Clock(count)
    with tempfile.TemporaryDirectory() as folder:
        where = launch(StudySpec.model_validate(spec), storage=folder, reporter=clock)
        finished = where.table("trials").num_rows
    if finished != count:
        raise RunError(f"only {finished} of {count} empty trials finished")
    grown = (clock.memory[-1] - clock.memory[0]) / (count - count // 4)
    return {
        "trials": count,
        "seconds": clock.seconds,
        "seconds_per_trial": clock.seconds / count,
        "driver_kb_per_trial": grown / 1024,
    }


class _Clock(Reporter):
    """Times a stage, and notes the driver's memory once a quarter of its trials is done and at its end."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.seconds = 0.0
        self.memory: list[int] = []
        self._count, self._ended, self._began = count, 0, 0.0

    def stage_started(self, stage: str, trials: int, done: int, steps_each: int) -> None:
        """Starts the clock."""
        self._began = time.perf_counter()

    def trial_ended(self, row: Row) -> None:
        """Notes the memory at a quarter: what Tune loads once is not growth."""
        self._ended += 1
        if self._ended == self._count // 4:
            self.memory.append(psutil.Process().memory_info().rss)

    def stage_ended(self, stage: str, best: Sequence[Row]) -> None:
        """Stops the clock."""
        self.seconds = time.perf_counter() - self._began
        self.memory.append(psutil.Process().memory_info().rss)


def training(study: str, data_root: str | None, settings: Mapping[str, Value], steps: int, output: str | None) -> str:
    """Step time and memory of each stage's first configuration; teachers have random weights here."""
    spec = adjusted(load_study(study), Options(settings=settings))
    seen: dict[str, str] = {}
    measured = []
    for name, config in spec.templates().items():
        short = config.replace({"recipe.num_steps": steps, "recipe.eval_every": steps // 2, "seed": 0})
        if short.config_id not in seen:
            seen[short.config_id] = name
            measured.append({"stage": name, "method": config.method, **_steps(short, data_folder(data_root))})
    return told(f"training, {study}, {steps} steps", measured, output)


def _steps(config: TrialConfig, data_root: str | None) -> Row:
    device = compute_device()
    train, val = load_splits(config, Site(data_root))
    classes = config.dataset.num_classes
    random = {"init": "random"}
    student = config.student.model_copy(update=random).build(classes).to(device)
    teacher = None
    if config.uses_teacher and config.teacher is not None:
        teacher = config.teacher.model.model_copy(update=random).build(classes).to(device)
        teacher.eval().requires_grad_(False)
    losses = {name: term.build(student, teacher).to(device) for name, term in config.active_losses.items()}
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    evaluations = list(fit(config, Run(student, losses, config.recipe), teacher, train, val, device))
    first, last = evaluations[0], evaluations[-1]  # the first half warms up
    seconds = (last.seconds - first.seconds) / (last.step - first.step)
    memory = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else psutil.Process().memory_info().rss
    return {
        "batch": config.recipe.batch_size,
        "crop": "x".join(map(str, config.recipe.crop)),
        "step_ms": 1000 * seconds,
        "images_per_second": config.recipe.batch_size / seconds,
        "memory_mb": memory / 2**20,
        "threads": torch.get_num_threads(),
        "diverged": last.diverged,
    }


def demo(output: str | None) -> str:
    """``kdtune launch demo`` as a user runs it, with the memory of all its processes sampled every half second."""
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        command = [sys.executable, "-m", "kdtune", "launch", "demo", "--storage", folder]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        rss, pss = 0, 0
        while process.poll() is None:
            now = _memory(process.pid)
            rss, pss = max(rss, now[0]), max(pss, now[1])
            time.sleep(0.5)
        seconds = time.perf_counter() - began
        if process.returncode:
            raise RunError(f"`kdtune launch demo` ended with status {process.returncode}")
        trials = Storage(folder, "demo").table("trials")
    row = {
        "seconds": seconds,
        "rss_mb": rss / 2**20,
        "pss_mb": pss / 2**20,
        "trials": trials.num_rows,
        "stages": len(set(trials["stage"].to_pylist())),
        "stopped": trials["status"].to_pylist().count("stopped"),
    }
    return told("kdtune launch demo", [row], output)


def _memory(pid: int) -> tuple[int, int]:
    """Resident memory of a process and all below it, summed, and the same with shared pages counted once."""
    rss = pss = 0
    try:
        parent = psutil.Process(pid)
        for process in [parent, *parent.children(recursive=True)]:
            try:
                info = process.memory_full_info()
            except psutil.Error:
                continue  # it has just ended
            rss, pss = rss + info.rss, pss + info.pss
    except psutil.Error:
        pass
    return rss, pss


def told(title: str, measured: Sequence[Row], output: str | None) -> str:
    """The figures as a table; as Parquet in ``output``, with date and machine."""
    machine = {
        "measured_at": datetime.now(UTC),
        "machine": f"{platform.machine()}, {psutil.cpu_count()} cores",
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "torch_version": str(torch.__version__),
    }
    if output is not None:
        Path(output).parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.Table.from_pylist([row | machine for row in measured]), output)
    table = Table(title=f"{title} ({machine['gpu'] or machine['machine']}, torch {machine['torch_version']})")
    for name in measured[0]:
        table.add_column(name, justify="right")
    for row in measured:
        table.add_row(*(_cell(value) for value in row.values()))
    console = Console(width=120, file=None, record=False, force_terminal=False)
    with console.capture() as captured:
        console.print(table)
    return captured.get()


def _cell(value: Any) -> str:
    return (
        f"{value:.3g}"
        if isinstance(value, float) and abs(value) < 100
        else (f"{value:.0f}" if isinstance(value, float) else str(value))
    )
