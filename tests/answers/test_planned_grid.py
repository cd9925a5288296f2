"""What a study planned, as ``study.yaml`` tells it, and the cells that tables show before a trial fills them."""

import re
from dataclasses import replace

import pyarrow as pa
import pytest
import yaml

from kdtune.answers.planned_grid import PlannedStage, PlannedStudy, planned_study
from kdtune.answers.ranking import Row
from kdtune.answers.rendering import render
from kdtune.answers.tables import Tables, table
from kdtune.study.file import dump, load_study
from tests.support.finished_study import grid, seeds, tables, trial

RATES, DECAYS = (5e-2, 1e-2, 5e-3), (5e-4, 5e-5, 5e-6)


def planned(trials: list[Row], *stages: PlannedStage) -> Tables:
    given = tables(trials)
    plan = PlannedStudy("s", "cityscapes", "resnet18", {stage.name: stage for stage in stages})
    return Tables(given.trials, given.history, given.optimal, given.final, given.emissions, {"s": plan})


def test_the_papers_study_as_it_is_written_to_storage() -> None:
    found = planned_study("x", yaml.safe_load(dump(load_study("cityscapes-resnet"))))
    assert (found.study, found.dataset, found.student) == ("x", "cityscapes", "resnet18")
    for name in ("student", "distill"):
        assert dict(found.stages[name].axes) == {"lr": RATES, "weight_decay": DECAYS}
        assert len(found.stages[name].cells(["lr", "weight_decay"])) == 9
    assert found.stages["temperature"].axes == {"temperature": (1, 2, 3, 4, 6, 8)}
    assert found.stages["temperature"].seeds == {1, 2, 3}
    assert found.stages["weight-ifv"].axes == {"lambda_ifv": (1e-4, 1e-3, 1e-2, 1e-1, 1, 10, 50, 100)}
    assert found.stages["weight-ifv"].cells(["temperature"]) == []
    assert found.stages["final"].starts == ("student", "weight-pi", "weight-pa", "weight-ho", "weight-ifv")
    assert (found.stages["student"].fixed["lr"], found.stages["final"].fixed) == (1e-2, {})


def test_a_search_that_draws_its_points_has_no_cells_and_a_weight_of_0_no_column() -> None:
    spec = load_study("cityscapes-resnet")
    data = yaml.safe_load(dump(spec))
    data["stages"][0] |= {"search": "random", "samples": 4}
    data["stages"][4]["grid"] = {"losses.pa.weight": [0, 0.1], "student.width": [0.5, 1.0]}
    found = planned_study("x", data)
    assert found.stages["student"].axes == {}
    assert found.stages[data["stages"][4]["name"]].axes == {"lambda_pa": (0.1,)}


def test_cells_that_no_launch_would_accept_are_not_listed() -> None:
    axes = {name: tuple(float(i) for i in range(100)) for name in "abcde"}  # 10^10 cells
    assert PlannedStage("student", axes=axes).cells(list(axes)) == []
    assert len(PlannedStage("student", axes=axes).cells(["a", "b"])) == 10_000


def test_nothing_is_known_without_a_file() -> None:
    assert planned_study("x", None) == PlannedStudy("x")


def test_cells_of_the_grid_that_no_trial_has_filled_are_shown_as_missing() -> None:
    axes = {"lr": RATES, "weight_decay": DECAYS}
    found = planned(grid(), PlannedStage("student", axes=axes), PlannedStage("distill", axes=axes))
    rows = table("grid", found, "s").to_pylist()
    assert [row["stage"] for row in rows] == ["student"] * 9 + ["distill"] * 9
    at = {(row["stage"], row["lr"], row["weight_decay"]): row for row in rows}
    assert at["student", 5e-3, 5e-6] == {
        **{"stage": "student", "lr": 5e-3, "weight_decay": 5e-6, "miou": None, "status": None},
        **{"step": None, "steps_total": None, "best": False},
    }
    assert at["student", 1e-2, 5e-4]["best"]
    lines = [line.split() for line in render("grid", found, "s", "text").splitlines()]
    assert ["5e-6", "-", "-", "-"] in lines
    assert ["5e-4", "68.89", "*70.55*", "-"] in lines
    assert ["5e-4", "90.00", "@", "300/900", "*71.64*", "-"] in lines


def test_a_stage_that_has_not_begun_is_shown_once_another_has() -> None:
    rates = PlannedStage("distill", axes={"lr": RATES}, fixed={"weight_decay": 5e-4})
    rows = table("grid", planned(grid()[:3], rates), "s").to_pylist()
    assert [(r["lr"], r["weight_decay"], r["miou"]) for r in rows[3:]] == [(rate, 5e-4, None) for rate in RATES]
    assert not table("grid", planned([], rates), "s").num_rows
    assert "no trial of table 'grid' has finished yet" in render("grid", planned([], rates), "s", "text")


def test_a_rate_of_the_file_is_the_rate_of_a_trial() -> None:
    found = planned([trial("student", 70.0, lr=0.1 + 0.2)], PlannedStage("student", axes={"lr": (0.3,)}))
    assert table("grid", found, "s").num_rows == 1


def test_planned_seeds_are_waited_for() -> None:
    stage = PlannedStage("temperature", seeds=frozenset({1, 2, 3}), axes={"temperature": (1.0, 2.0, 3.0)})
    found = planned(seeds([70.0, 71.0], temperature=1.0) + seeds([80.0, 81.0, 82.0], temperature=2.0), stage)
    rows = table("temperature", found, "s").to_pylist()
    assert [(r["temperature"], r["miou_mean"], r["seeds"], r["status"]) for r in rows] == [
        (1.0, None, 2, None),
        (2.0, 81.0, 3, "completed"),
        (3.0, None, 0, None),
    ]
    assert re.search(r"^3 +- +0$", render("temperature", found, "s", "text"), re.M)
    none_has_the_third = planned(seeds([70.0, 71.0], temperature=1.0), stage)
    assert table("temperature", none_has_the_third, "s")["miou_mean"].to_pylist() == [None] * 3


def test_a_given_teacher_has_other_seeds_than_the_stage_that_would_train_it() -> None:
    ablated = [trial("initialization", 60.0 + s, seed=s, init="random", start="student") for s in (21, 22)]
    trained = PlannedStage("teacher", seeds=frozenset({5}))
    rows = table("initialization", planned([trial("teacher", 78.0), *ablated], trained), "s").to_pylist()
    assert [(r["method"], r["miou_mean"]) for r in rows] == [("teacher", 78.0), ("student", 81.5)]


@pytest.mark.parametrize("name", ["final", "initialization"])
def test_methods_that_are_still_to_come_are_shown_as_missing(name: str) -> None:
    trials = [*grid(), *(trial(name, 70.0 + s, seed=s, start="student") for s in (1, 2))]
    rows = table(name, planned(trials, PlannedStage(name, ("student", "distill"), frozenset({1, 2}))), "s").to_pylist()
    assert [(r["method"], r["miou_mean"], r["seeds"]) for r in rows if r["method"] == "pi"] == [("pi", None, 0)]


def test_a_method_that_diverged_in_final_is_shown_as_that() -> None:
    trials = [trial("final", 70.0 + s, seed=s, start="student") for s in (1, 2)]
    trials += [trial("final", 71.0 + s, seed=s, start="weight-pi", method="pi", lambda_pi=0.1) for s in (1, 2)]
    trials[-1]["status"] = "diverged"
    whole = {"study": "s", "method": "student", "miou_mean": 71.5, "miou_std": 0.5, "seeds": 2, "best": True}
    found = tables(trials, final=[whole | {"within_one_std": True}])
    lines = [line.split() for line in render("final", found, "s", "text").splitlines()]
    assert ["x", "diverged", "1"] in lines
    assert "L_CE + L_PI: no comparison with the student alone: 1 of 2 seeds diverged" in render(
        "final", found, "s", "text"
    )


def test_the_border_of_a_stage_that_was_widened_is_that_of_all_it_tried() -> None:
    values = {1.0: 30.0, 10.0: 31.0, 100.0: 32.0}
    trials = [trial("weight-pi", miou=miou, lambda_pi=weight) for weight, miou in values.items()]
    for extends, told in ((True, "weight of PI 1e+2 is the highest tried: add 1e+3"), (False, None)):
        found = planned(trials, PlannedStage("weight-pi", axes={"lambda_pi": (1.0, 10.0)}, extends=extends))
        best = {"study": "s", "stage": "weight-pi", "lambda_pi": 100.0}
        optimal = pa.Table.from_pylist([best], schema=found.optimal.schema)
        assert table("optimal", replace(found, optimal=optimal), "s").column("border").to_pylist() == [told]
