"""A stage -> one Ray Tune experiment -> finished trials in the journal.

Ray schedules and stops; what a trial is, where it goes on and what it left is the journal's. No checkpoint and no
state of Ray is read back: every launch starts a fresh experiment on what is left of the plan, and ASHA's rungs and
Optuna's study are filled from the journal first.
"""

import kdtune.cluster.environment  # noqa: F401  # isort: skip  # before Ray, which reads it

import errno
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from ray import tune
from ray.air.execution._internal.actor_manager import RayActorManager
from ray.exceptions import OutOfMemoryError, RayActorError
from ray.tune.execution import class_cache

from kdtune.base import Lost, UserError
from kdtune.cluster import loggers, meters, metrics
from kdtune.cluster.session import Halt, Share, refuse_halted
from kdtune.filesystem.folder import Folder
from kdtune.filesystem.lock import NAME as LOCK
from kdtune.records.journal import LESS_MEMORY, Overtaken, fail, follow, new_record, stop
from kdtune.records.progress import Reporter
from kdtune.records.storage import Record
from kdtune.search.early_stopping import scheduler
from kdtune.search.searchers import FromOptuna, FromPlan
from kdtune.search.stage_context import SCORE, WORST, Job, Point
from kdtune.study.spec import SchedulerName, Stage, StudySpec, shuffled

# Tune would send the driver's AWS keys along with every trial, and Ray writes what it sends into logs and dashboard
class_cache.ENV_VARS_TO_PROPAGATE -= {name for name in class_cache.ENV_VARS_TO_PROPAGATE if name.startswith("AWS_")}


class OutOfMemory(RayActorError):  # type: ignore[misc]
    """A worker that Ray ended to save its node."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self._text = text

    def __str__(self) -> str:
        return self._text

    def __reduce__(self) -> tuple[Any, ...]:  # Tune keeps errors in files
        return OutOfMemory, (self._text,)


_task_failed = RayActorManager._actor_task_failed


def _actor_task_failed(self: Any, tracked_actor_task: Any, exception: Exception) -> None:
    """Tune takes a worker that Ray ends for its memory as a fault of its own, and would end every other trial."""
    if isinstance(exception, OutOfMemoryError):
        exception = OutOfMemory(str(exception))
    _task_failed(self, tracked_actor_task, exception)


RayActorManager._actor_task_failed = _actor_task_failed

NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EFBIG}
RETRIES = 3  # of a trial whose process is lost


def run_trial(point: Point, job: Job) -> None:
    """In a Ray worker: one trial, from its journal to its end; Ray hears of every evaluation."""
    torch.set_num_threads(job.threads)  # here, in the thread that computes: OpenMP counts per thread
    planned = job.planned(point)
    notes: list[str] = []
    job.storage.folder.expected()
    _refuse_if_lost(job)
    spent = meters.spent(job.gpus)
    try:
        for record in follow(planned, job.site, job.storage, notes.append, job.trainer, spent):
            row = record["row"]
            score = WORST if row["miou"] is None else row["miou"]
            told = {"trial": row["trial_id"], "step": row["step"] or 0, "status": row["status"], SCORE: score}
            metrics.show(row)
            if job.followed:  # by step, not by the number of its evaluation
                told |= loggers.reported(row, record["history"][-1] if record["history"] else {})
                told |= {"timesteps_total": row["step"] or 0}
            tune.report(told | {"error": row["error"], "notes": notes[:]})
            notes.clear()
            _refuse_if_lost(job)
    except Overtaken:
        raise SystemExit from None
    except (UserError, OSError) as error:
        if isinstance(error, OSError) and error.errno not in NO_ROOM:
            raise  # storage may be away for a moment: Tune tries the trial again
        refusal = job.storage.unusable(error) if isinstance(error, OSError) else error
        tune.report({"trial": planned.trial_id, "step": 0, "status": "refused", SCORE: WORST, "error": str(refusal)})
    finally:
        spent.end()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()  # the process stays for the next trial, and others share the GPU


def _refuse_if_lost(job: Job) -> None:
    """Ends this worker if another launch has taken the study over: two writers would mix."""
    content = job.storage.folder.read(LOCK)
    if job.token is not None and (content is None or job.token not in content.decode()):
        raise SystemExit


class Unread:
    """Tune pickles callbacks into a file of its own; nobody reads ours back, so there is nothing to keep."""

    def __getstate__(self) -> dict[str, Any]:
        return {}


class Watch(Unread, tune.Callback):  # type: ignore[misc]
    """Writes down what only the driver knows: which trials the scheduler stopped, which lost their process."""

    def __init__(self, job: Job, halt: Halt, progress: Reporter, ended: Callable[[Record], None]) -> None:
        self._job, self._halt, self._progress, self._ended = job, halt, progress, ended

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A worker has it."""
        self._progress.trial_started(self._job.planned(trial.config).trial_id)

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """Bad input in one trial is bad input for all."""
        if result.get("status") == "refused":
            self._halt.end("refused", UserError(result["error"]))
        for note in result.get("notes", ()):
            self._progress.warn(note)
        self._progress.evaluated(result)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Ended by itself, stopped by the scheduler, or cut off because the launch ends."""
        result = trial.last_result or {}
        record = self._job.storage.record(result["trial"]) if "trial" in result else None
        if record is None:
            return
        if record["row"]["status"] == "running":
            if self._halt.reason is not None:
                return  # it goes on from here at the next launch
            record = stop(record, self._job.storage)
        self._done(record)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Its process was lost once too often."""
        if self._halt.reason is not None:
            return
        planned = self._job.planned(trial.config)
        record = self._job.storage.record(planned.trial_id) or new_record(planned)
        self._done(fail(record, f"{_cause(trial)} (after {RETRIES} retries)", self._job.storage))

    def _done(self, record: Record) -> None:
        self._ended(record)
        self._progress.trial_ended(record["row"])


def _cause(trial: Any) -> str:
    """Why a trial's process was lost, in one line."""
    # Tune's text of it, where Tune writes it: ``get_error`` looks where it comes only later
    text = Path(trial.error_file).read_text() if trial.error_file and Path(trial.error_file).is_file() else ""
    if "OutOfMemoryError" in text or "running low on memory" in text:
        return f"Ray ended its process, since the node's memory was nearly full; {LESS_MEMORY}"
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if "SIGKILL" in text or "OOM" in text:
        return f"its process was killed, perhaps by the system, out of memory; {LESS_MEMORY}"
    return lines[-1] if lines else "its process was lost"


class Stopping(Unread, tune.Stopper):  # type: ignore[misc]
    """Ends the experiment when the launch is to end."""

    def __init__(self, halt: Halt) -> None:
        self._halt = halt

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """No trial is stopped alone."""
        return False

    def stop_all(self) -> bool:
        """Whether the launch ends."""
        return self._halt.reason is not None


@dataclass(frozen=True)
class Named:
    """A trial of Tune's by our name of it; Tune pickles this."""

    job: Job

    def __call__(self, trial: Any) -> str:
        """Its id in the journal."""
        return self.job.planned(trial.config).trial_id


@dataclass
class StageRun:
    """A stage that is about to run, or to go on."""

    study: StudySpec
    job: Job
    past: Mapping[str, Record]  # records of this stage's plan, finished and unfinished
    share: Share
    halt: Halt
    progress: Reporter
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
    stage, name = run.job.stage, run.study.scheduler_of(run.job.stage)
    known = {k: r for k, r in run.past.items() if r["history"]}
    if stage.search == "tpe":
        num_samples = stage.samples or 0
        searcher: FromOptuna | FromPlan = FromOptuna(run.job, run.study.seed, run.past, num_samples)
        num_samples -= sum(finished(record, name) for record in run.past.values())
    else:
        # worst first, ASHA would stop nothing: the grid's order says nothing about quality, so it must not lead
        searcher = FromPlan(shuffled(points, run.study.seed, stage.name))
        num_samples = len(points)
    if num_samples <= 0:
        return
    experiment = f"{stage.name}-{time.strftime('%Y%m%d-%H%M%S')}-{uuid.uuid4().hex[:6]}"
    resources = {"cpu": run.share.cpus, **({"gpu": run.share.gpus} if run.share.gpus else {})}
    folder = run.job.storage.folder
    watchers = [Watch(run.job, run.halt, run.progress, run.ended)]
    watchers += loggers.callbacks(run.loggers, folder, run.study.name, stage.name, Named(run.job))
    tuner = tune.Tuner(
        tune.with_resources(tune.with_parameters(run_trial, job=run.job), _bundle(resources, stage)),
        tune_config=tune.TuneConfig(
            num_samples=num_samples,
            search_alg=searcher,
            scheduler=scheduler(name, run.study, num_steps, known),
            max_concurrent_trials=run.share.at_once,
            reuse_actors=True,
            trial_name_creator=Named(run.job) if run.loggers else None,
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


def _bundle(resources: dict[str, float], stage: Stage) -> Any:
    """What a trial asks Ray for."""
    if not stage.labels:
        return resources
    named = {name.upper(): amount for name, amount in resources.items()}  # here Ray wants CPU where Tune says cpu
    return tune.PlacementGroupFactory([named], bundle_label_selector=[stage.labels])


def _ray_folder(folder: Folder) -> Path:
    """Where Tune keeps its own files: nothing there is needed to continue, so it may be local."""
    return (folder.local or Path.home() / ".cache" / "kdtune" / "ray") / ".ray"
