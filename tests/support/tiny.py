"""The smallest trial that runs every line of the loop: drawn scenes of 32 x 48, a network 1/16 as wide."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kdtune.loading.pack import Packed
from kdtune.records.live_tables import TableWriter
from kdtune.records.storage import Record, Storage
from kdtune.records.trial_record import Planned, new_record
from kdtune.study.spec import StudySpec
from kdtune.study.trial_config import TrialConfig
from kdtune.training.loop import Evaluation
from kdtune.training.site import Site
from kdtune.training.trial import run
from kdtune.training.weights import weights_bytes

NETWORK = {"name": "pspnet", "backbone": "resnet18", "width": 0.0625}
BASE = {
    "dataset": {"name": "demo", "size": [32, 48], "num_train": 8, "num_val": 4},
    "student": NETWORK,
    "losses": {"ce": {"weight": 1.0}},
    "recipe": {
        "lr": 0.05,
        "weight_decay": 5e-4,
        "crop": [32, 48],
        "batch_size": 2,
        "num_steps": 6,
        "eval_every": 2,
    },
}


def config(changes: Mapping[str, Any] | None = None) -> TrialConfig:
    """The tiny trial with values at dotted paths replaced."""
    return TrialConfig.model_validate(BASE).replace(changes or {})


def teacher(folder: Path, classes: int = 12) -> dict[str, Any]:
    """A teacher of random weights, written to a folder."""
    torch.manual_seed(99)
    file = folder / "teacher.safetensors"
    file.write_bytes(weights_bytes(config().student.build(classes)))
    return {"model": NETWORK, "checkpoint": str(file)}


def evaluations(trial: TrialConfig, saved: Mapping[str, Any] | None = None) -> tuple[list[dict[str, Any]], bytes]:
    """Every evaluation but its seconds, and the trained student's weights."""
    steps = list(run(trial, Site(), saved))
    return [untimed(evaluation) for evaluation, _ in steps], weights_bytes(steps[-1][1].student)


def untimed(evaluation: Evaluation) -> dict[str, Any]:
    """An evaluation but for the seconds that it took."""
    found = {key: value for key, value in asdict(evaluation).items() if key != "seconds"}
    return found | {"images": evaluation.images and evaluation.images.table().to_pylist()}


def through_a_file(state: Mapping[str, Any]) -> dict[str, Any]:
    """A checkpoint as another process would read it."""
    buffer = io.BytesIO()
    torch.save(dict(state), buffer)
    buffer.seek(0)
    found: dict[str, Any] = torch.load(buffer, weights_only=True)
    return found


def noise(sizes: Sequence[tuple[int, int]], classes: int = 12) -> Packed:
    """A split of random pixels, one image per size (H, W)."""
    generator = np.random.default_rng(7)
    pixels = [height * width for height, width in sizes]
    labels = generator.integers(classes, size=sum(pixels), dtype=np.uint8)
    labels[generator.random(len(labels)) < 0.05] = 255
    return Packed(
        names=tuple(f"image-{i}" for i in range(len(sizes))),
        images=generator.integers(256, size=(sum(pixels), 3), dtype=np.uint8),
        labels=labels,
        sizes=np.array(sizes),
        first=np.cumsum([0, *pixels[:-1]]),
    )


def study() -> StudySpec:
    """A study of the tiny trial: a teacher, two grids, and the best of both over two seeds."""
    distilled = {"teacher": {"model": NETWORK, "checkpoint": "stage:teacher"}, "losses.pi": {"weight": 0.5}}
    stages = [
        {"name": "teacher"},
        {"name": "student", "grid": {"recipe.lr": [0.1, 0.01]}},
        {"name": "distill", "set": distilled, "grid": {"losses.pi.temperature": [1, 2]}},
        {"name": "final", "start_from": ["student", "distill"], "seeds": [11, 12]},
    ]
    return StudySpec.model_validate({"name": "tiny", "base": BASE, "stages": stages})


def finished(stage: str, miou: float | None, changes: Mapping[str, Any] | None = None, **row: Any) -> Record:
    """The journal of a trial of ``study`` that ended with this mIoU."""
    given = {"start": "base", "status": "completed"} | row
    record = new_record(Planned("tiny", stage, given["start"], config(changes)))
    entry = {"study": "tiny", "stage": stage, "trial_id": record["row"]["trial_id"], "step": 6, "miou": miou}
    record["history"] = [entry | {"loss": 2.5, "loss_ce": 2.5, "grad_norm_ce": 1.5, "lr_now": 0.0, "seconds": 0.5}]
    measured = {"miou": miou, "miou_best": miou, "step": 6, "per_class_iou": [1.5, None, 3.0], "train_seconds": 0.5}
    times = {"started_at": 1_767_323_045.25, "finished_at": 1_767_323_046.0}  # 2026-01-02 03:04:05.25 UTC
    record["row"] |= measured | times | given
    return record


def write_tables(storage: Storage, plan: Mapping[str, Sequence[str]], records: Mapping[str, Record]) -> None:
    """The tables of a launch that has these journals."""
    writer = TableWriter(storage, study())
    for record in records.values():
        writer.add(record)
    writer.write(plan)
