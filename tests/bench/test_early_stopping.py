"""ASHA against full grids: the replay by hand, and the whole bench on a study of seconds."""

import itertools
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from kdtune.api import results
from kdtune.base import RunError, UserError
from kdtune.bench import recorded
from kdtune.bench.early_stopping import Curve, Found, _grids, _of_rows, _searched, found, needed, replay, unsearched
from kdtune.search.stage_context import WORST
from kdtune.study.file import load_study
from kdtune.study.schedulers import Halving, SuccessiveHalving
from tests.support.launching import STUDY, kdtune, write_study

THIRD = Halving(grace=1 / 3, reduction_factor=2)  # rungs at 30 and 60 of 90 steps


def curve(name: str, *miou: float) -> Curve:
    """A trial of 90 steps and an evaluation each 30."""
    return Curve(name, tuple(zip((30, 60, 90), miou, strict=True)), completed=True)


WORST_FIRST = [curve(name, *[miou] * 3) for name, miou in zip("abcd", (10.0, 20.0, 30.0, 40.0), strict=True)]


def test_worst_first_stops_nothing() -> None:
    made = replay(WORST_FIRST, THIRD)
    assert made == dict.fromkeys("abcd", 90)
    assert found(WORST_FIRST, made) == Found(1.0, 0.0, True)


def test_best_first_stops_all_others_at_the_first_rung() -> None:
    made = replay(WORST_FIRST[::-1], THIRD)
    assert made == {"d": 90, "c": 30, "b": 30, "a": 30}
    assert found(WORST_FIRST, made) == Found(180 / 360, 0.0, True)


def test_a_rung_is_judged_at_the_first_evaluation_past_it() -> None:
    """A grace between two evaluations costs the steps up to the second."""
    assert replay(WORST_FIRST[::-1], Halving(grace=0.4, reduction_factor=4))["a"] == 60


def test_a_thinned_curve_keeps_its_end() -> None:
    assert curve("a", 1, 2, 3).thinned(60) == Curve("a", ((60, 2), (90, 3)), completed=True)
    assert curve("a", 1, 2, 3).thinned(30) == curve("a", 1, 2, 3)
    made = replay([c.thinned(60) for c in WORST_FIRST[::-1]], THIRD)
    assert made == {"d": 90, "c": 60, "b": 60, "a": 60}


def test_a_late_bloomer_is_lost_if_it_comes_late() -> None:
    early, late = curve("early", 50, 50, 50), curve("late", 10, 60, 90)
    made = replay([early, late], THIRD)
    assert made == {"early": 90, "late": 30}
    assert found([early, late], made) == Found(120 / 180, 40.0, False)
    made = replay([late, early], THIRD)
    assert made == {"early": 60, "late": 90}  # at 60 steps it is behind
    assert found([early, late], made) == Found(150 / 180, 0.0, True)


def test_what_is_best_at_every_rung_is_never_stopped() -> None:
    grid = [curve("best", 40, 50, 60), *(curve(str(i), 30 - i, 40 + 2 * i, 50 - i) for i in range(4))]
    for order in itertools.permutations(grid):
        for factor in (1.5, 2, 4):
            made = replay(order, Halving(grace=0.3, reduction_factor=factor))
            assert made["best"] == 90
            assert found(grid, made).same


def test_a_diverged_trial_is_no_optimum_and_costs_what_it_ran() -> None:
    ended = Curve("nan", ((30, 99.0), (41, WORST)), completed=False)
    grid = [curve("a", 1, 2, 3), ended]
    made = replay([ended, grid[0]], THIRD)
    assert made == {"nan": 41, "a": 30}  # ASHA trusted its first value, and nothing is left
    assert found(grid, made) == Found(71 / 131, 3.0, False)


def test_of_equal_trials_the_earlier_of_the_plan_is_the_optimum() -> None:
    grid = [curve("first", 1, 1, 5), curve("second", 1, 1, 5)]
    assert found(grid, {"first": 90, "second": 90}).same
    assert found(grid, {"first": 30, "second": 90}) == Found(120 / 180, 0.0, False)


def test_unsearched_runs_as_many_whole_trials_as_the_steps_pay_for() -> None:
    """The first two of four for 45 percent of the steps; one at least."""
    assert unsearched(WORST_FIRST, WORST_FIRST, 0.45) == Found(0.5, 20.0, False)
    assert unsearched(WORST_FIRST, WORST_FIRST[::-1], 0.01) == Found(0.25, 0.0, True)


def test_a_grid_has_one_list_of_curves_per_seed() -> None:
    def record(seed: int, status: str, *miou: float | None) -> dict[str, Any]:
        entries = [{"step": 30 * (i + 1), "miou": value} for i, value in enumerate(miou)]
        return {"row": {"seed": seed, "status": status, "error": "out of memory"}, "history": entries}

    records = {"a": record(0, "completed", 1.0, 2.0), "b": record(5, "completed", 3.0, 4.0)}
    records |= {"c": record(0, "diverged", 5.0, None), "d": record(5, "completed", 7.0, 8.0)}
    own, other = _grids("abcd", records, own=0)
    assert own == [Curve("a", ((30, 1.0), (60, 2.0)), True), Curve("c", ((30, 5.0), (60, WORST)), False)]
    assert [c.trial_id for c in other] == ["b", "d"]
    with pytest.raises(RunError, match="trial e of the full grid has failed: out of memory"):
        _grids("ae", records | {"e": record(0, "failed")}, own=0)
    with pytest.raises(RunError, match="every trial of seed 0 diverged"):
        _grids("c", records, own=0)


def test_a_launch_counts_by_its_own_rows() -> None:
    rows = [
        {"trial_id": name, "start": "base", "config_id": name, "status": status, "miou": miou, "step": step}
        for name, status, miou, step in (("d", "stopped", 40.0, 30), ("c", "completed", 29.5, 90))
    ]
    assert _of_rows(WORST_FIRST, rows) == Found(120 / 360, 10.5, False)


def test_stages_and_what_they_need(tmp_path: Path) -> None:
    spec = load_study("demo")
    assert [stage.name for stage in _searched(spec, ())] == ["student", "distill"]
    assert [stage.name for stage in _searched(spec, ["weight-pi"])] == ["weight-pi"]
    assert needed(spec, ["student"]) == ["pretrain"]
    assert needed(spec, ["distill", "student"]) == ["teacher", "pretrain"]
    assert needed(spec, ["weight-pi"]) == ["teacher", "pretrain", "distill", "temperature"]


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        ("distil", r"--stage distil: study 'demo' has no such stage \(did you mean 'distill'\?\)"),
        ("final", "--stage final: this stage has a grid of one seed for ASHA to search; such stages: student, "),
    ],
)
def test_a_stage_that_cannot_be_measured(stage: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        _searched(load_study("demo"), [stage])


@pytest.mark.slow
def test_the_whole_bench(tmp_path: Path) -> None:
    """Full grids of two seeds are kept and gone on with; one trial at a time, a launch does what its replay says."""
    study = write_study(tmp_path, STUDY)
    words = ["bench", "asha", study, "--stage", "distill", "--seed", "5", "--orders", "3"]
    file = tmp_path / "asha.parquet"
    done = kdtune(*words, "--storage", tmp_path / "kept", "-o", file)
    assert done.returncode == 0, done.stderr
    table = pq.read_table(file).to_pylist()
    assert [row["how"] for row in table[:3]] == ["launched", "replayed", "any order"]
    assert {row["how"] for row in table[3:]} == {"any order"}
    for row in table:
        assert 0 < row["share"] <= 1
        assert 0 <= row["regret"] <= row["worst"]
        assert 0 <= row["same"] <= row["within"] <= 1
    launched, replayed = table[:2]
    kept = results("tiny", str(tmp_path / "kept")).table("trials").to_pylist()
    assert {(row["stage"], row["seed"], row["status"]) for row in kept} == {
        ("teacher", 0, "completed"), ("distill", 0, "completed"), ("distill", 5, "completed")
    }  # fmt: skip
    assert len(kept) == 1 + 2 * 4
    assert launched["share"] < 1  # something was stopped, so that agreeing means something
    assert launched | {"how": "replayed"} == replayed

    again = kdtune(*words, "--storage", tmp_path / "kept", "--no-launch")
    assert again.returncode == 0, again.stderr
    assert "distill: nothing left to run" in again.stderr
    assert "launched" not in again.stdout


def test_recorded_grids_replay_by_hand() -> None:
    """Of one grid: what goes on at each rung, from the table of its curves."""
    grids = recorded.read()
    grid = grids["demo", "student", 2]
    whole = grid[0].curve.steps
    first, second = round(whole / 4), round(whole / 2)

    def at(trial: recorded.Recorded, step: int) -> float:
        return dict(trial.curve.reports)[step]

    five = sorted(grid, key=lambda trial: -at(trial, first))[:5]
    three = sorted(five, key=lambda trial: -at(trial, second))[:3]
    result, share = recorded._together(SuccessiveHalving(rungs=(0.25, 0.5)), False, grid, 0)
    assert share == pytest.approx((9 * first + 5 * (second - first) + 3 * (whole - second)) / (9 * whole))
    best = max(trial.curve.miou for trial in grid)
    assert result.regret == pytest.approx(best - max(trial.curve.miou for trial in three))
    _, cooled = recorded._together(SuccessiveHalving(rungs=(0.25, 0.5)), True, grid, 0)
    assert cooled == pytest.approx(share + 14 * 0.05 / 9)


def test_every_rule_on_the_recorded_grids(tmp_path: Path) -> None:
    done = kdtune("bench", "asha", "--recorded", "--orders", "2", "-o", tmp_path / "rules.parquet")
    assert done.returncode == 0, done.stderr
    rows = {row["rule"]: row for row in pq.read_table(tmp_path / "rules.parquet").to_pylist()}
    assert all(0 < row["steps"] < 1 and row["best"] <= row["within"] <= 1 for row in rows.values())
    assert rows["halving, factor 2, rungs 1/4, 1/2"]["steps"] < rows["asha, factor 2, grace 0.5"]["steps"]
    refused = kdtune("bench", "asha", "--recorded", "--stage", "student")
    assert (refused.returncode, refused.stderr.splitlines()) == (
        2,
        ["kdtune: --recorded trains nothing: leave out --stage; see kdtune bench asha --help"],
    )
