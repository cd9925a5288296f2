"""What a launch says of a stage: a number and the name of what it is the number of."""

import io

import pytest
from rich.console import Console

from kdtune.records.progress import Lines
from tests.support.tiny import finished


@pytest.mark.parametrize(
    ("mious", "told"),
    [
        ([24.0], "best mIoU 24.00 (final-{config}-s11)"),
        ([24.0, 26.5], "best mIoU 25.25 (mean of 2 seeds of final-{config})"),
    ],
)
def test_the_mean_of_several_runs_is_no_runs(mious: list[float], told: str) -> None:
    rows = [finished("final", miou, {"seed": 11 + i})["row"] for i, miou in enumerate(mious)]
    stream = io.StringIO()
    lines = Lines(Console(file=stream, width=200))
    lines.stage_started("final", len(rows), 0, 6)
    for row in rows:
        lines.trial_ended(row)
    assert f"best run {max(mious):.2f}" in lines.progress()
    lines.stage_ended("final", rows)
    assert told.format(config=rows[0]["config_id"]) in stream.getvalue().splitlines()[-1]


def test_a_term_that_is_our_reconstruction_is_told_as_such() -> None:
    stream = io.StringIO()
    lines = Lines(Console(file=stream, width=200))
    lines.stage_started("weight-csc", 1, 0, 6)
    lines.stage_ended("weight-csc", [finished("weight-csc", 24.0)["row"] | {"method": "csc"}])
    assert (
        stream.getvalue().splitlines()[-1].endswith("-s0) by csc†; †: our reconstruction of the term, not the authors'")
    )


def test_stages_that_run_side_by_side_are_told_apart() -> None:
    lines = Lines(Console(file=io.StringIO()))
    lines.stage_started("student", 3, 1, 6)
    lines.stage_started("weight-pi", 2, 0, 6)
    lines.trial_started("student-0a-s1")
    lines.trial_started("weight-pi-0b-s1")
    lines.evaluated({"trial": "weight-pi-0b-s1", "step": 3})
    assert lines.stage == "student, weight-pi"
    student, weight, left = lines.progress().split("; ")
    assert (student, weight) == ("student 1/3 done, 1 running", "weight-pi 0/2 done, 1 running")
    assert left.endswith(" left")
    lines.stage_grew("weight-pi", 5, 2)
    lines.trial_ended(finished("student", 24.0)["row"])
    lines.stage_ended("student", [])
    assert lines.progress().startswith("2/5 done, 1 running, about ")
    lines.stage_grew("weight-pi", 5, 1)
    lines.trial_paused("weight-pi-0b-s1")
    assert lines.progress().startswith("3/5 done, 0 running, 1 paused, about ")
