"""Stages with ``when``: what they and those behind them wait for, when they are left out, and who is told."""

import re
from pathlib import Path
from typing import Any

import pytest

from kdtune.api import results
from kdtune.search.conditions import Conditions
from kdtune.study.condition import When
from kdtune.study.graph import graph
from kdtune.study.spec import StudySpec
from tests.support.launching import STUDY, kdtune, write_study
from tests.support.small_study import small

WHEN = "    when: {stage: student, beats: short, by: %g}\n"
BASE = STUDY.partition("stages:")[0]
STAGES = """stages:
  - name: short
    set: {recipe.num_steps: 1, recipe.eval_every: 1}
  - name: student
    grid: {recipe.lr: [1e-1, 1e-2]}
  - name: gained
    start_from: [student]
    when: {stage: student, beats: short}
    set: {recipe.momentum: 0.8}
  - name: lost
    start_from: [student]
    when: {stage: short, beats: student}
    set: {variant: untuned}
  - name: behind
    start_from: [lost]
    set: {recipe.momentum: 0.7}
  - name: final
    start_from: [gained, lost, behind]
    seeds: [11, 12]
"""


def conditions(folder: Path, by: float, **miou: float) -> Conditions:
    """Of a study in which a stage with ``when`` makes a teacher, and another starts from it."""
    changes = [
        ("  - name: student\n", "  - name: short\n  - name: student\n"),
        ("    set:\n      teacher:", f"{WHEN % by}    set:\n      teacher:"),
    ]
    study: StudySpec = small(folder, *changes)
    rows = {name: [{"miou": value - 1}, {"miou": value + 1}] for name, value in miou.items()}
    return Conditions({stage.name: stage for stage in study.stages}, graph(study, study.stages), rows.__getitem__)


def test_a_stage_waits_for_what_it_compares(tmp_path: Path) -> None:
    waits = conditions(tmp_path, 0).waits
    assert waits["distill"].stages == {"short", "student"}
    assert waits["final"].starts == {"student": {"student"}, "distill": {"distill"}}


@pytest.mark.parametrize(
    ("by", "student", "gone"),
    [(0, 20.0, None), (1, 20.0, None), (2, 20.0, "+2.00"), (0, 18.0, "+0.00"), (0, 17.0, "-1.00")],
)
def test_the_gain_has_to_be_larger(tmp_path: Path, by: float, student: float, gone: str | None) -> None:
    found = conditions(tmp_path, by, short=18.0, student=student)
    told = gone and f"'student' has {gone} mIoU points over 'short', and when wants more than {by:g}"
    assert found.left_out("distill") == told
    assert found.left_out("student") is found.left_out("final") is None
    assert found.lacking("final", "student") is None
    assert found.lacking("final", "distill") == (gone and "'distill' was left out")
    assert found.known() == (["distill"] if gone else [])


def test_what_is_not_decided_is_not_judged(tmp_path: Path) -> None:
    with pytest.raises(KeyError):
        conditions(tmp_path, 0, short=18.0).left_out("distill")


@pytest.mark.parametrize("fields", [{"stage": "a"}, {"stage": "a", "beats": "b", "by": -1}])
def test_half_a_condition(fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"beats|by"):
        When.model_validate(fields)


@pytest.mark.slow
def test_a_launch_leaves_out_what_is_not_worth_it(tmp_path: Path) -> None:
    study = write_study(tmp_path, BASE.replace("max_concurrent: 1", "scheduler: none") + STAGES)
    done = kdtune("launch", study, "--storage", tmp_path)
    assert done.returncode == 0, done.stderr
    tables = results("tiny", str(tmp_path))
    best: dict[str, float] = {}
    trials = tables.table("trials").to_pylist()
    for row in trials:
        best[row["stage"]] = max(row["miou"], best.get(row["stage"], 0.0))
    assert best["student"] != best["short"]
    gone = ["lost", "behind"] if best["student"] > best["short"] else ["gained"]
    assert {*best} == {"short", "student", "gained", "lost", "behind", "final"} - {*gone}
    assert {row["start"] for row in trials if row["stage"] == "final"} == {"gained", "lost", "behind"} - {*gone}
    for name in gone:
        assert f"{name}: left out, since " in done.stderr
        assert re.search(rf"final from .*\b{name}\b.*: left out, since '\w+' was left out", done.stderr)
    status = kdtune("status", study, "--storage", tmp_path).stdout
    assert status.startswith("study tiny: finished")
    assert [line.split()[0] for line in status.splitlines() if line.endswith("left out")] == gone
    ahead = kdtune("launch", study, "--storage", tmp_path, "--dry-run").stdout
    assert "nothing is left to run" in ahead
    assert ahead.count("left out, since") == len(gone)
    assert "provisional" not in kdtune("results", "tiny", "--storage", tmp_path, "--table", "final").stdout
    again = kdtune("launch", study, "--storage", tmp_path)
    assert (again.returncode, "nothing left to run" in again.stderr) == (0, True), again.stderr
