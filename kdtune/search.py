"""A stage -> one Ray Tune experiment -> finished trials in the journal.

Ray schedules and stops; what a trial is, where it goes on and what it left is the journal's. No checkpoint and no
state of Ray is read back: every launch starts a fresh experiment on what is left of the plan, and ASHA's rungs and
Optuna's study are filled from the journal first.
"""

import contextlib
import errno
import logging
import os
import signal
import socket
import threading
import time
import uuid
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

# Read by Tune when it is imported or run, in the driver and in the workers.
TUNE_ENVIRONMENT = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # the journal has it all: 4 files instead of 5 per trial
    "TUNE_GLOBAL_CHECKPOINT_S": "86400",  # Tune's own snapshots are never read
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # ours ends the launch and says how to continue
    "TUNE_FUNCTION_THREAD_TIMEOUT_S": "600",  # a stopped trial that ends slowly would cost the next one its run
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # relative paths of data and storage keep their meaning
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_DEDUP_LOGS": "0",
    "MALLOC_ARENA_MAX": "2",  # Ray's many threads would each keep an arena of freed memory
}
os.environ.update({name: os.environ.get(name, value) for name, value in TUNE_ENVIRONMENT.items()})

import ray  # noqa: E402
import torch  # noqa: E402
from ray import tune  # noqa: E402
from ray.tune.execution import class_cache  # noqa: E402
from ray.tune.schedulers import (  # noqa: E402
    AsyncHyperBandScheduler,
    FIFOScheduler,
    MedianStoppingRule,
    TrialScheduler,
)
from ray.tune.search import Searcher  # noqa: E402

from kdtune.base import Interrupted, UserError  # noqa: E402
from kdtune.files import Folder  # noqa: E402
from kdtune.journal import Planned, fail, follow, new_record, stop  # noqa: E402
from kdtune.lock import NAME as LOCK  # noqa: E402
from kdtune.progress import Reporter  # noqa: E402
from kdtune.rows import FINISHED  # noqa: E402
from kdtune.spec import Halving, SchedulerName, Stage, StudySpec, TrialConfig, Value, shuffled  # noqa: E402
from kdtune.storage import Record, Storage  # noqa: E402
from kdtune.trial import Site  # noqa: E402

# Tune would send the driver's AWS keys along with every trial, and Ray writes what it sends into logs and dashboard
class_cache.ENV_VARS_TO_PROPAGATE -= {name for name in class_cache.ENV_VARS_TO_PROPAGATE if name.startswith("AWS_")}

SCORE = "score"  # what schedulers compare: mIoU in percent, or WORST
WORST = -1.0  # of a diverged trial: NaN would never be stopped, and would win no comparison
NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EFBIG}
RETRIES = 3  # of a trial whose process is lost
PROCESSOR_TRIALS = 8  # at once on a machine without a GPU, at most: each needs its own copy of torch

Point = dict[str, Value]


@dataclass(frozen=True)
class Job:
    """What a worker needs to turn a point into a trial."""

    study: str
    stage: Stage
    starts: Mapping[str, TrialConfig]
    references: Mapping[str, str]
    site: Site
    storage: Storage
    threads: int
    token: str | None = None  # of the launch; a worker whose launch has lost the study writes nothing more

    def planned(self, point: Point) -> Planned:
        """The trial at a point."""
        config = self.stage.config(self.starts, point).resolved(self.references)
        return Planned(self.study, self.stage.name, point["start"], config)


@dataclass
class Halt:
    """Why a launch ends before its plan is done."""

    reason: str | None = None
    error: Exception | None = None


@contextlib.contextmanager
def cluster(address: str | None) -> Iterator[str | None]:
    """Ray: the cluster at ``address``, or one started in this process and ended with it. Gives the dashboard's URL.

    Raises:
        UserError: no cluster answers at that address.
    """
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR, "configure_logging": True}
    logging.getLogger("ray").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module=r"ray\..*")
    try:
        if address and "://" not in address and ":" in address:
            host, _, port = address.rpartition(":")
            socket.create_connection((host, int(port)), timeout=10).close()  # Ray itself would try for minutes
        if address:
            environment = {"env_vars": TUNE_ENVIRONMENT}
            context = ray.init(address=address, runtime_env=environment, **quiet)
        else:
            context = ray.init(address="local", include_dashboard=True, **quiet)
    except (OSError, ValueError) as error:
        reason = str(error.__cause__ or error).splitlines()[0]
        raise UserError(f"--address {address}: no Ray cluster answers there: {reason}") from error
    try:
        yield context.dashboard_url or None
    finally:
        ray.shutdown()


@contextlib.contextmanager
def interruptible() -> Iterator[Halt]:
    """Ctrl-C or SIGTERM once ends the launch in order, a second time at once."""
    halt = Halt()

    def handle(number: int, frame: FrameType | None) -> None:
        if halt.reason == "interrupted":
            os._exit(130)
        halt.reason = "interrupted"

    if threading.current_thread() is not threading.main_thread():
        yield halt
        return
    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield halt
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@dataclass(frozen=True)
class Share:
    """What each trial gets, and how many run at once."""

    cpus: float
    gpus: float
    at_once: int

    @property
    def threads(self) -> int:
        """Of torch, per trial."""
        return max(1, int(self.cpus))


def share(study: StudySpec, num_trials: int) -> Share:
    """Divides the cluster among the trials of a stage.

    Decided by the whole plan, not by what is left of it: the number of threads changes the last digits, and a continued
    stage must not differ from an undisturbed one.
    """
    have = ray.cluster_resources()
    cpus, gpus = max(1, int(have.get("CPU", 1))), have.get("GPU", 0)
    if gpus:
        slots = max(1, int(gpus / study.gpus_per_trial))
        at_once = min(num_trials, study.max_concurrent or slots, slots)
        return Share(max(1, cpus // slots), study.gpus_per_trial, at_once)
    at_once = min(num_trials, study.max_concurrent or PROCESSOR_TRIALS, cpus)
    return Share(cpus // at_once, 0, at_once)


def has_gpu() -> bool:
    """Whether the cluster has one."""
    return bool(ray.cluster_resources().get("GPU", 0))


def run_trial(point: Point, job: Job) -> None:
    """In a Ray worker: one trial, from its journal to its end; Ray hears of every evaluation."""
    torch.set_num_threads(job.threads)  # here, in the thread that computes: OpenMP counts per thread
    planned = job.planned(point)
    job.storage.folder.expected()
    _refuse_if_lost(job)
    try:
        for record in follow(planned, job.site, job.storage):
            row = record["row"]
            score = WORST if row["miou"] is None else row["miou"]
            metrics = {
                "trial": row["trial_id"],
                "step": row["step"] or 0,
                "status": row["status"],
                SCORE: score,
            }
            tune.report(metrics | {"error": row["error"]})
            _refuse_if_lost(job)
    except (UserError, OSError) as error:
        if isinstance(error, OSError) and error.errno not in NO_ROOM:
            raise  # storage may be away for a moment: Tune tries the trial again
        told = job.storage.unusable(error) if isinstance(error, OSError) else error
        tune.report({"trial": planned.trial_id, "step": 0, "status": "refused", SCORE: WORST, "error": str(told)})


def _refuse_if_lost(job: Job) -> None:
    """Ends this worker if another launch has taken the study over: two writers would mix."""
    content = job.storage.folder.read(LOCK)
    if job.token is not None and (content is None or job.token not in content.decode()):
        raise SystemExit


class FromPlan(Searcher):  # type: ignore[misc]
    """Hands out the points of a list, in its order, under their own names."""

    def __init__(self, points: Sequence[Point]) -> None:
        super().__init__(metric=SCORE, mode="max")
        self._left = list(points)

    def set_search_properties(self, metric: str | None, mode: str | None, config: dict[str, Any], **spec: Any) -> bool:
        """Nothing to set: the points are complete."""
        return True

    def suggest(self, trial_id: str) -> Any:
        """The next point."""
        return self._left.pop(0) if self._left else Searcher.FINISHED

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """The list does not depend on results."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the journal knows what is done."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: every launch makes a new one."""


class FromOptuna(FromPlan):
    """Asks Optuna's TPE for points; unfinished points of an earlier launch come first. No trial is run twice."""

    def __init__(self, job: Job, seed: int, past: Mapping[str, Record], samples: int) -> None:
        import optuna

        super().__init__([])
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._job, self._samples = job, samples
        self._study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=seed))
        self._asked: dict[str, Any] = {}
        self._given: set[str] = set()
        for trial_id, record in past.items():
            point = point_of(record, job.stage)
            if record["row"]["status"] in FINISHED:
                axes = {path: value for path, value in point.items() if path in job.stage.distributions()}
                score = record["row"]["miou"] if record["row"]["miou"] is not None else WORST
                self._study.add_trial(
                    optuna.trial.create_trial(params=axes, distributions=job.stage.distributions(), value=score)
                )
                self._given.add(trial_id)
            else:
                self._left.append(point)

    def suggest(self, trial_id: str) -> Any:
        """A point that no trial of the stage has had, or the end when there are none (a small grid is soon spent)."""
        if self._left:
            point = self._left.pop(0)
            self._given.add(self._job.planned(point).trial_id)
            return point
        if len(self._given) >= self._samples:
            return Searcher.FINISHED
        start = next(iter(self._job.starts))
        for _ in range(50):
            asked = self._study.ask(self._job.stage.distributions())
            point = {"start": start, **asked.params, "seed": self._job.stage.seeds[0]}
            name = self._job.planned(point).trial_id
            if name not in self._given:
                self._given.add(name)
                self._asked[trial_id] = asked
                return point
            self._study.tell(asked, state=_failed())
        return Searcher.FINISHED

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Tells Optuna the score."""
        asked = self._asked.pop(trial_id, None)
        if asked is not None:
            if result and SCORE in result:
                self._study.tell(asked, result[SCORE])
            else:
                self._study.tell(asked, state=_failed())


def _failed() -> Any:
    import optuna

    return optuna.trial.TrialState.FAIL


def point_of(record: Record, stage: Stage) -> Point:
    """The point at which a recorded trial stands."""
    config = TrialConfig.model_validate_json(record["row"]["config"])
    axes = {path: config.at(path) for path in (*stage.grid, *stage.ranges)}
    return {"start": record["row"]["start"], **axes, "seed": config.seed}


@dataclass(frozen=True)
class Known:
    """A trial as a scheduler sees it: by our id, which it keeps from launch to launch."""

    trial_id: str


def _report(entry: Mapping[str, Any]) -> dict[str, Any]:
    """An evaluation in the journal as the report that it was."""
    return {"step": entry["step"], SCORE: WORST if entry["miou"] is None else entry["miou"]}


class Rungs(AsyncHyperBandScheduler):  # type: ignore[misc]
    """ASHA whose rungs know trials by our ids, so that those of earlier launches count.

    A rung is a number of steps; it never shortens the learning-rate schedule. ``stop_last_trials=False``: a trial
    ends by itself, and one that is past its rungs is not judged at a lower one with a later value.
    """

    def __init__(self, halving: Halving, num_steps: int, past: Mapping[str, Record]) -> None:
        super().__init__(
            time_attr="step",
            metric=SCORE,
            mode="max",
            max_t=max(num_steps, 1),
            grace_period=max(1, round(halving.grace * num_steps)),
            reduction_factor=halving.reduction_factor,
            stop_last_trials=False,
        )
        for trial_id, record in past.items():
            self.on_trial_add(None, Known(trial_id))
            for entry in record["history"]:
                self.on_trial_result(None, Known(trial_id), _report(entry))

    def on_trial_add(self, controller: Any, trial: Any) -> None:
        """Before its first report a trial is known by Ray's id alone."""
        super().on_trial_add(controller, Known(trial.trial_id))

    def on_trial_result(self, controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Judges a report under the trial's own id; only a trial that still trains can be stopped."""
        name = result.get("trial", trial.trial_id)
        if name not in self._trial_info:
            self._trial_info[name] = self._brackets[0]
        decision: str = super().on_trial_result(controller, Known(name), result)
        return decision if result.get("status") == "running" else TrialScheduler.CONTINUE

    def on_trial_complete(self, controller: Any, trial: Any, result: dict[str, Any]) -> None:
        """Its last report has been judged already."""
        self._trial_info.pop(trial.trial_id, None)

    def on_trial_remove(self, controller: Any, trial: Any) -> None:
        """A trial that ended with an error keeps its rungs."""
        self._trial_info.pop(trial.trial_id, None)


class Median(MedianStoppingRule):  # type: ignore[misc]
    """Ray's median rule, knowing trials by our ids, so that those of earlier launches count."""

    def __init__(self, grace_steps: int, past: Mapping[str, Record]) -> None:
        super().__init__(
            time_attr="step",
            metric=SCORE,
            mode="max",
            grace_period=grace_steps,
            min_time_slice=float("inf"),  # never pauses a trial to let others catch up
            hard_stop=True,
        )
        for trial_id, record in past.items():
            for entry in record["history"]:
                super().on_trial_complete(None, Known(trial_id), _report(entry))

    def on_trial_result(self, controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Only a trial that still trains can be stopped."""
        known = Known(result.get("trial", trial.trial_id))
        decision: str = super().on_trial_result(controller, known, result)
        return decision if result.get("status") == "running" else TrialScheduler.CONTINUE

    def on_trial_complete(self, controller: Any, trial: Any, result: dict[str, Any]) -> None:
        """Its last report has been counted already."""


def scheduler(name: SchedulerName, study: StudySpec, num_steps: int, past: Mapping[str, Record]) -> TrialScheduler:
    """The early stopping of a stage."""
    if name == "asha":
        return Rungs(study.halving, num_steps, past)
    if name == "median":
        grace = max(1, round(study.halving.grace * num_steps))
        return Median(grace, past)
    return FIFOScheduler()


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
        if result.get("status") == "refused" and self._halt.reason is None:
            self._halt.reason, self._halt.error = "refused", UserError(result["error"])
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
        error = trial.get_error() if hasattr(trial, "get_error") else None
        lines = [line for line in str(error or "its process was lost").splitlines() if line.strip()]
        self._done(fail(record, f"{lines[-1].strip()} (after {RETRIES} retries)", self._job.storage))

    def _done(self, record: Record) -> None:
        self._ended(record)
        self._progress.trial_ended(record["row"])


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


def finished(record: Record, scheduler_name: SchedulerName) -> bool:
    """Whether a record is final: a stopped trial goes on when nothing stops it, a failed one is tried again."""
    status = record["row"]["status"]
    return status in ("completed", "diverged") or (status == "stopped" and scheduler_name != "none")


def run_stage(run: StageRun, points: Sequence[Point], num_steps: int) -> None:
    """Runs what is left of a stage. ``points``: the unfinished ones of a plan; ignored by TPE, which makes its own.

    Raises:
        UserError: a trial met bad input.
        Interrupted: by Ctrl-C or SIGTERM.
    """
    stage, name = run.job.stage, run.study.scheduler_of(run.job.stage)
    known = {k: r for k, r in run.past.items() if r["history"]}
    if stage.search == "tpe":
        num_samples = stage.samples or 0
        searcher: Searcher = FromOptuna(run.job, run.study.seed, run.past, num_samples)
        num_samples -= sum(finished(record, name) for record in run.past.values())
    else:
        # worst first, ASHA would stop nothing: the grid's order says nothing about quality, so it must not lead
        searcher = FromPlan(shuffled(points, run.study.seed, stage.name))
        num_samples = len(points)
    if num_samples <= 0:
        return
    experiment = f"{stage.name}-{time.strftime('%Y%m%d-%H%M%S')}-{uuid.uuid4().hex[:6]}"
    resources = {"cpu": run.share.cpus, **({"gpu": run.share.gpus} if run.share.gpus else {})}
    tuner = tune.Tuner(
        tune.with_resources(tune.with_parameters(run_trial, job=run.job), resources),
        tune_config=tune.TuneConfig(
            num_samples=num_samples,
            search_alg=searcher,
            scheduler=scheduler(name, run.study, num_steps, known),
            max_concurrent_trials=run.share.at_once,
            reuse_actors=True,
        ),
        run_config=tune.RunConfig(
            name=experiment,
            storage_path=str(_ray_folder(run.job.storage.folder)),
            failure_config=tune.FailureConfig(max_failures=RETRIES),
            callbacks=[Watch(run.job, run.halt, run.progress, run.ended)],
            stop=Stopping(run.halt),
            verbose=0,
        ),
    )
    tuner.fit()
    if run.halt.error is not None:
        raise run.halt.error
    if run.halt.reason is not None:
        raise Interrupted("interrupted; nothing finished is lost")


def _ray_folder(folder: Folder) -> Path:
    """Where Tune keeps its own files: nothing there is needed to continue, so it may be local."""
    return (folder.local or Path.home() / ".cache" / "kdtune" / "ray") / ".ray"
