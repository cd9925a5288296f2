"""Every table and the report, of studies of every shape: none may fail, whatever has become of the trials."""

import math
import random
from pathlib import Path

import pytest

from kdtune import results
from kdtune.answers.query import summary
from kdtune.answers.rendering import FORMATS, render
from kdtune.answers.tables import NAMES, table
from kdtune.records.storage import Storage
from kdtune.study.spec import StudySpec
from tests.support import report_study

AXES = {"student": "recipe.lr", "temperature": "losses.pi.temperature", "weight-pi": "losses.pi.weight"}
VALUES = {"recipe.lr": [0.1, 0.2, 0.4], "losses.pi.temperature": [1.0, 2.0, 4.0], "losses.pi.weight": [0.5, 1.0, 2.0]}
SHAPES = {"grid": ("grid", [0]), "seeds": ("grid", [1, 2]), "random": ("random", [0]), "tpe": ("tpe", [0])}
OUTCOMES = {  # of a stage's trials, in turn
    "completed": ["completed"],
    "one stopped": ["completed", "stopped", "completed"],
    "all stopped": ["stopped"],
    "diverged": ["completed", "diverged", "completed"],
    "all diverged": ["diverged"],
    "failed": ["failed", "completed", "completed"],
    "failed before its first evaluation": ["failed at once", "completed", "completed"],
    "missing": ["completed", "missing", "missing"],
    "all of it": ["stopped", "diverged", "failed", "missing", "completed"],
}


def study(shape: str) -> StudySpec:
    """Searches over one axis each, and a comparison of their winners."""
    search, seeds = SHAPES[shape]
    base = report_study.demo().base.replace({"warm_start": None}).model_dump(mode="json")
    term = {"pi": {"weight": 1.0, "temperature": 1.0}}
    teacher = {"model": base["student"], "checkpoint": "stage:teacher"}
    stages: list[dict[str, object]] = [{"name": "teacher"}]
    for name, path in AXES.items():
        more = {} if name == "student" else {"set": {"teacher": teacher, "losses.pi": term["pi"]}}
        drawn = {} if search == "grid" else {"samples": 3}
        stages.append({"name": name, "search": search, "seeds": seeds, "grid": {path: VALUES[path]}, **more, **drawn})
    stages.append({"name": "final", "start_from": ["student", "weight-pi"], "seeds": [11, 12]})
    return StudySpec.model_validate({"name": "shape", "base": base, "stages": stages})


def write(storage: Storage, spec: StudySpec, outcomes: list[str]) -> None:
    chance = random.Random(1)
    plan, records = {}, []
    for stage in spec.stages:
        trials = report_study.planned(spec, stage.name)
        plan[stage.name] = [trial.trial_id for trial in trials]
        for i, trial in enumerate(trials):
            status = "completed" if stage.name == "teacher" else outcomes[i % len(outcomes)]
            if status == "missing":
                continue
            record = report_study.ended(trial, 3, chance, status=status.split()[0])
            if status == "failed at once":  # before its first evaluation
                record["history"] = []
                record["row"] |= {"step": None, "miou": None, "miou_best": None, "train_seconds": None}
            records.append(record)
    report_study.save(storage, spec, plan, records)


CASES = [(shape, outcome) for shape in ("grid", "seeds") for outcome in OUTCOMES]
CASES += [(shape, outcome) for shape in ("random", "tpe") for outcome in ("completed", "all of it")]


@pytest.mark.parametrize(("shape", "outcome"), CASES)
def test_no_table_and_no_report_fails(tmp_path: Path, shape: str, outcome: str) -> None:
    storage = Storage(str(tmp_path), "shape")
    spec = study(shape)
    write(storage, spec, OUTCOMES[outcome])
    stored = results("shape", str(tmp_path)).all()
    trials = stored.trials.to_pylist()
    for name in NAMES:
        for form in FORMATS:
            assert "nan" not in render(name, stored, "shape", form).lower()
    assert summary(storage, styled=False)
    page = report_study.page(storage)
    assert "</html>" in page
    for stage in spec.stages:
        reached = [row["miou"] for row in trials if (row["stage"], row["status"]) == (stage.name, "completed")]
        assert not reached or f"best run, {max(reached):.2f} %" in page  # the bold curve, whatever its configuration
    for row in table("temperature", stored, "shape").to_pylist():
        if row["status"] == "stopped" and len(SHAPES[shape][1]) == 1:
            assert row["miou_mean"] is None
            assert math.isfinite(row["miou"])
            assert f"{row['miou']:.2f} @ {row['step']}/{row['steps_total']}" in render(
                "temperature", stored, "shape", "text"
            )
