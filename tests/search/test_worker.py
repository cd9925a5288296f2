"""What a worker does with a trial, without Ray."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from kdtune.records.journal import Planned
from kdtune.records.storage import Storage
from kdtune.search.stage_context import StageContext
from kdtune.search.worker import _followed
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


def test_a_gpu_that_stays_full_fails_it_and_says_what_would_take_less(tmp_path: Path) -> None:
    rows, notes = followed(tmp_path, Full(2))
    assert [row["status"] for row in rows] == ["running", "failed"]
    assert rows[-1]["error"].startswith(f"out of memory: {FULL} (batches of 2, crops of 32 x 48); run fewer trials")
    assert len(notes) == 1
