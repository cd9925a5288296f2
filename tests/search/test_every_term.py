"""Every loss term on Ray: the smallest study that compares all of them, interrupted and launched again."""

import signal
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from kdtune.losses import LOSSES
from kdtune.study.file import load_study
from tests.support.launching import end, journals, kdtune, start, until


@pytest.mark.slow
def test_all_terms_are_compared_over_two_launches(tmp_path: Path) -> None:
    def tried() -> set[str]:
        ended = [row for row in (e["row"] for e in journals(tmp_path, "demo-terms").values()) if row["finished_at"]]
        return {row["trial_id"] for row in ended if row["stage"].startswith("weight-")}

    words = ("launch", "demo-terms", "--storage", tmp_path)
    process = start(*words)
    try:
        until(lambda: len(tried()) > 3)
        process.send_signal(signal.SIGINT)
        told = process.communicate(timeout=60)[1]
    finally:
        end(process)
    before = tried()
    done = kdtune(*words)
    assert done.returncode == 0, done.stderr
    rows = pq.read_table(tmp_path / "demo-terms" / "trials.parquet").to_pylist()
    assert {row["status"] for row in rows} == {"completed"}
    assert before <= {row["trial_id"] for row in rows if row["attempt"] == 1}
    used = {name for name in LOSSES.table for row in rows if (row.get(f"lambda_{name}") or 0) > 0}
    compared = {stage.name.removeprefix("weight-").replace("-", "_") for stage in load_study("demo-terms").stages}
    assert used == compared & {*LOSSES.table}
    assert len(used) == 31
    assert sum(row["stage"] == "weight-cirkd" for row in rows) == 3  # the best of two always lies at a border
    assert "so losses.pi.weight" in told + done.stderr
    table = kdtune("results", "demo-terms", "--storage", tmp_path, "--table", "terms", "--format", "csv").stdout
    final = [row for row in rows if row["stage"] == "final"]
    methods = {row["method"] for row in final} - {"student", "untuned", "longer"}
    assert len(table.splitlines()) == 1 + len(methods)
    steps = {row["method"]: row["step"] for row in final}
    assert steps["longer"] > steps["student"] == 2
    assert "so student is trained once more" in done.stderr
    assert "nothing is left to run" in kdtune(*words, "--dry-run").stdout
