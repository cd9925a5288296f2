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
