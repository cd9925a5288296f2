"""``kdtune bench train``: each stage's first configuration, by the way that a trial takes."""

import itertools
from contextlib import nullcontext
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

from kdtune.base import UserError
from kdtune.bench import training
from kdtune.study.file import load_study
from kdtune.training import step_times
from kdtune.training.energy import Amount
from tests.support.small_study import write
from tests.support.tiny import NETWORK, config

pytestmark = pytest.mark.usefixtures("one_thread")


def test_a_row_for_each_configuration_of_a_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody has made the teacher's file, nor what the student starts from; the last stage measures nothing new."""
    monkeypatch.setattr(training, "_alone", training._steps)
    readings = itertools.count()
    monkeypatch.setattr(training, "metered_here", lambda country: nullcontext(lambda: Amount(float(next(readings)))))
    study = write(tmp_path, ("width: 0.125}", "width: 0.125}\n  warm_start: {checkpoint: s.safetensors}"))
    file = tmp_path / "figures.parquet"
    told = training.training(str(study), None, {}, 4, str(file))
    rows = pq.read_table(file).to_pylist()
    assert [(row["stage"], row["method"]) for row in rows] == [("student", "student"), ("distill", "pi")]
    for row in rows:
        assert row["images_per_second"] == pytest.approx(2 / (row["step_ms"] / 1000))
        assert (row["batch"], row["crop"], row["diverged"]) == (2, "32x48", False)
        assert row["memory_mb"] > 0
    assert "distill" in told
    by_stage = {row["stage"]: row["step_ms"] / 1000 for row in rows}
    for name, template in load_study(str(study)).templates().items():  # what a forecast finds
        kept = step_times.kept(template)
        assert kept is not None
        assert kept.seconds == pytest.approx(by_stage.get(name, by_stage["student"]))
        assert kept.kwh == pytest.approx(0.5)  # a reading later, 1 kWh, are two steps


def test_threads_are_those_of_the_study(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", asked.append)
    training._steps(config({"threads": 3}), None)
    assert asked == [3]


def test_what_is_wrong_is_told_from_the_process_that_measures() -> None:
    taught = {"teacher": {"model": NETWORK, "checkpoint": "none"}, "losses.pi": {"weight": 1.0}}
    with pytest.raises(UserError, match="camvid"):
        training._alone(config(taught | {"dataset": {"name": "camvid"}}), "nowhere")
