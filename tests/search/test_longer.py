"""The student that is trained as long as the dearest method: how many steps that is, and when its trials are known."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kdtune.records.storage import Storage
from kdtune.search.dry_run import forecast
from kdtune.search.longer import length, longer, so_far, told
from kdtune.search.stage_context import StageContext
from kdtune.study.file import read
from kdtune.study.spec import StudySpec
from kdtune.training.site import Site
from tests.support.small_study import small, write

STARTS = "start_from: [student, distill]\n"
LONGER = f"{STARTS}    longer: student\n"


def row(start: str, seconds: float | None, **given: Any) -> dict[str, Any]:
    """Of a completed trial of ten steps."""
    known = {"start": start, "config_id": start, "status": "completed", "step": 10, "device": "cpu", "seed": 11}
    return known | {"train_seconds": seconds} | given


STUDENT = [row("student", 2.0), row("student", 3.0)]  # 0.25 s a step


def test_as_many_steps_as_take_the_dearest_methods_seconds() -> None:
    dear = [row("weight-ho", 9.0), row("weight-ho", 8.0)]
    assert length(STUDENT, [*dear, row("weight-pi", 8.4)], 10) == 34
    assert length(STUDENT, [row("weight-pi", 8.4)], 10) == 33  # the last step would not have come to its end


def test_never_fewer_than_the_student_has() -> None:
    assert length(STUDENT, [row("weight-pi", 1.0)], 10) == 10
    assert length([row("student", 2.0, step=15)], [row("weight-pi", 1.0)], 10) == 15  # of a budget
    assert length(STUDENT, [], 10) == 10
    assert length([row("student", None, status="failed", step=None)], [row("weight-pi", 9.0)], 10) == 10


def test_only_what_ran_on_one_device_is_compared() -> None:
    others = [row("weight-ho", 90.0, device="other"), row("weight-pi", 5.0), row("weight-pa", 80.0, status="stopped")]
    assert length([*STUDENT, row("student", 0.1, device="other")], others, 10) == 20


class Final:
    """Stage ``final`` of the small study: its trials as planned, those of ``distill`` three times as dear."""

    def __init__(self, folder: Path, more: str = "") -> None:
        self.study: StudySpec = small(folder, (STARTS, LONGER + more))
        self.stage = self.study.stage("final")
        starts = self.study.template_starts(self.stage)
        storage = Storage(str(folder), "small")
        self.context = StageContext("small", self.stage, starts, {}, Site(), storage, threads=1)
        points = self.stage.points([*starts], 0)
        self.planned = {self.context.planned(point).trial_id: point for point in points}
        self.records: dict[str, Any] = {}

    def end(self, count: int, status: str = "completed") -> None:
        for id_, point in [*self.planned.items()][:count]:
            start = point["start"]
            found = row(start, 1.0 if start == "student" else 3.0, step=2, status=status, seed=point["seed"])
            self.records[id_] = {"row": found}


def test_its_trials_are_known_when_all_others_have_ended(tmp_path: Path) -> None:
    final = Final(tmp_path)
    final.end(3)
    assert longer(final.context, final.planned, final.records) == {}
    final.end(4, status="running")
    assert longer(final.context, final.planned, final.records) == {}
    final.end(4)
    points = longer(final.context, final.planned, final.records)
    shared = {"start": "student", "variant": "longer", "recipe.num_steps": 6}
    assert [*points.values()] == [{**shared, "seed": 11}, {**shared, "seed": 12}]
    config = final.context.planned(next(iter(points.values()))).config
    assert (config.method, config.recipe.num_steps, config.recipe.lr) == ("longer", 6, 0.1)
    assert not points.keys() & final.planned.keys()
    assert "final: all others have ended, so student is trained once more, for 6 steps" in told(final.stage, points)


def test_those_of_an_earlier_launch_stay_until_it_is_known_better(tmp_path: Path) -> None:
    """If they are of the student as it is chosen now."""
    final = Final(tmp_path)
    final.end(4)
    known = longer(final.context, final.planned, final.records)
    for id_, point in known.items():
        found = row("student", 3.0, method="longer", steps_total=point["recipe.num_steps"], seed=point["seed"])
        final.records[id_] = {"row": found}
    for id_ in final.planned:
        final.records[id_]["row"]["method"] = "student"
    assert so_far(final.context, final.records) == known
    other = {"student": final.context.starts["student"].replace({"recipe.lr": 0.5})}
    assert so_far(replace(final.context, starts={**final.context.starts, **other}), final.records) == {}


def test_seeds_that_are_added_change_no_number_of_steps(tmp_path: Path) -> None:
    """The trials of the first seed stand: they alone say how long it is, and are what they were."""
    final = Final(tmp_path, "    added_seeds: 1\n")
    final.end(4)
    for id_, point in final.planned.items():
        if point["seed"] == 12:
            del final.records[id_]
    points = longer(final.context, final.planned, final.records)
    assert [(point["recipe.num_steps"], point["seed"]) for point in points.values()] == [(6, 11), (6, 12)]


def test_a_budget_of_its_stage_is_not_the_students(tmp_path: Path) -> None:
    final = Final(tmp_path, "    budget: {seconds: 60}\n")
    final.end(4)
    found = [
        final.context.planned(point).config for point in longer(final.context, final.planned, final.records).values()
    ]
    assert [(config.recipe.num_steps, config.recipe.budget) for config in found] == [(6, None), (6, None)]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ((STARTS, f"{STARTS}    longer: teacher\n"), "longer is one of the starts of a stage that repeats them"),
        ((STARTS, f"{STARTS}    longer: distill\n"), "longer: variant: longer is a student without a teacher, but"),
        (("      recipe.lr: [1e-1, 1e-2]\n", "      recipe.lr: [1]\n    longer: student\n"), "starts from none, and"),
    ],
)
def test_what_does_not_fit_is_one_line(tmp_path: Path, changes: tuple[str, str], message: str) -> None:
    faults, _ = read(write(tmp_path, changes))
    assert message in faults[0]


def test_a_dry_run_counts_it_without_its_steps(tmp_path: Path) -> None:
    told = forecast(small(tmp_path, (STARTS, LONGER)), Storage(str(tmp_path), "small"))
    assert "6 trials of 2 steps, batch 2 (2 of them as long as the dearest of the others take)" in told
    assert "10 trials, at most 16 steps, 2 of them as long as the dearest method" in told
