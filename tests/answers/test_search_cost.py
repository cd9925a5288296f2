"""The bill of a study: which trials the emissions are those of, and that all its parts are the nodes' total."""

import json
from pathlib import Path
from typing import Any

import pytest

from kdtune import results
from kdtune.answers.layouts import LAYOUTS
from kdtune.answers.query import table_in_format
from kdtune.answers.rendering import render
from kdtune.answers.search_cost import cost_rows
from kdtune.records.energy_tables import emissions_table, nodes_table
from kdtune.records.storage import Storage
from tests.support import report_study
from tests.support.tiny import NETWORK, finished, study

PI: dict[str, Any] = {"teacher": {"model": NETWORK, "checkpoint": "stage:teacher"}, "losses.pi": {"weight": 0.5}}


def used(kwh: float, inference: float, images: int = 40) -> dict[str, Any]:
    return {
        "energy_kwh": kwh,
        "co2_kg": kwh / 2,
        "inference_kwh": inference,
        "inference_co2_kg": inference / 2,
        "inference_images": images,
    }


def node(**values: Any) -> dict[str, Any]:
    same = {"study": "tiny", "launch": "a", "node": "n", "seconds": 60.0, "country": "DEU", "measured": False}
    return same | {"energy_kwh": 10.0, "co2_kg": 5.0, "trials_kwh": 8.0, "idle_kwh": 2.0} | values


def row(stage: str, miou: float | None, changes: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    found: dict[str, Any] = finished(stage, miou, changes, **more)["row"]
    return found


def test_emissions_are_those_of_final_and_per_training() -> None:
    stages = {
        "teacher": [row("teacher", 80.0, **used(3.0, 0.4))],
        "student": [row("student", 60.0, **used(99.0, 99.0))],
        "final": [
            row("final", 61.0, {"seed": 11}, start="student", **used(1.0, 0.2)),
            row("final", 63.0, {"seed": 12}, start="student", **used(2.0, 0.2)),
            row("final", 71.0, PI | {"seed": 11}, start="distill", **used(4.0, 0.2)),
            row("final", 73.0, PI | {"seed": 12}, start="distill", **used(5.0, 0.3, 60)),
        ],
    }
    table = emissions_table(study(), stages, [node()]).to_pylist()
    found = {(line["model"], line["phase"]): line for line in table}
    assert found["student", "training"]["energy_kwh"] == 1.5
    assert found["student", "training"]["miou"] == 62.0
    assert found["student", "training"]["images"] == 6 * 2
    assert found["student+kd", "training"]["energy_kwh"] == 4.5
    assert found["student+kd", "training"]["co2_kg"] == 2.25
    assert found["student+kd", "inference"]["energy_kwh"] == pytest.approx(10_000 * 0.5 / 100)
    assert found["teacher", "inference"]["images"] == 10_000
    assert {line["measured"] for line in table} == {False}
    assert {line["country"] for line in table} == {"DEU"}


def test_a_distilled_training_is_billed_with_a_whole_teacher() -> None:
    """Whoever ran it; what it took here stands beside it, in the table and in words."""
    shared = used(4.0, 0.2) | {"teacher_steps_run": 0, "teacher_steps_read": 6, "energy_alone_kwh": 6.0}
    stages = {"final": [row("final", 71.0, PI | {"seed": seed}, start="distill", **shared) for seed in (11, 12)]}
    table = emissions_table(study(), stages, [node()])
    found = {line["phase"]: line for line in table.to_pylist()}
    assert found["training"]["energy_kwh"] == 6.0
    assert found["training"]["co2_kg"] == 3.0
    assert found["training, teacher shared"]["energy_kwh"] == 4.0
    printed = "\n".join(note for block in LAYOUTS["emissions"](table) for note in block.notes)
    assert "S + KD: with a teacher of its own; here it took ~4 kWh" in printed


def test_without_final_the_stages_own_best_stand_for_it() -> None:
    stages = {
        "student": [row("student", 60.0, **used(1.0, 0.1)), row("student", 61.0, {"recipe.lr": 0.3}, **used(2.0, 0.1))],
        "distill": [row("distill", 65.0, PI, **used(3.0, 0.1))],
    }
    table = emissions_table(study(), stages, [node(measured=True)]).to_pylist()
    training = {line["model"]: line for line in table if line["phase"] == "training"}
    assert {name: line["energy_kwh"] for name, line in training.items()} == {"student": 2.0, "student+kd": 3.0}
    assert all(line["measured"] for line in table)


def test_a_given_teacher_has_no_training_but_inference() -> None:
    stages = {"teacher": [row("teacher", 80.0, **used(0.0, 0.4)) | {"step": 0}]}
    training, inference = emissions_table(study(), stages, [node()]).to_pylist()
    assert training["energy_kwh"] is training["images"] is None
    assert inference["energy_kwh"] == pytest.approx(100.0)


def test_trials_that_nobody_metered_leave_nulls() -> None:
    table = emissions_table(study(), {"student": [row("student", 60.0)]}, []).to_pylist()
    assert [(line["energy_kwh"], line["measured"]) for line in table] == [(None, None), (None, None)]


ADDED = ("trials", "trials_stopped", "steps", "steps_not_run", "train_seconds", "energy_kwh", "co2_kg", "inference_kwh")


@pytest.mark.parametrize("gone", [0, 2])
def test_every_column_of_the_bill_adds_up(gone: int) -> None:
    trials = [
        row("student", 60.0, **used(1.0, 0.5)),
        row("student", 50.0, {"recipe.lr": 0.3}, status="stopped", **used(0.5, 0.25)) | {"step": 2, "steps_total": 6},
        row("distill", 65.0, PI, **used(3.0, 0.5)),
    ]
    superseded = [row("student", 55.0, {"recipe.lr": 0.7 + i}, **used(1.5, 0.25)) for i in range(gone)]
    nodes = [node(), node(node="m", energy_kwh=4.0, co2_kg=1.0, trials_kwh=1.0, idle_kwh=3.0)]
    *parts, total = cost_rows(trials, nodes, superseded)
    names = [line["stage"] or line["part"] for line in parts]
    assert names == ["student", "distill", *(["superseded"] if gone else []), "other", "idle"]
    for column in (*ADDED, "kwh_not_used"):
        assert total[column] == pytest.approx(sum(line.get(column) or 0.0 for line in parts)), column
    assert (total["part"], total["energy_kwh"], total["co2_kg"]) == ("total", 14.0, 6.0)
    found = dict(zip(names, parts, strict=True))
    assert found["student"]["energy_kwh"] == 1.5 + 0.75  # steps and evaluations
    assert found["student"]["co2_kg"] == pytest.approx(found["student"]["energy_kwh"] / 2)
    assert found["other"]["energy_kwh"] == pytest.approx(14.0 - 5.0 - 5.75 - 1.75 * gone)
    assert found["idle"]["energy_kwh"] == 5.0
    student = found["student"]
    assert (student["trials"], student["trials_stopped"], student["steps_not_run"]) == (2, 1, 4)
    assert student["kwh_not_used"] == pytest.approx(0.5 * 4 / 2)


def test_superseded_trials_are_a_line_of_the_table(tmp_path: Path) -> None:
    """Told from the storage, by ``results`` and over all studies."""
    storage, spec = Storage(str(tmp_path), "demo"), report_study.demo()
    records = report_study.write(storage, spec, stages=3)
    lost = records[-1]["row"]["trial_id"]
    plan = {stage: [id_ for id_ in ids if id_ != lost] for stage, ids in storage.plan().items()}
    report_study.save(storage, spec, plan, records)
    for args in (("demo",), (None,)):
        text = table_in_format(*args, str(tmp_path), "cost", "json", published=False, compare=False, styled=False)
        rows = {row["part"]: row for row in json.loads(text)}
        assert rows["superseded"]["trials"] == 1
        assert rows["superseded"]["steps"] == records[-1]["row"]["step"]
    assert "(trials that the study no longer has)" in render(
        "cost", results("demo", str(tmp_path)).all(), "demo", "text"
    )


def test_a_bill_without_meters_has_steps_alone() -> None:
    (line,) = cost_rows([row("student", 60.0)], [])
    assert (line["steps"], line["energy_kwh"], line["kwh_not_used"]) == (6, None, 0.0)


def test_nodes_are_a_table_of_fixed_columns() -> None:
    assert nodes_table([]).num_rows == 0
    assert nodes_table([node()]).to_pylist()[0]["idle_kwh"] == 2.0
