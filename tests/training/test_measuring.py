"""A trial of a budget: how many steps it gets, and that it keeps them whatever becomes of it."""

from pathlib import Path
from typing import Any

import pytest

from kdtune.base import UserError
from kdtune.records.journal import follow
from kdtune.records.lengths import keep_length
from kdtune.records.storage import Storage
from kdtune.records.trial_record import Planned, new_record
from kdtune.study.file import read
from kdtune.study.spec import StudySpec
from kdtune.training import measuring
from kdtune.training.energy import Amount
from kdtune.training.measuring import WARM, steps_allowed, with_length
from kdtune.training.site import Site
from kdtune.training.trial import run
from tests.support.small_study import small, write

NAME = "  - name: student\n"
SITE = Site(pack="never")


def limited(folder: Path, budget: str) -> StudySpec:
    return small(folder, (NAME, f"{NAME}    budget: {{{budget}}}\n    scheduler: none\n"))


def test_steps_are_the_recipes(tmp_path: Path) -> None:
    made = limited(tmp_path, "steps: 7").templates()
    assert [made[name].recipe.num_steps for name in ("student", "distill")] == [7, 2]
    assert made["student"].recipe.budget is None


def test_a_stage_that_starts_from_it_has_the_budget_too(tmp_path: Path) -> None:
    study = limited(tmp_path, "seconds: 60")
    assert study.templates()["final"].recipe.budget == study.stage("student").budget
    assert study.templates()["distill"].recipe.length == "2 steps"
    assert study.templates()["final"].recipe.length == "60 seconds"


@pytest.mark.parametrize(
    ("budget", "message"),
    [
        ("{seconds: 60}\n", "scheduler: trials of a budget are of different lengths"),
        ("{seconds: 60, kwh: 1}\n    scheduler: none\n", "budget: needs one of steps, seconds and kwh"),
        ("{hours: 1}\n    scheduler: none\n", "budget.hours: unknown key"),
    ],
)
def test_what_does_not_fit_is_one_line(tmp_path: Path, budget: str, message: str) -> None:
    faults, _ = read(write(tmp_path, (NAME, f"{NAME}    budget: {budget}")))
    assert message in faults[0]


def test_a_larger_budget_allows_more_and_the_smallest_one_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measuring, "LEAST", 0.0)

    def allowed(seconds: float) -> int:
        return steps_allowed(limited(tmp_path, f"seconds: {seconds}").templates()["student"], SITE)

    assert allowed(1e-6) == 1
    assert allowed(1e6) > 100 * allowed(10.0) > 100


def test_energy_counts_as_it_is_measured_and_must_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measuring, "LEAST", 0.0)
    config = limited(tmp_path, "kwh: 1.5").templates()["student"]
    readings = iter([0.0, 0.5, 0.5, 1.0, 1.0])  # before the first step, then before and after each evaluation
    assert steps_allowed(config, SITE, lambda: Amount(next(readings))) == (1.5 - (0.5 - WARM * 0.05)) / 0.05
    with pytest.raises(UserError, match="no energy is measured here"):
        steps_allowed(config, SITE)


def test_a_trial_is_measured_once_and_is_what_it_would_be_with_as_many_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    def measured(*given: Any) -> int:
        asked.append(given)
        return 3

    monkeypatch.setattr("kdtune.training.measuring.steps_allowed", measured)
    config = limited(tmp_path, "seconds: 60").templates()["student"]
    storage, planned = Storage(str(tmp_path / "s"), "small"), Planned("small", "student", "base", config)
    first = next(iter(follow(planned, SITE, storage)))  # then it is left alone
    assert (first["row"]["steps_total"], first["row"]["step"]) == (3, 1)
    last = [*follow(planned, SITE, storage)][-1]
    assert (last["row"]["status"], last["row"]["step"], len(asked)) == ("completed", 3, 1)
    *_, (expected, _) = run(with_length(config, 3), SITE)
    assert [entry["loss"] for entry in last["history"]][-1] == expected.loss
    anew = new_record(planned)
    assert anew["row"]["steps_total"] is None
    keep_length(anew, last)
    assert anew["row"]["steps_total"] == 3
