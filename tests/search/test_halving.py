"""Trials judged together, without Ray: their values are given, and come in whatever order the test likes."""

import itertools
import random
from typing import Any

import pytest

from kdtune.search.course import Offer
from kdtune.search.halving import Halves

RUNGS, STEPS, EVERY = (4, 8), 12, 2
VALUES = {"a": 30.0, "b": 20.0, "c": 25.0, "d": 10.0, "e": 28.0}  # at every step, but where a test says else


class Trials:
    """Records of trials, as journals have them, and a worker that runs one to where it pauses or ends."""

    def __init__(self, values: dict[str, float], later: dict[str, float] | None = None) -> None:
        self.values, self.later = values, later or {}  # from the second rung on
        self.records: dict[str, Any] = {}
        self.lines: list[str] = []
        self.out: list[tuple[str, int]] = []

    def halves(self) -> Halves:
        order = [t for t in self.values if self.status(t) not in ("completed", "diverged")]
        return Halves(
            order,
            list(self.values),
            RUNGS,
            2,
            self.records.get,
            lambda trial: Offer(trial, {}),
            self.decided,
            self.lines.append,
        )

    def status(self, trial: str) -> str:
        return str(self.records[trial]["row"]["status"]) if trial in self.records else "running"

    def decided(self, trial: str, rung: int, cut: float, goes_on: bool) -> bool:
        if self.status(trial) != "running" or rung in self.records[trial]["cuts"]:
            return False
        self.records[trial]["cuts"][rung] = cut
        if not goes_on:
            self.records[trial]["row"]["status"] = "stopped"
            self.out.append((trial, rung))
        return True

    def run(self, trial: str, until: float, fails: int | None = None) -> None:
        """Evaluates until the rung, or to the end; at step ``fails`` it fails."""
        record = self.records.setdefault(trial, {"row": {"status": "running"}, "history": [], "cuts": {}})
        done = max((entry["step"] for entry in record["history"]), default=0)
        for step in range(done + EVERY, STEPS + 1, EVERY):
            if step == fails:
                record["row"]["status"] = "failed"
                return
            value = self.later.get(trial, self.values[trial]) if step >= RUNGS[1] else self.values[trial]
            record["history"].append({"step": step, "miou": value})
            if step >= until:
                return
        record["row"]["status"] = "completed"

    def steps(self) -> dict[str, int]:
        return {trial: len(record["history"]) * EVERY for trial, record in self.records.items()}


def finish(trials: Trials, slots: int, seed: int = 0, fails: dict[str, int] | None = None) -> None:
    """So many at once; which of those that run is through first is random."""
    halves, generator, running = trials.halves(), random.Random(seed), list[str]()
    while True:
        while len(running) < slots and (offer := halves.take("tune")) is not None:
            running.append(offer.trial_id)
        if not running:
            break
        trial = running.pop(generator.randrange(len(running)))
        trials.run(trial, halves.next_rung, (fails or {}).get(trial))
        halves.over(trial)
    assert not halves.left
    assert halves.open == []


@pytest.mark.parametrize("slots", [1, 2, 5])
def test_the_better_half_goes_on_whoever_comes_first(slots: int) -> None:
    for seed in range(10):
        trials = Trials(VALUES, later={"e": 31.0})
        finish(trials, slots, seed)
        assert trials.steps() == {"a": 12, "e": 12, "c": 8, "b": 4, "d": 4}  # three of five, then two of three
        assert sorted(trials.out) == [("b", 4), ("c", 8), ("d", 4)]
        assert trials.lines == [
            "5 trials are at step 4: the 3 with an mIoU of at least 25.00 go on",
            "3 trials are at step 8: the 2 with an mIoU of at least 30.00 go on",
        ]


def test_equals_go_on() -> None:
    trials = Trials(dict.fromkeys("abcde", 5.0))
    finish(trials, 2)
    assert set(trials.steps().values()) == {STEPS}


def test_what_fails_counts_as_last_and_holds_nobody_up() -> None:
    trials = Trials(VALUES)
    finish(trials, 2, fails={"a": 2, "c": 6})
    assert trials.steps() == {"a": 0, "e": 12, "c": 4, "b": 12, "d": 4}  # at step 4: e, c, b; at 8: e, b, and c is gone
    assert trials.status("a") == trials.status("c") == "failed"


def test_the_last_that_is_left_does_not_pause() -> None:
    trials = Trials({"a": 2.0, "b": 1.0})
    halves = trials.halves()
    for _ in range(2):
        offer = halves.take("tune")
        assert offer is not None
        trials.run(offer.trial_id, halves.next_rung)
        halves.over(offer.trial_id)
    assert trials.steps() == {"a": 4, "b": 4}
    assert halves.next_rung == float("inf")
    finish(trials, 1)
    assert trials.steps() == {"a": 12, "b": 4}
    assert len(trials.lines) == 1


def test_rungs_that_a_trial_was_never_looked_at_are_decided_by_what_came_next() -> None:
    """The study's rungs have changed since the first two began."""
    trials = Trials({"a": 30.0, "b": 20.0, "c": 25.0})
    for trial in "ab":
        trials.records[trial] = {"row": {"status": "running"}, "history": [{"step": 6, "miou": None}], "cuts": {}}
        trials.records[trial]["history"][0]["miou"] = trials.values[trial]
    finish(trials, 2)
    assert {trial: trials.status(trial) for trial in "abc"} == {"a": "completed", "b": "stopped", "c": "stopped"}
    assert [line for line in trials.lines if "step 4" in line] == [
        "3 trials are at step 4: the 2 with an mIoU of at least 25.00 go on"
    ]


def test_all_fail() -> None:
    trials = Trials(VALUES)
    finish(trials, 2, fails=dict.fromkeys(VALUES, 2))
    assert set(trials.steps().values()) == {0}


@pytest.mark.parametrize("ends", list(itertools.product(range(3), repeat=2)))
def test_a_launch_that_continues_decides_the_same(ends: tuple[int, ...]) -> None:
    """Ended after so many pauses or ends, and once more."""
    trials = Trials(VALUES)
    for number in ends:
        halves = trials.halves()
        for _ in range(number):
            offer = halves.take("tune")
            assert offer is not None
            trials.run(offer.trial_id, halves.next_rung)
            halves.over(offer.trial_id)
        if (cut_off := halves.take("tune")) is not None:  # within its next two evaluations
            trials.run(cut_off.trial_id, trials.steps().get(cut_off.trial_id, 0) + EVERY)
    finish(trials, 2)
    assert trials.steps() == {"a": 12, "e": 12, "c": 8, "b": 4, "d": 4}
    assert len(trials.lines) == 2
    again = trials.halves()
    assert (again.open, again.left, len(trials.lines)) == ([], False, 2)


def test_what_was_stopped_by_another_rule_goes_on_if_it_is_among_the_better() -> None:
    trials = Trials(VALUES)
    for trial in "ad":
        trials.run(trial, 2)
        trials.records[trial]["row"]["status"] = "stopped"
    finish(trials, 2)
    assert trials.steps()["a"] == STEPS


def test_a_trial_that_comes_to_nothing_is_not_tried_for_ever() -> None:
    trials = Trials(VALUES)
    halves = trials.halves()
    first = halves.take("tune")
    assert first is not None
    halves.over(first.trial_id)
    taken = [offer.trial_id for offer in iter(lambda: halves.take("tune"), None) if offer is not None]
    assert first.trial_id not in taken
