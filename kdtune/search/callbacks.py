"""What Tune calls in the driver: who writes down what only the driver knows, and what ends an experiment."""

import kdtune.cluster.environment  # noqa: F401  # isort: skip  # before Ray, which reads it

import contextlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ray import tune

from kdtune.base import UserError
from kdtune.cluster.halt import Halt
from kdtune.records.progress import Reporter
from kdtune.records.storage import Record, Storage
from kdtune.records.trial_record import LESS_MEMORY, Planned, fail, new_record
from kdtune.search.stalls import Stalls
from kdtune.search.tune_faults import Unread

RETRIES = 3  # of a trial whose process is lost


class Watch(Unread, tune.Callback):  # type: ignore[misc]
    """Writes down what only the driver knows: which trials the scheduler stopped, which lost their process."""

    def __init__(
        self,
        storage: Storage,
        planned: Callable[[Mapping[str, Any]], Planned],
        halt: Halt,
        progress: Reporter,
        stalls: Stalls,
        cut_off: Callable[[Record], Record | None],
        ended: Callable[[Record], None],
        over: Callable[[str, str], None],
    ) -> None:
        """``planned``: the trial of what Tune was handed.

        ``cut_off`` gives the record of a trial that its stage's rule has stopped, or none if it only pauses. ``ended``
        is told of each trial that has ended; ``over`` of stage and id of each that runs no more, whatever became of it.
        """
        self._storage, self._planned, self._halt, self._progress = storage, planned, halt, progress
        self._stalls, self._cut_off, self._ended, self._over = stalls, cut_off, ended, over

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Some ten times a second."""
        self._stalls.placed(trials)

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A worker has it."""
        trial_id = trial.config["id"]
        self._stalls.begins(trial_id, trial)
        self._progress.trial_started(trial_id)

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
        with self._ends_launch():
            self._completed(trial)

    def _completed(self, trial: Any) -> None:
        result = trial.last_result or {}
        record = self._storage.record(result["trial"]) if "trial" in result else None
        running = record is not None and record["row"]["status"] == "running"
        if running and self._halt.reason is not None:
            return  # it goes on from here at the next launch
        if record is not None and running:
            record = self._cut_off(record)
        if record is not None:
            self._done(record)
        else:
            self._stalls.ended(trial.config["id"])
            self._progress.trial_paused(trial.config["id"])
        self._over(trial.config["stage"], trial.config["id"])

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Its process was lost once too often."""
        if self._halt.reason is None:
            with self._ends_launch():
                self._lost(trial)

    def _lost(self, trial: Any) -> None:
        planned = self._planned(trial.config)
        record = self._storage.record(planned.trial_id) or new_record(planned)
        cause = self._stalls.cause(planned.trial_id) or f"{_cause(trial)} (after {RETRIES} retries)"
        self._done(fail(record, cause, self._storage))
        self._over(trial.config["stage"], trial.config["id"])

    @contextlib.contextmanager
    def _ends_launch(self) -> Iterator[None]:
        """An error ends the launch: Tune would take it for one of the trial, and run that again."""
        try:
            yield
        except Exception as error:
            self._halt.end("refused", error)

    def _done(self, record: Record) -> None:
        self._stalls.ended(record["row"]["trial_id"])
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


def trial_name(trial: Any) -> str:
    """A trial of Tune's by our name of it: its id in the journal."""
    return str(trial.config["id"])
