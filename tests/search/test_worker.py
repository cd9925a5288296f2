"""What a worker does with a trial, without Ray."""

import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from kdtune.devices import VISIBLE_GPUS, compute_device
from kdtune.records.storage import Storage
from kdtune.records.trial_record import Planned
from kdtune.search.stage_context import StageContext, title
from kdtune.search.worker import Said, _followed, _take_share
from kdtune.study.stage import Stage
from kdtune.training import trial
from kdtune.training.loop import Evaluation, Run
from kdtune.training.site import Site
from tests.support.tiny import config, evaluations

pytestmark = pytest.mark.usefixtures("one_thread")
FULL = "CUDA out of memory. Tried to allocate 2.00 GiB."


class Full:
    """A trainer whose GPU is full at an evaluation, so many times."""

    def __init__(self, times: int) -> None:
        self.left = times
        self.begun: list[int] = []

    def __call__(self, *given: Any) -> Iterator[tuple[Evaluation, Run]]:
        for evaluation, run in trial.run(*given):
            self.begun.append(evaluation.step)
            if evaluation.step == 4 and self.left:
                self.left -= 1
                raise torch.OutOfMemoryError(FULL)
            yield evaluation, run


def followed(folder: Path, trainer: Full) -> tuple[list[dict[str, Any]], list[str]]:
    storage = Storage(str(folder), "s")
    notes: list[str] = []
    context = StageContext("s", Stage(name="student"), {}, {}, Site(), storage, threads=1, trainer=trainer)
    records = [
        dict(record["row"]) for record in _followed(Planned("s", "student", "base", config()), context, notes.append)
    ]
    return records, notes


def test_a_gpu_that_was_full_once_costs_no_trial(tmp_path: Path) -> None:
    trainer = Full(1)
    rows, notes = followed(tmp_path, trainer)
    assert [row["status"] for row in rows] == ["running", "running", "completed"]
    assert trainer.begun == [2, 4, 4, 6]  # from the state of step 2
    assert rows[-1]["error"] is None
    assert rows[-1]["miou"] == evaluations(config())[0][-1]["miou"]
    assert [note.partition(": ")[2] for note in notes] == [
        "the GPU's memory was full; tried once more from its last state"
    ]


def test_what_a_trial_says_in_its_workers_log(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = Said("s/student s0", "student-1-s0")
    rows, _ = followed(tmp_path, Full(0))
    said.handle(logging.makeLogRecord({"msg": "before training, %s has taken %d batches", "args": ("ka", 7)}))
    for row in rows:
        said.evaluation(row)
    said.end("left")  # once is enough
    first, before, *between, last = capsys.readouterr().err.splitlines()
    assert first == "s/student s0: begins, trial student-1-s0"
    assert before == "s/student s0: before training, ka has taken 7 batches"
    assert between == [f"s/student s0: step {row['step']} of 6: mIoU {row['miou']:.2f} %" for row in rows]
    assert last == "s/student s0: completed"


def test_a_trials_title_has_what_its_stage_searches() -> None:
    grid = {"recipe.lr": [0.01, 1.0], "recipe.weight_decay": [5e-4], "losses.pi.weight": [10.0]}
    point = {"start": "base", "recipe.lr": 0.01, "recipe.weight_decay": 5e-4, "losses.pi.weight": 10.0, "seed": 0}
    assert title("demo", Stage(name="student", grid=grid), point) == "demo/student lr=1e-2 wd=5e-4 pi=10 s0"
    several = Stage(name="final", start_from=("student", "distill"), seeds=(11,))
    assert title("demo", several, {"start": "distill", "seed": 11}) == "demo/final from distill s11"
    tau = Stage(name="t", start_from=("distill",), grid={"losses.pi.temperature": [4]})
    assert (
        title("demo", tau, {"start": "distill", "losses.pi.temperature": 4, "seed": 1}) == "demo/t pi.temperature=4 s1"
    )


def test_a_trial_without_a_share_leaves_the_gpus_of_its_node_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where a node has GPUs that Ray was not given; the trial's row says what it ran on."""
    monkeypatch.setenv(VISIBLE_GPUS, "0,1")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert compute_device().type == "cuda"
    _take_share(0.0)
    assert os.environ[VISIBLE_GPUS] == ""
    assert compute_device().type == "cpu"
    rows, _ = followed(tmp_path, Full(0))
    assert (rows[-1]["status"], rows[-1]["device"]) == ("completed", "cpu")


def test_a_share_of_a_gpu_is_all_the_memory_that_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[float] = []
    monkeypatch.delenv(VISIBLE_GPUS, raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", taken.append)
    _take_share(0.25)
    _take_share(2.0)
    assert taken == [0.25, 1.0]
    assert VISIBLE_GPUS not in os.environ


def test_a_gpu_that_stays_full_fails_it_and_says_what_would_take_less(tmp_path: Path) -> None:
    rows, notes = followed(tmp_path, Full(2))
    assert [row["status"] for row in rows] == ["running", "failed"]
    assert rows[-1]["error"].startswith(f"out of memory: {FULL} (batches of 2, crops of 32 x 48); run fewer trials")
    assert len(notes) == 1
