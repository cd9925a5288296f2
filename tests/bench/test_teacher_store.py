"""``kdtune bench teacher-store`` at its smallest."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from kdtune.cli import main


@pytest.mark.slow
def test_every_store_comes_to_the_same_weights(tmp_path: Path) -> None:
    words = ["bench", "teacher-store", "--steps", "2", "--rounds", "1", "-o", str(tmp_path / "figures.parquet")]
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 0, done.output
    rows = {row["store"]: row for row in pq.read_table(tmp_path / "figures.parquet").to_pylist()}
    assert [*rows] == ["student", "off", "cold", "warm"]
    assert {name: row["same_weights"] for name, row in rows.items() if name != "student"} == dict.fromkeys(
        ("off", "cold", "warm"), True
    )
    steps = {name: (row["teacher_steps_run"], row["teacher_steps_read"]) for name, row in rows.items()}
    assert steps == {"student": (0, 0), "off": (12, 0), "cold": (2, 10), "warm": (0, 12)}
    assert all(row["cpu_seconds"] > 0 for row in rows.values())
