"""A study of as many trials as asked for, as launches leave it, without training: what storage costs is told on it."""

import math
import random
from concurrent.futures import ThreadPoolExecutor

from kdtune.filesystem.folder import READERS
from kdtune.records.live_tables import TableWriter
from kdtune.records.storage import Record, Storage
from kdtune.records.trial_record import Planned, new_record
from kdtune.search.changes import versions
from kdtune.study.file import load_study
from kdtune.study.spec import StudySpec

EVALUATIONS = 80  # of each trial
BEGAN = 1_767_225_600.0  # 2026-01-01 00:00 UTC
STAGE = "student"


def synthetic_study(trials: int, name: str | None = None) -> StudySpec:
    """One grid of learning rate and weight decay around the base of ``cityscapes-resnet``, as square as it can be."""
    rows = next(rows for rows in range(math.isqrt(trials), 0, -1) if trials % rows == 0)
    axes = {"recipe.lr": (1e-3, trials // rows), "recipe.weight_decay": (1e-6, rows)}
    grid = {
        path: [float(f"{low * 10 ** (2 * i / count):.4g}") for i in range(count)] for path, (low, count) in axes.items()
    }
    base = load_study("cityscapes-resnet").base
    every = base.recipe.num_steps // EVALUATIONS
    return StudySpec.model_validate(
        {
            "name": name or f"growth-{trials}",
            "base": base.replace({"recipe.eval_every": every}).model_dump(mode="json"),
            "stages": [{"name": STAGE, "grid": grid}],
        }
    )


def planned(study: StudySpec) -> list[Planned]:
    """Its trials, in the order of the plan."""
    stage = study.stage(STAGE)
    points = [{**point} for point in stage.points(["base"], study.seed)]
    return [Planned(study.name, STAGE, str(point.pop("start")), study.base.replace(point)) for point in points]


def ended(trial: Planned, place: int) -> Record:
    """The journal of a completed trial, the ``place``-th of its study: a curve, and everything that a row holds."""
    chance, record, recipe = random.Random(place), new_record(trial), trial.config.recipe
    row, classes, top = record["row"], trial.config.dataset.num_classes, 40.0
    top -= 4.0 * abs(math.log10(recipe.lr / 1e-2)) + abs(math.log10(recipe.weight_decay / 5e-5))
    for i in range(EVALUATIONS):
        step = (i + 1) * recipe.num_steps // EVALUATIONS
        miou = top * (1 - math.exp(-4 * step / recipe.num_steps)) + chance.gauss(0, 0.5)
        entry = {"study": trial.study, "stage": STAGE, "trial_id": trial.trial_id, "step": step, "miou": miou}
        loss = 60 / (10 + miou) + chance.gauss(0, 0.02)
        entry |= {"loss": loss, "loss_ce": loss, "grad_norm_ce": chance.random()}
        record["history"].append(entry | {"lr_now": recipe.lr * (1 - i / EVALUATIONS), "seconds": 37.5 * (i + 1)})
    last = record["history"][-1]
    row |= {"status": "completed", "step": last["step"], "miou": last["miou"], "miou_best": last["miou"]}
    row |= {"per_class_iou": [chance.uniform(10, 70) for _ in range(classes)], "train_seconds": last["seconds"]}
    row |= {"images_per_second": 106.7, "peak_memory_mb": 9000.5, "node": "node-1", "device": "NVIDIA H100"}
    row |= {"energy_kwh": chance.uniform(0.4, 0.6), "co2_kg": chance.uniform(0.1, 0.2), "inference_images": 40_000}
    row |= {"inference_kwh": chance.uniform(0.04, 0.06), "inference_co2_kg": chance.uniform(0.01, 0.02)}
    row |= {"started_at": BEGAN + place, "finished_at": BEGAN + place + last["seconds"]}
    return record


def untrained() -> Planned:
    """A trial of ``EVALUATIONS`` evaluations, a step each, of a tiny network."""
    changes = {"student.width": 0.02, "student.init": "random", "recipe.num_steps": EVALUATIONS, "recipe.eval_every": 1}
    return Planned("growth-trial", STAGE, "base", synthetic_study(1).base.replace(changes))


def fill(storage: Storage, study: StudySpec) -> None:
    """Journals, study, plan and tables of the finished study."""
    trials, writer = planned(study), TableWriter(storage, study)
    plan = {STAGE: [trial.trial_id for trial in trials]}
    storage.write_study(study, versions(study))
    storage.write_plan(plan)

    def claimed(record: Record) -> Record:
        storage.claim(record)
        return record

    with ThreadPoolExecutor(READERS) as pool:
        for first in range(0, len(trials), 1000):  # so many are held at once
            batch = [ended(trial, first + i) for i, trial in enumerate(trials[first : first + 1000])]
            for record in pool.map(claimed, batch):
                writer.add(record)
    writer.write(plan)
