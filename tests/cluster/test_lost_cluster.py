"""What Ray itself does not tell: its control store or its raylet is gone. The launch ends, and the next one goes on."""

import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.support.launching import AT_ONCE, end, journals, running, start, under_way, until, write_study

pytestmark = pytest.mark.slow
# one stage and trials that outlast the watchdog's patience: what it has to notice happens while they run
LONG = AT_ONCE.replace("num_steps: 6, eval_every: 2", "num_steps: 4000, eval_every: 50")
GRID = LONG.replace("recipe.weight_decay: [5e-4, 5e-6]", "recipe.weight_decay: [5e-4]")


HOW = ("--scheduler", "none", "--stage", "student", "--threads", "1")


@pytest.mark.parametrize(
    ("victim", "told", "at_once"),
    [
        ("gcs_server", "control store has not answered for", "1"),  # 40 s, in which other tests want a core, too
        ("raylet", "raylet did: Ray's part on this machine is gone", "2"),
    ],
)
def test_a_launch_whose_ray_is_gone_ends_and_says_how_to_continue(
    tmp_path: Path, victim: str, told: str, at_once: str
) -> None:
    args = ("launch", write_study(tmp_path, GRID), "--storage", tmp_path, "--max-concurrent", at_once, *HOW)
    process = start(*args)
    try:
        until(lambda: bool(under_way(tmp_path)))
        below = psutil.Process(process.pid).children(recursive=True)
        (killed,) = [each for each in below if each.name() == victim]
        killed.kill()
        began = time.monotonic()
        _, errors = process.communicate(timeout=90)
        assert time.monotonic() - began < 58  # Ray's own end, without a word, comes after 60
    finally:
        end(process)
    assert process.returncode == 1
    last = errors.splitlines()[-1]
    assert told in last
    assert "continue with: kdtune launch" in last
    assert "Traceback" not in errors
    psutil.wait_procs(below, timeout=30)
    assert not [each for each in below if each.is_running() and each.status() != psutil.STATUS_ZOMBIE]
    assert not (tmp_path / "tiny" / "lock.json").exists()
    assert running(tmp_path)
    # a new Ray, the same storage: every trial goes on from its last state
    before = journals(tmp_path)
    process = start(*args)
    try:
        until(lambda: all(_further(entry, journals(tmp_path)[name]) for name, entry in before.items()))
    finally:
        end(process)


def _further(before: dict[str, Any], now: dict[str, Any]) -> bool:
    """Whether a trial has gone on: another attempt, all that its last state knew, and an evaluation more."""
    last = max((state["step"] for state in before["states"]), default=0)
    known = [entry for entry in before["history"] if entry["step"] <= last]
    further = now["attempt"] > before["attempt"] and len(now["history"]) > len(known)
    return further and now["history"][: len(known)] == known
