"""A launch as one Ray Tune experiment: trials of all stages, side by side.

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
from typing import Any

from ray import tune
from ray.tune.schedulers import TrialScheduler

import kdtune.search.tune_faults  # noqa: F401  # mends them
from kdtune.base import Lost, UserError
from kdtune.cluster import loggers
from kdtune.cluster.halt import Halt, refuse_halted
from kdtune.cluster.share import Share
from kdtune.filesystem.folder import Folder
from kdtune.filesystem.patience import NO_ROOM
from kdtune.records.progress import Reporter
from kdtune.records.storage import Record, Storage
from kdtune.records.trial_record import Planned
from kdtune.search.actor_names import trial_class
from kdtune.search.callbacks import RETRIES, Stopping, Watch, trial_name
from kdtune.search.course import Course
from kdtune.search.early_stopping import ByStage
from kdtune.search.placement import asked
from kdtune.search.searchers import FromCourse
from kdtune.search.stalls import Stalls
from kdtune.search.worker import run_trial
from kdtune.study.stage import Stage


@dataclass(frozen=True)
class Experiment:
    """What an experiment needs of its launch."""

    storage: Storage
    course: Course
    rules: Mapping[str, TrialScheduler]  # stage -> its early stopping
    planned: Callable[[Mapping[str, Any]], Planned]  # the trial of what Tune was handed
    shares: Mapping[str, Share]  # stage -> what its trials get
    stages: Mapping[str, Stage]
    halt: Halt
    reporter: Reporter
    stalls: Stalls
    cut_off: Callable[[Record], Record | None]  # see ``callbacks.Watch``
    ended: Callable[[Record], None]
    loggers: Sequence[str] = ()  # see ``kdtune.cluster.loggers``

    def run(self) -> None:
        """Runs what the course hands out, to its end.

        Raises:
            UserError: a trial met bad input, or a stage refused to begin.
            Interrupted: by Ctrl-C, SIGTERM or `kdtune stop`.
        """
        folder, study = self.storage.folder, self.storage.study
        watchers = [
            Watch(
                self.storage,
                self.planned,
                self.halt,
                self.reporter,
                self.stalls,
                self.cut_off,
                self.ended,
                self.course.ended,
            ),
            *loggers.callbacks(self.loggers, folder, study, trial_name),
        ]
        places = {name: asked(share.resources, self.stages[name].labels) for name, share in self.shares.items()}

        def trial(given: dict[str, Any]) -> None:  # its own, for Tune notes on it what it asks for
            run_trial(given)

        with _rays_files(folder):
            tuner = tune.Tuner(
                trial_class(tune.with_resources(trial, lambda given: places[given["stage"]])),
                tune_config=tune.TuneConfig(
                    num_samples=-1,  # until the course is at its end
                    search_alg=FromCourse(self.course, self.halt),
                    scheduler=ByStage(self.rules),
                    reuse_actors=True,
                    trial_name_creator=trial_name if self.loggers else None,
                ),
                run_config=tune.RunConfig(
                    name=f"{study}-{time.strftime('%Y%m%d-%H%M%S')}-{uuid.uuid4().hex[:6]}",
                    storage_path=str(_ray_folder(folder)),
                    failure_config=tune.FailureConfig(max_failures=RETRIES),
                    callbacks=watchers,
                    stop=Stopping(self.halt),
                    verbose=0,
                ),
            )
            _fit(tuner, self.halt)
        refuse_halted(self.halt)


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
