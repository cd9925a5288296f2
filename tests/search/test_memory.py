"""A trial that needs more memory than there is: it fails and says what helps, the others go on."""

from pathlib import Path

import psutil
import pytest

from tests.support.launching import STUDY, journals, kdtune, write_study

pytestmark = pytest.mark.slow


def test_a_trial_out_of_memory_leaves_the_others_alone(tmp_path: Path) -> None:
    """Ray's own limit, set six gigabytes above what is used now; crops of 16384 x 16384 pixels need more."""
    memory = psutil.virtual_memory()
    limit = (memory.total - memory.available + 6e9) / memory.total
    text = STUDY.replace("recipe.lr: [1e-1, 1e-2]", "recipe.crop: [[32, 48], [16384, 16384]]")
    args = ("launch", write_study(tmp_path, text.replace("[5e-4, 5e-6]", "[5e-4]")), "--storage", tmp_path)
    environment = {"RAY_memory_usage_threshold": f"{limit:.4f}", "RAY_memory_monitor_refresh_ms": "50"}
    done = kdtune(*args, "--stage", "student", "--max-concurrent", "1", "--scheduler", "none", env=environment)
    assert done.returncode == 0, done.stderr
    rows = [entry["row"] for entry in journals(tmp_path).values()]
    assert sorted(row["status"] for row in rows) == ["completed", "failed"]
    (failed,) = [row for row in rows if row["status"] == "failed"]
    assert "memory was nearly full" in failed["error"]
    assert "--max-concurrent" in failed["error"]
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("warning: trial")]
    assert failed["error"] in line
