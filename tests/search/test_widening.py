"""The further trials of a stage: they follow from what its trials came to, whenever that is asked."""

from collections import deque
from pathlib import Path
from typing import Any

from kdtune.records.storage import Storage
from kdtune.search.course import Course, Listed, Offer
from kdtune.search.dry_run import forecast
from kdtune.search.stage_context import StageContext
from kdtune.search.widening import further, told
from kdtune.study.graph import Waits
from kdtune.study.spec import StudySpec
from kdtune.training.site import Site
from tests.support.small_study import small

GRID = "      recipe.lr: [1e-1, 1e-2]\n"


class Trials:
    """A stage of two learning rates, and the mIoU that each of its trials comes to."""

    def __init__(self, folder: Path, extend: int, miou: dict[float, float]) -> None:
        self.study: StudySpec = small(folder, (GRID, f"{GRID}    extend: {extend}\n    seeds: [0, 1]\n"))
        self.stage, self.miou = self.study.stage("student"), miou
        storage = Storage(str(folder), "small")
        self.context = StageContext("small", self.stage, {"base": self.study.base}, {}, Site(), storage, threads=1)
        self.records: dict[str, Any] = {}
        for point in self.stage.points(["base"], 0):
            self.end(point)

    def end(self, point: dict[str, Any], status: str = "completed") -> None:
        planned = self.context.planned(point)
        row = {"trial_id": planned.trial_id, "config_id": planned.config.config_id, "start": "base", "status": status}
        self.records[planned.trial_id] = {"row": row | {"miou": self.miou[point["recipe.lr"]]}}

    def further(self) -> list[tuple[float, int]]:
        return [(point["recipe.lr"], point["seed"]) for point in further(self.context, self.records).values()]

    def run_further(self) -> None:
        for id_, point in further(self.context, self.records).items():
            if id_ not in self.records:
                self.end(point)


def test_a_stage_is_widened_step_by_step_while_the_newest_is_the_best(tmp_path: Path) -> None:
    trials = Trials(tmp_path, 3, {0.1: 5.0, 0.01: 4.0, 1.0: 6.0, 10.0: 2.0})
    assert trials.further() == [(1.0, 0), (1.0, 1)]
    trials.run_further()
    assert trials.further() == [(1.0, 0), (1.0, 1), (10.0, 0), (10.0, 1)]
    trials.run_further()
    assert trials.further() == [(1.0, 0), (1.0, 1), (10.0, 0), (10.0, 1)]  # the best has neighbours on both sides


def test_it_is_widened_at_most_so_often_and_not_before_all_have_ended(tmp_path: Path) -> None:
    trials = Trials(tmp_path, 1, {0.1: 5.0, 0.01: 6.0, 0.001: 7.0})
    assert trials.further() == [(0.001, 0), (0.001, 1)]
    trials.run_further()
    assert len(trials.further()) == 2
    for point in trials.stage.points(["base"], 0)[:1]:
        trials.end(point, status="running")
    assert trials.further() == []


def test_what_failed_has_ended_and_is_no_best(tmp_path: Path) -> None:
    trials = Trials(tmp_path, 1, {0.1: 5.0, 0.01: 6.0})
    for point in trials.stage.points(["base"], 0)[2:3]:
        trials.end(point, status="failed")
    assert trials.further() == [(1.0, 0), (1.0, 1)]


def test_where_all_have_diverged_less_is_tried(tmp_path: Path) -> None:
    trials = Trials(tmp_path, 2, {0.1: 5.0, 0.01: 6.0, 0.001: 3.0})
    for point in trials.stage.points(["base"], 0):
        trials.end(point, status="diverged")
    assert trials.further() == [(0.001, 0), (0.001, 1)]
    why = told(trials.stage, further(trials.context, trials.records), trials.records)
    assert why == "student: all of it has diverged, so recipe.lr 0.001 is tried, too"
    trials.run_further()
    assert trials.further()[2:] == [(0.0001, 0), (0.0001, 1)]
    trials.end(trials.stage.points(["base"], 0)[0], status="failed")
    assert trials.further() == []


def test_a_dry_run_says_how_many_it_may_be(tmp_path: Path) -> None:
    study = small(tmp_path, (GRID, f"{GRID}    extend: 2\n"))
    shown = forecast(study, Storage(str(tmp_path), "small"))
    assert "student             2 trials of 2 steps, batch 2, early stopping by asha; up to 2 more where" in shown


def test_a_course_decides_a_stage_when_it_is_widened_no_more() -> None:
    more = {"student": ["c", "d"]}
    told: list[str] = []
    over: list[tuple[str, str]] = []

    class Own(Listed):
        def over(self, trial: str) -> None:
            over.append((trial, given[-1]))

    given: list[str] = []

    def widen(name: str) -> Listed | None:
        left = more.get(name)
        given.extend(left[:1] if left else [])
        return Own(deque([Offer(left.pop(0), {})])) if left else None

    way = Course(
        {
            "student": Waits("student", {"base": frozenset()}, 2, 10),
            "final": Waits("final", {"student": frozenset({"student"})}, 2, 10),
        },
        ["student", "final"],
        lambda name, starts: Listed(deque(Offer(id_, {}) for id_ in ("ab" if name == "student" else "xy"))),
        told.append,
        lambda name: 9,
        widen=widen,
    )

    def begin() -> str:
        return "".join(offer.trial_id for offer in iter(lambda: way.next("tune"), None))

    assert begin() == "ab"
    way.ended("student", "a")
    assert begin() == ""
    way.ended("student", "b")
    assert begin() == "c"
    way.ended("student", "c")
    assert (begin(), told) == ("d", [])
    way.ended("student", "d")
    assert (begin(), told) == ("xy", ["student"])
    assert over == [("c", "c"), ("d", "d")]  # who judges some trials is not told of others
