"""What ``--dry-run`` says of a study that has begun: what stands, what runs anew, in what time."""

import random
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kdtune.records.storage import Storage
from kdtune.records.trial_record import Planned
from kdtune.search.dry_run import forecast
from kdtune.study.spec import StudySpec
from kdtune.training import step_times
from tests.support import report_study
from tests.support.small_study import small

GRID = {"recipe.lr": [0.1, 0.2]}


def study(grid: dict[str, Any] | None = None, **changes: Any) -> StudySpec:
    """A search of two rates, whose best runs again with two seeds; its base is the demo's without files."""
    stages = [
        {"name": "student", "grid": grid or GRID},
        {"name": "final", "start_from": ["student"], "seeds": [11, 12]},
    ]
    base = report_study.demo().base.replace({"warm_start": None}).model_dump(mode="json")
    return StudySpec.model_validate({"name": "mine", "base": base, "stages": stages} | changes)


@pytest.fixture
def where(tmp_path: Path) -> Storage:
    """The study, finished: the second rate is the best. A step took 2.5 s and 1e-5 kWh."""
    found, storage = study(), Storage(str(tmp_path), "mine")
    chance = random.Random(1)
    searched = [replace(trial, start="base") for trial in report_study.planned(found, "student")]
    again = [Planned("mine", "final", "student", searched[1].config.replace({"seed": seed})) for seed in (11, 12)]
    records = [report_study.ended(trial, 2, chance) for trial in (*searched, *again)]
    for record, miou in zip(records, (40.0, 41.0, 41.5, 40.5), strict=True):
        record["row"]["miou"] = miou
    plan = {"student": [t.trial_id for t in searched], "final": [t.trial_id for t in again]}
    report_study.save(storage, found, plan, records)
    return storage


def of(stage: str, text: str) -> str:
    """What a forecast says of a stage."""
    lines = text.splitlines()
    first = next(i for i, line in enumerate(lines) if line.startswith(f"  {stage:16} "))
    rest = lines[first + 1 :]
    own = rest[: next(i for i, line in enumerate(rest) if not line.startswith(" " * 19))]
    return " ".join(" ".join([lines[first], *own]).split())


def test_what_is_finished_is_said_and_costs_nothing(where: Storage) -> None:
    text = forecast(study(), where)
    assert of("student", text).startswith("student 2 trials of 60 steps, batch 8, early stopping by asha: finished")
    assert "searches recipe.lr [0.1, 0.2]" in text
    assert "; 4 finished, 0 to run" in text
    assert "nothing is left to run" in text


def test_a_value_more_runs_alone_and_what_follows_stands_perhaps(where: Storage) -> None:
    """One trial of 60 steps, then two more at most: 150 and 300 seconds."""
    text = forecast(study({"recipe.lr": [0.1, 0.2, 0.3]}), where)
    assert "changed since the last launch: stages.student.grid.recipe.lr" in text
    assert of("student", text).endswith("2 finished; 1 to run; at most 2 min, 0.0006 kWh")
    assert "2 on record, which stand if student comes to the same again; at most 5 min" in of("final", text)
    assert "what is left takes at most 8 min of one trial after the other, 0.0018 kWh" in text


def test_a_trial_that_again_names_does_not_stand_perhaps(where: Storage) -> None:
    told = of("final", forecast(study({"recipe.lr": [0.1, 0.2, 0.3]}), where, again=["final-*-s12"]))
    assert "2 to run (1 anew as --again says); 1 on record, which stand if student comes" in told


def test_a_value_less_leaves_its_trial(where: Storage) -> None:
    text = forecast(study({"recipe.lr": [0.2]}), where)
    assert of("student", text).startswith(
        "student 1 trial of 60 steps, batch 8: finished; 1 on record are no longer of the study"
    )
    assert of("final", text).startswith("final 2 trials of 60 steps, batch 8: finished")


def test_a_trial_beyond_the_border_is_the_studys_own(where: Storage) -> None:
    """The rate of 0.1 lies a step beyond 0.2 and 0.4."""
    stages = [{"name": "student", "grid": {"recipe.lr": [0.2, 0.4]}, "extend": 1}]
    told = of("student", forecast(study(stages=stages), where))
    assert told.startswith("student 3 trials")
    assert "2 finished; 1 to run" in told
    assert "no longer of the study" not in told


def test_other_steps_run_all_anew(where: Storage) -> None:
    base = study().base.replace({"recipe.num_steps": 90}).model_dump(mode="json")
    text = of("student", forecast(study(base=base), where))
    assert "2 trials of 90 steps" in text
    assert text.endswith("at most 8 min, 0.0018 kWh; 2 on record are no longer of the study")


def test_only_the_stages_asked_for(where: Storage) -> None:
    text = forecast(study(), where, only=["final"], again=["final-*-s12"])
    assert "student  " not in text
    assert "1 finished; 1 to run (1 anew as --again says)" in of("final", text)


def test_early_stopping_is_named_where_it_can_stop(where: Storage) -> None:
    text = forecast(study(scheduler="halving"), where)
    assert "early stopping by halving at 15 and 30: finished" in of("student", text)
    assert "halving" not in of("student", forecast(study({"recipe.lr": [0.2]}, scheduler="halving"), where))


def test_the_time_of_a_step_measured_by_the_bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KDTUNE_CACHE", str(tmp_path / "cache"))
    found, where = study(), Storage(str(tmp_path), "mine")
    assert "no trial is on record yet, so no time can be told: `kdtune bench train mine`, run once" in forecast(
        found, where
    )
    for config in found.templates().values():
        step_times.keep(config, step_times.Step(0.5, 1e-6))
    text = forecast(found, where)
    assert re.search(r"at most 2 min of one trial after the other, \S+ kWh, by the step times of `kdtune bench", text)
    for config in found.templates().values():
        step_times.keep(config, step_times.Step(0.5))
    text = forecast(found, where)
    assert (
        "at most 2 min of one trial after the other, energy not metered yet, by the step times of `kdtune bench" in text
    )
    (damaged,) = {*(tmp_path / "cache/step-times").iterdir()}
    damaged.write_text("[]")
    assert "no time can be told" in forecast(found, where)


def test_what_is_missing_ends_nothing(where: Storage) -> None:
    assert forecast(study(), where, lacking=["no GPU"]).endswith("  missing: no GPU")


def test_trials_of_a_budget_count_no_steps(tmp_path: Path) -> None:
    """Their stage says how long they are."""
    limits = "    budget: {seconds: 60}\n    scheduler: none\n"
    limited = small(tmp_path, ("  - name: student\n", f"  - name: student\n{limits}"))
    told = forecast(limited, Storage(str(tmp_path / "runs"), limited.name), ["student"])
    (whole,) = [line.split() for line in told.splitlines() if line.startswith("  in all")]
    assert "of 60 seconds, batch" in told
    assert "steps" not in whole
    assert " ".join(whole).endswith("of them as long as a budget says")
