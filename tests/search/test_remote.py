"""A launch of this machine, watched and stopped by another process through the storage alone."""

import json
from pathlib import Path

import pytest

from tests.support.launching import STUDY, end, kdtune, start, under_way, until, write_study

pytestmark = pytest.mark.slow
LONG = STUDY.replace("num_steps: 6, eval_every: 2", "num_steps: 4000, eval_every: 4")


def test_a_launch_in_a_process_is_followed_and_stopped(tmp_path: Path) -> None:
    storage = ("--storage", tmp_path)
    process = start("launch", write_study(tmp_path, LONG), *storage, "--stage", "student", "--threads", "1")
    follower = None
    try:
        until(lambda: bool(under_way(tmp_path)))
        follower = start("logs", "tiny", *storage, "-f")
        done = kdtune("status", "tiny", *storage, "--format", "json")
        assert done.returncode == 0, done.stderr
        found = json.loads(done.stdout)
        assert (found["state"], found["launch"]["pid"], found["job"]) == ("running", process.pid, None)
        assert max(trial["step"] for trial in found["stages"][1]["under_way"]) > 0
        assert found["seconds_left"] > 0
        done = kdtune("stop", "tiny", *storage)
        assert done.returncode == 0, done.stderr
        _, errors = process.communicate(timeout=60)
        log, _ = follower.communicate(timeout=60)
    finally:
        for left in filter(None, (process, follower)):
            end(left)
    assert process.returncode == 130
    assert errors.splitlines()[-1].startswith("kdtune: stopped on request; nothing finished is lost; continue with: ")
    assert not (tmp_path / "tiny" / "stop.json").exists()
    assert not (tmp_path / "tiny" / "lock.json").exists()
    assert under_way(tmp_path)  # to go on from
    assert "student: 4 trials" in log
    assert log.splitlines()[-1].endswith("ended: stopped on request; nothing finished is lost")
    done = kdtune("status", "tiny", *storage)
    assert f"continue with: kdtune launch {tmp_path / 'tiny.yaml'}" in done.stdout
