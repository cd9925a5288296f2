"""The data of the tables of ``kdtune results``, and its comparison with the paper's."""

import re

import pyarrow as pa
import pytest

from kdtune.answers.comparison import compare
from kdtune.answers.published import published
from kdtune.answers.ranking import Row, best_and_near
from kdtune.answers.rendering import render
from kdtune.answers.tables import table
from kdtune.base import UserError
from tests.support.finished_study import everything, grid, seeds, tables, trial


def test_grid_is_sorted_as_in_the_paper_and_stopped_is_never_best() -> None:
    data = table("grid", tables(grid()), "s")
    assert data.column_names == [
        "stage",
        "lr",
        "weight_decay",
        "miou",
        "status",
        "step",
        "steps_total",
        "best",
    ]
    assert data.schema.field("best").type == pa.bool_()
    rows = data.to_pylist()
    assert [(r["lr"], r["weight_decay"]) for r in rows[:3]] == [(5e-2, 5e-4), (1e-2, 5e-4), (5e-2, 5e-5)]
    assert [r["miou"] for r in rows if r["best"]] == [70.55, 71.641]
    assert [r["miou"] for r in rows if r["stage"] == "distill"] == [90.0, 71.641, 95.0, 99.0]


def test_ties_are_all_best() -> None:
    trials = [trial("student", 70.55, lr=lr) for lr in (5e-2, 1e-2)]
    assert table("grid", tables(trials), "s")["best"].to_pylist() == [True, True]


def test_temperature_mean_deviation_and_marks() -> None:
    first, third, sixth = table("temperature", everything(), "s").to_pylist()
    assert (first["temperature"], first["miou_mean"], first["miou_std"], first["seeds"]) == (
        1.0,
        71.0,
        1.0,
        3,
    )
    assert (third["miou_mean"], third["best"], third["within_one_std"]) == (73.0, True, True)
    assert (sixth["miou_mean"], sixth["best"], sixth["within_one_std"]) == (72.5, False, True)
    assert not first["within_one_std"]
    printed = render("temperature", everything(), "s", "text")
    assert re.search(r"3 +\*73\.00\* ± 1\.00 +3", printed)
    assert re.search(r"6 +_72\.50_ ± 0\.50 +3", printed)


@pytest.mark.parametrize("status", ["stopped", "diverged", "failed"])
def test_one_incomplete_seed_leaves_no_mean(status: str) -> None:
    trials = seeds([70.0, 71.0], temperature=1.0) + seeds([80.0, 81.0], temperature=2.0)
    trials[-1]["status"] = status
    first, second = table("temperature", tables(trials), "s").to_pylist()
    assert (second["miou_mean"], second["miou_std"], second["seeds"]) == (None, None, 1)
    assert (second["best"], second["within_one_std"], second["status"]) == (False, False, status)
    assert first["best"]


def test_a_seed_that_has_not_finished_leaves_no_mean() -> None:
    trials = seeds([70.0, 71.0], temperature=1.0) + seeds([80.0], temperature=2.0)
    first, second = table("temperature", tables(trials), "s").to_pylist()
    assert (first["best"], second["best"], second["miou_mean"]) == (True, False, None)
    assert re.search(r"^2 +- +1$", render("temperature", tables(trials), "s", "text"), re.M)


def test_standings_of_ties_nulls_and_single_runs() -> None:
    marks = best_and_near([72.75, 72.44, None, 72.43], [0.31, 0.1, None, 9.0])
    assert marks == [(True, True), (False, True), (False, False), (False, False)]
    assert best_and_near([36.32, 36.31], [None, None]) == [(True, True), (False, False)]
    assert best_and_near([None], [None]) == [(False, False)]


def test_a_mean_that_is_not_a_number_is_none() -> None:
    trials = [trial("student", float("nan")), trial("student", 60.0, lr=5e-3)]
    assert table("grid", tables(trials), "s")["miou"].to_pylist() == [None, 60.0]


def test_weights_one_block_per_loss() -> None:
    data = table("weights", everything(), "s")
    assert data["lambda_pa"].to_pylist() == [1e-3, 1e-2, 1.0]
    assert data["method"].to_pylist() == ["pi+pa"] * 3
    assert data["best"].to_pylist() == [False, False, True]
    printed = render("weights", everything(), "s", "text")
    assert re.search(r"λ_PA +mIoU\n", printed)
    assert re.search(r"1e\+0 +\*70\.00\*", printed)


def test_final_is_in_the_papers_order_with_a_cross_per_loss() -> None:
    assert table("final", everything(), "s")["method"].to_pylist() == ["student", "pi", "pi+cwd"]
    lines = [line.split() for line in render("final", everything(), "s", "text").splitlines()]
    starts = [["L_PI", "L_CWD", "mIoU", "seeds"], ["x", "*71.20*", "±", "0.40", "3"]]
    starts.append(["x", "x", "_71.00_", "±", "0.50", "3"])
    assert [start for start in starts if not any(line[: len(start)] == start for line in lines)] == []


def test_a_method_names_the_trials_and_steps_of_its_whole_chain() -> None:
    pi: Row = {"method": "pi", "lambda_pi": 0.1}
    trials = [trial("student", 60.0 + i, lr=0.1 * (i + 1), start="base") for i in range(3)]
    trials += [trial("distill", 61.0 + i, lr=0.1 * (i + 1), start="base", **pi) for i in range(4)]
    trials += [trial("temperature", 62.0, seed=i, start="distill", temperature=2.0, **pi) for i in range(2)]
    trials += [trial("final", 60.0, seed=11, start="student"), trial("final", 62.0, seed=11, start="temperature", **pi)]
    trials[1] |= {"status": "stopped", "step": 100}
    final = [{"study": "s", "method": method, "miou_mean": 60.0, "seeds": 1} for method in ("student", "pi")]
    rows = table("final", tables(trials, final=final), "s").to_pylist()
    assert [(row["tuning_trials"], row["tuning_steps"]) for row in rows] == [(3, 1900), (6, 5400)]
    text = render("final", tables(trials, final=final), "s", "text")
    assert "the student alone was chosen among 3 trials, other methods among up to 6" in text
    for count, told in ((4, True), (3, False)):
        kept = [row for row in trials if row["stage"] in ("student", "final")] + trials[3 : 3 + count]
        kept = [row | {"start": "distill"} if row["start"] == "temperature" else row for row in kept]
        assert ("was chosen among" in render("final", tables(kept, final=final), "s", "text")) == told


def test_initialization_has_the_teacher_and_both_starts() -> None:
    rows = table("initialization", everything(), "s").to_pylist()
    assert [(r["init"], r["method"], r["miou_mean"], r["seeds"]) for r in rows] == [
        (None, "teacher", 78.0, 1),
        ("random", "student", 63.5, 2),
        ("random", "pi", 62.5, 2),
        ("imagenet", "student", 70.0, 3),
    ]
    printed = render("initialization", everything(), "s", "text")
    assert re.search(r"random +imagenet\n", printed)
    assert re.search(r"L_CE \+ L_PI +62\.50 ± 0\.71 +-\n", printed)


def test_unknown_table_and_format_name_what_there_is() -> None:
    with pytest.raises(UserError, match=r"unknown table 'gird'.*temperature"):
        table("gird", tables([]), "s")
    with pytest.raises(UserError, match=r"unknown format 'html'.*latex"):
        render("grid", tables([]), "s", "html")


def test_compare_sets_beside_and_subtracts() -> None:
    rows = compare("grid", table("grid", tables(grid()), "s"), published("cityscapes-resnet", "grid")).to_pylist()
    at = {(row["stage"], row["lr"], row["weight_decay"]): row for row in rows}
    assert len(rows) == 18
    distill = at["distill", 1e-2, 5e-4]
    assert (distill["miou"], distill["miou_published"]) == (71.641, 71.64)
    assert distill["miou_difference"] == pytest.approx(0.001)
    stopped = at["distill", 5e-2, 5e-4]
    assert (stopped["status"], stopped["miou_difference"]) == ("stopped", None)
    assert at["student", 5e-3, 5e-6]["miou"] is None


def test_compare_keeps_lines_that_only_one_side_has() -> None:
    rows = compare("final", table("final", everything(), "s"), published("ade20k-resnet", "final")).to_pylist()
    assert [row["method"] for row in rows] == ["student", "pi", "pi+pa", "pi+ho", "pi+ifv", "pi+cwd"]
    assert (rows[2]["miou_mean"], rows[-1]["miou_mean_published"]) == (None, None)
    weights = compare("weights", table("weights", everything(), "s"), published("cityscapes-resnet", "weights"))
    found = {(r["loss"], r["weight"]): r["miou_difference"] for r in weights.to_pylist()}
    assert found["pa", 1.0] == pytest.approx(70.0 - 71.88)
    assert found["ifv", 50.0] is None


def test_trials_have_nothing_to_compare_with() -> None:
    with pytest.raises(UserError, match="'trials' has nothing published"):
        compare("trials", everything().trials, everything().trials)
