"""The bill of a study: which trials the emissions are those of, and that all its parts are the nodes' total."""

from typing import Any

import pytest

from kdtune.answers.search_cost import cost_rows
from kdtune.records.energy_tables import emissions_table, nodes_table
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


def test_the_parts_of_the_bill_are_the_nodes_total() -> None:
    trials = [
        row("student", 60.0, **used(1.0, 0.5)),
        row("student", 50.0, {"recipe.lr": 0.3}, status="stopped", **used(0.5, 0.25)) | {"step": 2, "steps_total": 6},
        row("distill", 65.0, PI, **used(3.0, 0.5)),
    ]
    found = cost_rows(trials, [node(), node(node="m", energy_kwh=4.0, co2_kg=2.0, trials_kwh=1.0, idle_kwh=3.0)])
    parts = {line["stage"] or line["part"]: line for line in found}
    assert list(parts) == ["student", "distill", "other", "idle", "total"]
    assert parts["total"]["energy_kwh"] == 14.0
    stages = sum(parts[name]["energy_kwh"] + parts[name]["inference_kwh"] for name in ("student", "distill"))
    assert stages + parts["other"]["energy_kwh"] + parts["idle"]["energy_kwh"] == pytest.approx(14.0)
    assert parts["idle"]["energy_kwh"] == 5.0
    assert parts["idle"]["co2_kg"] == 2.5
    student = parts["student"]
    assert (student["trials"], student["trials_stopped"], student["steps_not_run"]) == (2, 1, 4)
    assert student["kwh_not_used"] == pytest.approx(0.5 * 4 / 2)
    assert parts["total"]["steps"] == 6 + 2 + 6


def test_a_bill_without_meters_has_steps_alone() -> None:
    (line,) = cost_rows([row("student", 60.0)], [])
    assert (line["steps"], line["energy_kwh"], line["kwh_not_used"]) == (6, None, 0.0)


def test_nodes_are_a_table_of_fixed_columns() -> None:
    assert nodes_table([]).num_rows == 0
    assert nodes_table([node()]).to_pylist()[0]["idle_kwh"] == 2.0
