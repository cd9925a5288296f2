"""Nothing hangs unseen: a worker that is stopped, a disk that never answers, a trial without a place."""

import os
import signal
from pathlib import Path
from typing import Any, ClassVar

import pytest

from kdtune.cluster.halt import Halt
from kdtune.datasets.synth import write_synthetic
from kdtune.records.progress import Reporter
from kdtune.records.storage import Storage
from kdtune.records.trouble import NAME, read
from kdtune.search import stalls
from kdtune.search.stalls import Stalls
from tests.support.launching import end, journals, kdtune, start, under_way, until, workers

STUDY = """
name: tiny
stall_after: 3
base:
  dataset: {name: camvid, size: [32, 48]}
  student: {name: pspnet, backbone: resnet18, width: 0.0625}
  losses: {ce: {weight: 1.0}}
  recipe: {lr: 1e-2, weight_decay: 5e-4, crop: [32, 48], batch_size: 2, num_steps: 4000, eval_every: 20}
stages:
  - name: student
"""


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """A study whose images are files."""
    write_synthetic("camvid", tmp_path / "data" / "camvid", 12)
    path = tmp_path / "tiny.yaml"
    path.write_text(STUDY)
    return path


def never_answers(*paths: Path) -> None:
    """Puts a pipe, into which nobody writes, in the place of each file: to open it takes for ever."""
    for path in paths:
        os.mkfifo(path.with_suffix(".pipe"))
        path.with_suffix(".pipe").rename(path)


def test_a_first_read_that_never_returns(study: Path, tmp_path: Path) -> None:
    label = sorted((tmp_path / "data" / "camvid" / "trainannot").iterdir())[3]
    never_answers(label)
    words = ("--storage", tmp_path, "--data-root", tmp_path / "data", "--pack", "never")
    done = kdtune("launch", study, *words, env={"KDTUNE_CACHE": str(tmp_path / "cache")})
    assert done.returncode == 1
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("kdtune:")]
    assert f"reading camvid: no progress for 3 s: it hangs at {label}; see that" in line
    assert "ended: reading camvid: no progress" in (tmp_path / "tiny" / "launch.log").read_text()


@pytest.mark.slow
def test_a_trial_that_hangs_is_ended_and_tried_once_more(study: Path, tmp_path: Path) -> None:
    """Its process is stopped, and it goes on in another; then its images never answer, and it fails."""
    words = ("--storage", tmp_path, "--data-root", tmp_path / "data", "--pack", "never", "--threads", "1")
    process = start("launch", study, *words, env={"KDTUNE_CACHE": str(tmp_path / "cache")})
    trouble = tmp_path / "tiny" / NAME
    try:
        until(lambda: bool(under_way(tmp_path)))
        (trial,) = under_way(tmp_path)
        assert "stalled" not in kdtune("status", study, "--storage", tmp_path).stdout  # what it imports is there now
        (worker,) = workers(process.pid)
        worker.send_signal(signal.SIGSTOP)
        until(trouble.exists)
        shown = kdtune("status", study, "--storage", tmp_path).stdout
        (line,) = [line for line in shown.splitlines() if line.startswith(f"running {trial}: step ")]
        assert "of 4000, stalled: no step for" in line
        assert "its process is stopped (SIGSTOP)" in line  # the image that it was reading may follow
        assert line.endswith("; ended, and tried once more")
        until(lambda: not trouble.exists())
        never_answers(*(tmp_path / "data" / "camvid" / "train").iterdir())
        _, errors = process.communicate(timeout=200)
    finally:
        end(process)
    assert process.returncode == 1, errors  # other trials would have gone on, but there is no other
    (line,) = [line for line in errors.splitlines() if line.startswith("kdtune: ")]
    assert line.startswith("kdtune: stage 'student': its only trial failed; stalled twice: no step for")
    assert f"kdtune logs {study} --storage {tmp_path} --trial {trial}" in line
    assert errors.count(f"warning: trial {trial} is stalled: no step for") == 2
    record = journals(tmp_path)[trial]
    assert (record["row"]["status"], record["attempt"]) == ("failed", 3)  # the last claim is the driver's
    assert record["row"]["error"].startswith("stalled twice: no step for")
    assert ", at kdtune/datasets/decode.py:" in record["row"]["error"]
    assert f"reading {tmp_path / 'data' / 'camvid' / 'train'}/" in record["row"]["error"]
    log = kdtune("logs", study, "--storage", tmp_path, "--trial", trial).stdout
    assert "in _load" in log
    assert "in run_trial" in log
    assert not trouble.exists()


class Pending:
    """A trial as Tune has it before it has a place."""

    status = "PENDING"
    config: ClassVar = {"stage": "student"}


class Kept(Reporter):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def note(self, message: str) -> None:
        self.lines.append(message)

    warn = note


def test_what_waits_for_a_place_says_for_what(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage, kept = Storage(str(tmp_path), "tiny"), Kept()
    monkeypatch.setattr(stalls, "free", lambda: "A: 0 of 1 GPU free")
    monkeypatch.setattr(stalls, "WAITS_AFTER", 0.0)
    monkeypatch.setattr(stalls, "PLACED_EVERY", 0.0)
    found = Stalls(storage, kept, Halt())
    stage: Any = type("Stage", (), {"name": "student", "labels": {"kind": "fast"}})
    found.begin({"cpu": 4, "gpu": 1}, stage)
    found.placed([Pending()])
    found.looked()
    found.looked()
    what = "waiting for 1 GPU and 4 CPUs on a node with kind=fast for a trial"
    assert kept.lines == [f"student: {what} since 0 s: the cluster's nodes have A: 0 of 1 GPU free"]
    assert read(storage.folder).waiting == what
    found.placed([])
    found.looked()
    assert kept.lines[1:] == ["student: the trial that waited has a place"]
    assert not storage.folder.exists(NAME)
