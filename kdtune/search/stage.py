"""A stage -> one Ray Tune experiment -> finished trials in the journal.

Ray schedules and stops; what a trial is, where it goes on and what it left is the journal's. No checkpoint and no
state of Ray is read back: every launch starts a fresh experiment on what is left of the plan, and ASHA's rungs and
Optuna's study are filled from the journal first.
"""

import kdtune.cluster.environment  # isort: skip  # before Ray, which reads it

import contextlib
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ray import tune

import kdtune.search.tune_faults  # noqa: F401  # mends them
from kdtune.base import Lost, UserError
from kdtune.cluster import loggers
from kdtune.cluster.halt import Halt, refuse_halted
from kdtune.cluster.share import Share
from kdtune.filesystem.folder import Folder
from kdtune.filesystem.patience import NO_ROOM
from kdtune.records.progress import Reporter
from kdtune.records.storage import Record
from kdtune.search.callbacks import RETRIES, Named, Stopping, Watch
from kdtune.search.early_stopping import scheduler
from kdtune.search.placement import asked
from kdtune.search.searchers import FromOptuna, FromPlan
from kdtune.search.stage_context import Point, StageContext
from kdtune.search.stalls import Stalls
from kdtune.search.worker import run_trial
from kdtune.study.spec import StudySpec
from kdtune.study.stage import SchedulerName, shuffled


@dataclass
class StageRun:
    """A stage that is about to run, or to go on."""

    study: StudySpec
    context: StageContext
    past: Mapping[str, Record]  # records of this stage's plan, finished and unfinished
    share: Share
    halt: Halt
    progress: Reporter
    stalls: Stalls
    ended: Callable[[Record], None] = lambda record: None
    loggers: Sequence[str] = ()  # see ``kdtune.cluster.loggers``


def finished(record: Record, scheduler_name: SchedulerName) -> bool:
    """Whether a record is final: a stopped trial goes on when nothing stops it, a failed one is tried again."""
    status = record["row"]["status"]
    return status in ("completed", "diverged") or (status == "stopped" and scheduler_name != "none")


def run_stage(run: StageRun, points: Sequence[Point], num_steps: int) -> None:
    """Runs what is left of a stage. ``points``: the unfinished ones of a plan; ignored by TPE, which makes its own.

    Raises:
        UserError: a trial met bad input.
        Interrupted: by Ctrl-C, SIGTERM or `kdtune stop`.
    """
    stage, name = run.context.stage, run.study.scheduler_of(run.context.stage)
    known = {k: r for k, r in run.past.items() if r["history"]}
    if stage.search == "tpe":
        num_samples = stage.samples or 0
        searcher: FromOptuna | FromPlan = FromOptuna(run.context, run.study.seed, run.past, num_samples)
        num_samples -= sum(finished(record, name) for record in run.past.values())
    else:
        # worst first, ASHA would stop nothing: the grid's order says nothing about quality, so it must not lead
        searcher = FromPlan(shuffled(points, run.study.seed, stage.name))
        num_samples = len(points)
    if num_samples <= 0:
        return
    experiment = f"{stage.name}-{time.strftime('%Y%m%d-%H%M%S')}-{uuid.uuid4().hex[:6]}"
    resources = {"cpu": run.share.cpus, **({"gpu": run.share.gpus} if run.share.gpus else {})}
    folder = run.context.storage.folder
    run.stalls.begin(resources, stage)
    watchers = [Watch(run.context, run.halt, run.progress, run.ended, run.stalls)]
    watchers += loggers.callbacks(run.loggers, folder, run.study.name, stage.name, Named(run.context))
    with _rays_files(folder):
        tuner = tune.Tuner(
            tune.with_resources(tune.with_parameters(run_trial, context=run.context), asked(resources, stage.labels)),
            tune_config=tune.TuneConfig(
                num_samples=num_samples,
                search_alg=searcher,
                scheduler=scheduler(name, run.study, num_steps, known),
                max_concurrent_trials=run.share.at_once,
                reuse_actors=True,
                trial_name_creator=Named(run.context) if run.loggers else None,
            ),
            run_config=tune.RunConfig(
                name=experiment,
                storage_path=str(_ray_folder(folder)),
                failure_config=tune.FailureConfig(max_failures=RETRIES),
                callbacks=watchers,
                stop=Stopping(run.halt),
                verbose=0,
            ),
        )
        _fit(tuner, run.halt)
    refuse_halted(run.halt)


def _fit(tuner: tune.Tuner, halt: Halt) -> None:
    """Runs the experiment in a thread: a call to a Ray that is gone never comes back, and this must."""
    failed: list[BaseException] = []

    def fit() -> None:
        try:
            tuner.fit()
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=fit, daemon=True, name="kdtune-tune")
    thread.start()
    while thread.is_alive() and not isinstance(halt.error, Lost):
        thread.join(0.2)
    if failed and halt.reason is None:
        raise failed[0]


@contextlib.contextmanager
def _rays_files(folder: Folder) -> Iterator[None]:
    """Ray finds no room for its own files, and its error names none.

    Raises:
        UserError: names their folder.
    """
    try:
        yield
    except OSError as error:
        if error.filename is not None or error.errno not in NO_ROOM:
            raise
        where = _ray_folder(folder)
        raise UserError(
            f"{where}: no room for Ray's files: {os.strerror(error.errno)}; free some space, or give another folder "
            "with --storage; nothing finished is lost"
        ) from error


def _ray_folder(folder: Folder) -> Path:
    """Where Tune keeps its own files: nothing there is needed to continue, so it may be local."""
    return (folder.local or Path.home() / ".cache" / "kdtune" / "ray") / ".ray"
