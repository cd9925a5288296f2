"""Columns of a trial, and which configuration is the best."""

import math
from typing import Any, Literal

import pytest

from kdtune.answers.ranking import best_and_near
from kdtune.base import LossTerm
from kdtune.losses import LOSSES
from kdtune.records.parameters import hyperparameters
from kdtune.records.rows import (
    EMISSIONS,
    FINAL,
    NODES,
    Row,
    absent_note,
    best_config,
    final_table,
    history_schema,
    history_table,
    mean_std,
    optimal_table,
    trials_schema,
    trials_table,
    weight_stages,
)
from kdtune.records.schemas import is_parameter, joined
from kdtune.study.names import column
from tests.support.tiny import NETWORK, config, finished, study

TEACHER = {"teacher": {"model": NETWORK, "checkpoint": "stage:teacher"}}


@pytest.mark.parametrize(
    ("loss", "field", "name"),
    [
        ("pi", "weight", "lambda_pi"),
        ("pi", "temperature", "temperature"),
        ("ho", "weight", "lambda_ho"),
        ("cwd", "temperature", "temperature_cwd"),
        ("ho", "critic_lr", "critic_lr_ho"),
    ],
)
def test_names_of_columns(loss: str, field: str, name: str) -> None:
    assert column(loss, field) == name


def test_classes_without_an_iou_are_named() -> None:
    names = ["road", "sky", "bus", "train"]
    assert absent_note(names, [1.0, None, 0.0, None]) == (
        "2 of 4 classes are in neither the labels nor the predictions and left the mean: sky, train"
    )
    assert (absent_note(names, [None] * 3 + [1.0], most=2) or "").endswith("left the mean: road, sky and 1 more")
    assert absent_note(names, [1.0, 2.0, 0.0, 3.0]) is None
    assert absent_note(names, None) is None  # diverged before its first evaluation


def test_a_student_alone_has_no_distillation_columns() -> None:
    row = hyperparameters(config({"recipe.lr": 0.02}))
    assert {name: row[name] for name in ("method", "lr", "weight_decay", "init", "seed", "steps_total")} == {
        "method": "student",
        "lr": 0.02,
        "weight_decay": 5e-4,
        "init": "random",
        "seed": 0,
        "steps_total": 6,
    }
    assert not [name for name in row if name.startswith(("lambda_", "temperature"))]
    assert row["config"] == config({"recipe.lr": 0.02}).model_dump_json()
    assert row["config_id"] == config({"recipe.lr": 0.02, "seed": 5}).config_id
    assert (row["threads"], hyperparameters(config({"threads": 2}))["threads"]) == (None, 2)


def test_terms_fill_their_columns() -> None:
    row = hyperparameters(config(TEACHER | {"losses.pi": {"weight": 0.5, "temperature": 4}, "losses.pa.weight": 2}))
    assert row["method"] == "pi+pa"
    assert (row["lambda_pi"], row["temperature"], row["lambda_pa"]) == (0.5, 4.0, 2.0)
    assert isinstance(row["temperature"], float)
    assert "lambda_ho" not in row
    assert "lambda_ce" not in row


def test_a_term_of_weight_zero_has_no_columns() -> None:
    row = hyperparameters(config(TEACHER | {"losses.pi": {"weight": 0.0, "temperature": 4}}))
    assert row["method"] == "student"
    assert "lambda_pi" not in row
    assert "temperature" not in row


def test_every_journal_has_every_fixed_column() -> None:
    row = finished("student", 50.0)["row"]
    assert set(row) == set(trials_schema().names)
    assert (row["temperature"], row["lambda_pi"], row["energy_kwh"]) == (None, None, None)


def test_further_parameters_become_columns_of_the_table() -> None:
    row = finished("x", 1.0, TEACHER | {"losses.ho": {"weight": 0.1}})["row"]
    names = trials_schema([row]).names
    assert set(row) == set(names)
    assert {"lambda_ho", "critic_lr_ho", "critic_weight_ho", "gradient_penalty_ho"} <= set(names)
    assert {name: row[name] for name in names if name.startswith(("convention", "adversary", "preprocessing"))} == {
        "adversary_ho": "wgan-gp",
        "convention_ho": "skd",
        "preprocessing_ho": "batch_norm",
    }
    assert names.index("temperature") < names.index("lambda_pi") < names.index("critic_lr_ho") < names.index("init")


class Worded(LossTerm):
    """Parameters of all kinds."""

    mode: Literal["max"] | int = 2
    step: Literal[2, 4] | None = 4
    kind: str | None = None
    size: int | None = None
    on: bool = False
    layers: tuple[str, ...] = ("psp", "aux")
    parts: dict[str, int] = {"a": 1}
    acknowledge_patent: bool = True


def test_what_is_no_number_is_a_text() -> None:
    """Null is written out, but of a field of numbers: there the cell is null."""
    row = hyperparameters(config(TEACHER).model_copy(update={"losses": {"w": Worded(weight=1.0)}}))
    assert {name: value for name, value in row.items() if name.endswith("_w")} == {
        "lambda_w": 1.0,
        "mode_w": "2",
        "step_w": 4.0,
        "kind_w": "null",
        "on_w": "false",
        "layers_w": "psp, aux",
        "parts_w": '{"a": 1}',
    }
    assert str(trials_table([row]).schema.field("mode_w").type) == "string"
    before = row | {"mode_w": 2.0}  # of a version of the term that had numbers alone
    assert str(trials_table([before]).schema.field("mode_w").type) == "double"
    assert trials_table([before, row])["mode_w"].to_pylist() == ["2", "2"]
    assert joined([trials_table([before]), trials_table([row])])["mode_w"].to_pylist() == ["2", "2"]


def test_fixed_columns_are_known_as_such() -> None:
    """All others are parameters of terms, whose cells may be text."""
    tables = (trials_schema(), history_schema(), FINAL, NODES, EMISSIONS, optimal_table(study(), {}).schema)
    unknown = {name for schema in tables for name in schema.names if is_parameter(name)}
    assert unknown == set()


def test_columns_of_every_term() -> None:
    """A weight's column for each, then its other numbers. A table's columns are a contract: these stay."""
    terms = {name: LOSSES.resolve(name).plain() for name in LOSSES.table if name != "ce"}
    row = finished("x", 1.0, TEACHER | {f"losses.{name}": term.model_dump() for name, term in terms.items()})["row"]
    names = trials_schema([row]).names
    found = names[names.index("lambda_pi") : names.index("init")]
    assert found[: len(terms)] == [f"lambda_{name}" for name in terms]
    assert found[len(terms) :] == sorted(found[len(terms) :])
    assert set(found[:7]) == {f"lambda_{name}" for name in ("pi", "pa", "ho", "ifv", "cwd", "fitnet", "at")}
    assert set(found) >= {
        "critic_lr_ho",
        "critic_steps_ho",
        "critic_weight_ho",
        "critic_width_ho",
        "gradient_penalty_ho",
        "input_size_ho",
        "pool_pa",
        "temperature_cwd",
    }


def test_mean_and_sample_deviation() -> None:
    assert mean_std([70.0, 71.0, 73.0]) == (pytest.approx(71.3333333), pytest.approx(math.sqrt(7 / 3)))
    assert mean_std([70.0]) == (70.0, None)


def seeds(name: str, *mious: float | None, start: str = "student", **more: Any) -> list[Row]:
    return [
        {"start": start, "config_id": name, "seed": seed, "miou": miou, "status": "completed"} | more
        for seed, miou in enumerate(mious)
    ]


def best(*groups: list[Row], least: int = 1) -> str | None:
    rows = best_config([row for group in groups for row in group], least)
    assert len({(row["start"], row["config_id"]) for row in rows}) <= 1
    return rows[0]["config_id"] if rows else None


def test_the_highest_mean_over_seeds_is_best() -> None:
    assert best(seeds("a", 60.0, 80.0), seeds("b", 71.0, 72.0)) == "b"
    winners = best_config(seeds("a", 60.0, 80.0) + seeds("b", 71.0, 72.0))
    assert [row["miou"] for row in winners] == [71.0, 72.0]


def test_a_tie_goes_to_the_earlier() -> None:
    assert best(seeds("a", 70.0, 72.0), seeds("b", 72.0, 70.0)) == "a"
    assert best(seeds("b", 71.0), seeds("a", 71.0)) == "b"


@pytest.mark.parametrize("status", ["stopped", "diverged", "failed"])
def test_what_did_not_complete_is_never_best(status: str) -> None:
    assert best(seeds("a", 99.0, status=status), seeds("b", 10.0)) == "b"
    assert best(seeds("a", 99.0, status=status)) is None
    assert best(seeds("a", 99.0) + seeds("a", 99.0, status=status), seeds("b", 10.0, 10.0)) == "b"


def test_a_missing_number_is_never_best() -> None:
    assert best(seeds("a", None), seeds("b", 10.0)) == "b"
    assert best(seeds("a", math.nan), seeds("b", 10.0)) == "b"
    assert best() is None


def test_a_configuration_that_is_still_running_is_not_best() -> None:
    assert best(seeds("a", 99.0), seeds("b", 10.0, 11.0), least=2) == "b"
    assert best(seeds("a", 99.0), least=2) is None


def test_equal_configurations_of_two_starts_are_two() -> None:
    rows = best_config(seeds("a", 50.0, 60.0, start="student") + seeds("a", 58.0, 59.0, start="distill"))
    assert [row["start"] for row in rows] == ["distill", "distill"]


def final(*means: tuple[str, list[float]], **more: Any) -> list[Row]:
    rows = []
    for method, mious in means:
        rows += [row | {"method": method} for row in seeds(f"config-{method}", *mious, **more)]
    return rows


def test_final_table() -> None:
    rows = final(("student", [70.0, 71.0]), ("pi", [72.0, 73.0]), ("pi+pa", [71.9, 72.0]), ("pi+ho", [71.7, 71.75]))
    table = final_table(study(), rows).to_pylist()
    assert [row["method"] for row in table] == ["student", "pi", "pi+pa", "pi+ho"]
    assert [row["miou_mean"] for row in table] == pytest.approx([70.5, 72.5, 71.95, 71.725])
    assert table[0]["miou_std"] == pytest.approx(math.sqrt(0.5))
    assert [row["best"] for row in table] == [False, True, False, False]
    assert [row["within_one_std"] for row in table] == [False, True, True, False]
    assert {row["seeds"] for row in table} == {2}
    assert {row["study"] for row in table} == {"tiny"}


def test_of_equal_means_all_are_the_best_as_in_every_table() -> None:
    rows = final(("student", [71.0, 72.0]), ("pi", [70.5, 72.5]), ("pi+pa", [70.4, 70.6]))
    table = final_table(study(), rows).to_pylist()
    means, stds = ([row[name] for row in table] for name in ("miou_mean", "miou_std"))
    marks = [(row["best"], row["within_one_std"]) for row in table]
    assert marks == best_and_near(means, stds) == [(True, True), (True, True), (False, True)]


def test_final_table_leaves_out_what_has_not_all_its_seeds() -> None:
    rows = final(("student", [70.0, 71.0]), ("pi", [99.0]))
    rows += final(("pi+pa", [90.0, 91.0]), status="stopped")
    assert [row["method"] for row in final_table(study(), rows).to_pylist()] == ["student"]
    assert final_table(study(), []).num_rows == 0


def test_optimal_table_has_no_stage_that_only_makes_weights() -> None:
    assert weight_stages(study()) == {"teacher"}
    stages = {
        "teacher": [finished("teacher", 80.0)["row"]],
        "student": [
            finished("student", 60.0, {"recipe.lr": 0.1})["row"],
            finished("student", 61.0, {"recipe.lr": 0.01})["row"],
            finished("student", 90.0, {"recipe.lr": 0.5}, status="stopped")["row"],
        ],
        "distill": [finished("distill", None, {"recipe.lr": 0.1}, status="diverged")["row"]],
        "final": [finished("final", 60.0 + seed, {"seed": seed})["row"] for seed in (11, 12)],
    }
    student, last = optimal_table(study(), stages).to_pylist()
    assert (student["stage"], student["lr"], student["miou"]) == ("student", 0.01, 61.0)
    assert (student["seeds"], student["miou_std"], student["trials"], student["trials_stopped"]) == (1, None, 3, 1)
    assert student["trial_id"] == stages["student"][1]["trial_id"]
    assert (last["stage"], last["miou"], last["miou_std"], last["seeds"]) == (
        "final",
        71.5,
        pytest.approx(math.sqrt(0.5)),
        2,
    )
    stages["final"].pop()
    assert [row["stage"] for row in optimal_table(study(), stages).to_pylist()] == ["student"]


def test_history_has_a_null_where_a_trial_lacks_the_loss() -> None:
    one, two = finished("student", 1.0)["history"], finished("distill", 2.0)["history"]
    two[0]["loss_pi"] = 0.25
    table = history_table(one + two)
    assert table.column_names == [
        *("study", "stage", "trial_id", "step", "miou", "loss"),
        *("grad_norm_ce", "loss_ce", "loss_pi", "lr_now", "seconds"),
    ]
    assert table["loss_pi"].to_pylist() == [None, 0.25]
