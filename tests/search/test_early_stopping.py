"""What schedulers do with thousands of earlier trials: the same decisions, at no cost that grows with the square."""

import random
from dataclasses import dataclass
from typing import Any

import pytest
from ray.tune.experiment import Trial
from ray.tune.schedulers import MedianStoppingRule
from ray.tune.schedulers.async_hyperband import _Bracket

from kdtune.search.early_stopping import Known, Median, Rungs, scheduler
from kdtune.search.stage_context import SCORE
from kdtune.study.schedulers import Halving, SchedulerName
from tests.support.tiny import study

STEPS = range(10, 101, 10)
HALVING = Halving(grace=0.1, reduction_factor=2)


def past(count: int) -> dict[str, dict[str, Any]]:
    """Trials that ended at any step, each with a history."""
    generator = random.Random(7)
    return {
        f"past-{i}": {
            "history": [
                {"step": step, "miou": generator.uniform(0, 100)} for step in STEPS[: generator.randint(1, len(STEPS))]
            ]
        }
        for i in range(count)
    }


def report(trial: str, step: int, score: float) -> dict[str, Any]:
    return {"trial": trial, "step": step, SCORE: score, "status": "running"}


def test_replayed_rungs_are_those_of_live_reports() -> None:
    live = Rungs(HALVING, 100, {})
    for trial_id, record in past(40).items():
        live.on_trial_add(None, Known(trial_id))
        for entry in record["history"]:
            live.on_trial_result(None, Known(trial_id), report(trial_id, entry["step"], entry["miou"]))
    replayed = Rungs(HALVING, 100, past(40))
    assert replayed._brackets[0]._rungs == live._brackets[0]._rungs
    assert replayed.on_trial_result(None, Known("ray-1"), report("new", 10, -1.0)) == "STOP"


def test_a_replay_looks_at_no_rung_as_a_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    cutoff = _Bracket.cutoff

    def counting(self: _Bracket, recorded: dict[str, float]) -> Any:
        seen.append(len(recorded))
        return cutoff(self, recorded)

    monkeypatch.setattr(_Bracket, "cutoff", counting)
    rungs = Rungs(HALVING, 100, past(40))
    assert seen == []
    rungs.on_trial_result(None, Known("ray-1"), report("new", 10, 50.0))
    assert seen == [40]


def test_kept_means_change_no_decision_and_are_taken_once(monkeypatch: pytest.MonkeyPatch) -> None:
    ray = MedianStoppingRule(
        time_attr="step", metric=SCORE, mode="max", grace_period=10, min_time_slice=float("inf"), hard_stop=True
    )
    for trial_id, record in past(40).items():
        for entry in record["history"]:
            ray.on_trial_complete(None, Known(trial_id), {"step": entry["step"], SCORE: entry["miou"]})
    taken: list[tuple[Known, float]] = []
    mean = MedianStoppingRule._running_mean

    def counting(self: MedianStoppingRule, trial: Known, time: float) -> Any:
        if isinstance(self, Median) and trial.trial_id.startswith("past"):
            taken.append((trial, time))
        return mean(self, trial, time)

    monkeypatch.setattr(MedianStoppingRule, "_running_mean", counting)
    ours = Median(10, past(40))
    generator = random.Random(8)
    running = [f"new-{i}" for i in range(12)]
    decisions = []
    for step in STEPS:
        for name in list(running):
            told = report(name, step, generator.uniform(20, 60))
            both = (ours.on_trial_result(None, Known("ray"), told), ray.on_trial_result(None, Known(name), told))
            assert both[0] == both[1]
            decisions.append(both[0])
            if both[0] == "STOP":
                running.remove(name)
    assert {"STOP", "CONTINUE"} == set(decisions)
    assert len(taken) == len(set(taken))


@dataclass(frozen=True)
class Made:
    """A trial of Tune, and how it is."""

    trial_id: str
    status: str


class Controller:
    """What a scheduler is given: the trials that are alive. It has no list of all, which must not be gone through."""

    def __init__(self, *trials: Made) -> None:
        self._alive = set(trials)

    def get_live_trials(self) -> set[Made]:
        return self._alive


@pytest.mark.parametrize("name", ["none", "asha", "median"])
def test_the_first_that_waits_is_started_without_a_look_at_all(name: SchedulerName) -> None:
    chooses = scheduler(name, study(), 100, {})
    running, paused = Made("x_00001", Trial.RUNNING), Made("x_00002", Trial.PAUSED)
    late, early = Made("x_00012", Trial.PENDING), Made("x_00009", Trial.PENDING)
    assert chooses.choose_trial_to_run(Controller()) is None
    assert chooses.choose_trial_to_run(Controller(running)) is None
    assert chooses.choose_trial_to_run(Controller(running, paused)) is paused
    assert chooses.choose_trial_to_run(Controller(late, running, paused, early)) is early
