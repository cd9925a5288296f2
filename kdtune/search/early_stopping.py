"""Ray's schedulers, knowing trials by our ids, so that what earlier launches saw counts."""

import kdtune.cluster.environment  # noqa: F401  # isort: skip  # before Ray, which reads it

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ray.tune.experiment import Trial
from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler, MedianStoppingRule, TrialScheduler

from kdtune.records.storage import Record
from kdtune.search.halving import Halves
from kdtune.search.stage_context import SCORE, WORST
from kdtune.search.tune_faults import Unread
from kdtune.study.schedulers import Halving, SchedulerName
from kdtune.study.spec import StudySpec


@dataclass(frozen=True)
class Known:
    """A trial as a scheduler sees it: by our id, which it keeps from launch to launch."""

    trial_id: str


def _report(entry: Mapping[str, Any]) -> dict[str, Any]:
    """An evaluation in the journal as the report that it was."""
    return {"step": entry["step"], SCORE: WORST if entry["miou"] is None else entry["miou"]}


class Alive(TrialScheduler):  # type: ignore[misc]
    """Starts trials in the order in which they were made, as Ray's schedulers do.

    Ray looks at every trial that there ever was, at each of its steps: at 1,400 trials a quarter of the driver's time.
    """

    def choose_trial_to_run(self, controller: Any) -> Any:
        """The first that waits, else the first that was paused; none if all that are alive run."""
        alive = sorted(controller.get_live_trials(), key=lambda trial: str(trial.trial_id))
        waiting = [trial for status in (Trial.PENDING, Trial.PAUSED) for trial in alive if trial.status == status]
        return waiting[0] if waiting else None


class InOrder(Alive, FIFOScheduler):  # type: ignore[misc]
    """Stops nothing."""


class Rungs(Alive, AsyncHyperBandScheduler):  # type: ignore[misc]
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
        bracket = self._brackets[0]
        bracket.cutoff = lambda recorded: None  # nobody is judged again: a percentile of all, for each of thousands
        for trial_id, record in past.items():
            self.on_trial_add(None, Known(trial_id))
            for entry in record["history"]:
                self.on_trial_result(None, Known(trial_id), _report(entry))
        del bracket.cutoff

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


class Median(Alive, MedianStoppingRule):  # type: ignore[misc]
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
        self._means: dict[Known, dict[float, Any]] = {}  # trial -> step -> mean until then
        for trial_id, record in past.items():
            for entry in record["history"]:
                super().on_trial_complete(None, Known(trial_id), _report(entry))

    def on_trial_result(self, controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Only a trial that still trains can be stopped."""
        known = Known(result.get("trial", trial.trial_id))
        self._means.pop(known, None)
        decision: str = super().on_trial_result(controller, known, result)
        return decision if result.get("status") == "running" else TrialScheduler.CONTINUE

    def _running_mean(self, trial: Known, time: float) -> Any:
        """Ray's, kept until the trial reports again: it is asked for of every trial at every report of any."""
        means = self._means.setdefault(trial, {})
        if time not in means:
            means[time] = super()._running_mean(trial, time)
        return means[time]

    def on_trial_complete(self, controller: Any, trial: Any, result: dict[str, Any]) -> None:
        """Its last report has been counted already."""


class AtRungs(InOrder):
    """Pauses a trial that has come to the first rung that is not decided, or beyond."""

    def __init__(self, halves: Halves) -> None:
        super().__init__()
        self._halves = halves

    def on_trial_result(self, controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """To Ray a trial that pauses has ended: it comes back as another one of Ray's."""
        pauses = result.get("status") == "running" and result["step"] >= self._halves.next_rung
        return str(TrialScheduler.STOP if pauses else TrialScheduler.CONTINUE)


def scheduler(name: SchedulerName, study: StudySpec, num_steps: int, past: Mapping[str, Record]) -> TrialScheduler:
    """The early stopping of a stage."""
    if name == "asha":
        return Rungs(study.halving, num_steps, past)
    if name == "median":
        grace = max(1, round(study.halving.grace * num_steps))
        return Median(grace, past)
    return InOrder()


class ByStage(Unread, Alive):
    """Judges each trial by the rule of its stage."""

    def __init__(self, rules: Mapping[str, TrialScheduler]) -> None:
        self._rules = rules  # stage -> its early stopping, from when its first trial is offered

    def on_trial_add(self, controller: Any, trial: Any) -> None:
        """Goes to the stage's rule, as all that follows."""
        self._rule(trial).on_trial_add(controller, trial)

    def on_trial_error(self, controller: Any, trial: Any) -> None:
        self._rule(trial).on_trial_error(controller, trial)

    def on_trial_result(self, controller: Any, trial: Any, result: dict[str, Any]) -> str:
        decision: str = self._rule(trial).on_trial_result(controller, trial, result)
        return decision

    def on_trial_complete(self, controller: Any, trial: Any, result: dict[str, Any]) -> None:
        self._rule(trial).on_trial_complete(controller, trial, result)

    def on_trial_remove(self, controller: Any, trial: Any) -> None:
        self._rule(trial).on_trial_remove(controller, trial)

    def debug_string(self) -> str:
        return "kdtune"

    def _rule(self, trial: Any) -> TrialScheduler:
        return self._rules[trial.config["stage"]]
