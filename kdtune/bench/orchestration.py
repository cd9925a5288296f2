"""``kdtune bench orchestration``: what a launch costs beside the training."""

import functools
import multiprocessing
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from kdtune.api import launch
from kdtune.base import Model, RunError, SegNet
from kdtune.bench.figures import told
from kdtune.records.progress import Reporter
from kdtune.records.rows import Row
from kdtune.records.stored_study import storage_root
from kdtune.study.file import dump
from kdtune.study.spec import StudySpec
from kdtune.study.trial_config import TrialConfig
from kdtune.training.energy import Spent
from kdtune.training.loop import Evaluation, Run
from kdtune.training.site import Site

WINDOW = 100  # trials, whose marginal time is told


def orchestration(counts: Sequence[int], evaluations: int, storage: str | None, output: str | None) -> str:
    """What a launch costs beside the training: time per empty trial, the driver's memory, tables, and a relaunch.

    An empty trial trains nothing, but goes the whole way: Tune, a worker, state and journal on storage at every
    evaluation, the tables. Ray's start is not counted. Each count has a driver of its own, for its memory. What is
    written is left in ``storage`` if one is given.
    """
    measured = []
    with tempfile.TemporaryDirectory() as folder:
        for count in counts:
            with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
                work = process.submit(_empty_trials, count, evaluations, storage_root(storage or folder))
                measured.append(work.result())
    return told(f"empty trials of {evaluations} evaluations", measured, output, upright=True)


def _empty_trials(count: int, evaluations: int, storage: str) -> Row:
    """Launches a study of empty trials in this process, and once more, finished, in a new one.

    Raises:
        RunError: a trial did not finish.
    """
    base = {
        "dataset": {"name": "demo", "size": [32, 32], "num_train": 2, "num_val": 1},
        "student": {"name": "pspnet", "backbone": "resnet18", "width": 0.02},
        "losses": {"ce": {"weight": 1.0}},
        "recipe": {"lr": 1.0, "weight_decay": 0.0, "num_steps": evaluations, "eval_every": 1, "crop": [32, 32]},
    }
    grid = {"recipe.lr": [i + 1 for i in range(count)]}
    stages = [{"name": "empty", "grid": grid}]
    name = f"empty-{count}-{uuid.uuid4().hex[:6]}"
    study = StudySpec.model_validate({"name": name, "scheduler": "none", "base": base, "stages": stages})
    clock = _Clock(count)
    where = launch(study, storage=storage, reporter=clock, trainer=no_training)
    complete = {name: where.table(name).num_rows for name in ("trials", "history")}
    if complete != {"trials": count, "history": count * evaluations}:
        raise RunError(f"{count} trials of {evaluations} evaluations left {complete}")
    early, late = (clock.marginal(last) if count > 2 * WINDOW else None for last in (2 * WINDOW, count))
    return {
        "trials": count,
        "seconds": clock.seconds,
        "seconds_per_trial": clock.seconds / count,
        "marginal_seconds_early": early.seconds if early else None,
        "marginal_seconds_late": late.seconds if late else None,
        "driver_cpu_ms_early": 1000 * early.cpu if early else None,
        "driver_cpu_ms_late": 1000 * late.cpu if late else None,
        "tables_seconds": clock.tables,
        "tables_written": clock.writings,
        "driver_mb": clock.peak / 2**20,
        "driver_kb_per_trial": clock.grown / 1024,
        "journal_kb_per_trial": (where.folder / "journal").size() / count / 1024,
        "tables_kb_per_trial": where.folder.size() / count / 1024,
        "relaunch_seconds": _relaunch(study, storage),
    }


def no_training(
    config: TrialConfig, site: Site, saved: Mapping[str, Any] | None, spent: Spent
) -> Iterator[tuple[Evaluation, Run]]:
    """In place of ``kdtune.training.trial.run``: every evaluation of a trial, and nothing between them."""
    run = Run(_network(config.student, config.dataset.num_classes), {}, config.recipe)
    if saved is not None:
        run.load_state_dict(saved)
    used = spent()
    for step in range(run.step + 1, config.recipe.num_steps + 1):
        run.step = step
        used = run.bill.trained(used, spent())
        yield (
            Evaluation(
                step=step,
                miou=50.0,
                per_class_iou=[50.0] * config.dataset.num_classes,
                loss=1.0,
                losses=dict.fromkeys(config.active_losses, 1.0),
                grad_norms=dict.fromkeys(config.active_losses, 1.0),
                lr_now=config.recipe.lr,
                seconds=0.0,
            ),
            run,
        )


@functools.lru_cache(maxsize=1)  # of a worker: nothing changes its weights
def _network(model: Model, num_classes: int) -> SegNet:
    return model.build(num_classes)


def _relaunch(study: StudySpec, storage: str) -> float:
    """Seconds of launching a finished study again, from the start of Python to its end."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "empty.yaml")
        file.write_text(dump(study))
        began = time.perf_counter()
        command = [sys.executable, "-m", "kdtune", "launch", str(file), "--storage", storage]
        again = subprocess.run(command, capture_output=True, text=True, check=False)
        seconds = time.perf_counter() - began
    if again.returncode or "nothing left to run" not in again.stderr:
        raise RunError(f"launching the finished study again ended with status {again.returncode}: {again.stderr}")
    return seconds


@dataclass(frozen=True)
class _Moment:
    """Of the driver: its clock, and what it has used of processors [s]. The latter does not see other programs."""

    seconds: float
    cpu: float


class _Clock(Reporter):
    """Times a stage and each trial's end; notes the driver's memory there, and what writing tables took."""

    def __init__(self, count: int) -> None:
        self.seconds = 0.0
        self.tables, self.writings = 0.0, 0
        self._count, self._began = count, 0.0
        self._ends: list[_Moment] = []
        self._memory: list[int] = []

    @property
    def peak(self) -> int:
        """The driver's most resident memory [bytes]."""
        return max(self._memory)

    @property
    def grown(self) -> float:
        """Memory per trial [bytes], from the first quarter on: what Tune loads once is not growth."""
        first = self._count // 4
        return (self._memory[-1] - self._memory[first]) / (self._count - first)

    def marginal(self, last: int) -> "_Moment":
        """Per trial, over the ``WINDOW`` trials that end with this one."""
        begin, end = self._ends[last - WINDOW - 1], self._ends[last - 1]
        return _Moment((end.seconds - begin.seconds) / WINDOW, (end.cpu - begin.cpu) / WINDOW)

    def stage_started(self, stage: str, trials: int, done: int, steps_each: int) -> None:
        """Starts the clock."""
        self._began = time.perf_counter()

    def trial_ended(self, row: Row) -> None:
        """Another one."""
        self._ends.append(_Moment(time.perf_counter(), time.process_time()))
        self._memory.append(psutil.Process().memory_info().rss)

    def tables_written(self, seconds: float) -> None:
        """All of them, once."""
        self.tables, self.writings = self.tables + seconds, self.writings + 1
        self._memory.append(psutil.Process().memory_info().rss)

    def stage_ended(self, stage: str, best: Sequence[Row]) -> None:
        """Stops the clock."""
        self.seconds = time.perf_counter() - self._began
