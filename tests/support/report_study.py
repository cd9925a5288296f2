"""Studies on a storage for the report's tests: the real writers, plans and configurations, made-up measurements."""

import math
import random
from collections.abc import Mapping
from typing import Any

from kdtune import results
from kdtune.records.live_tables import TableWriter
from kdtune.records.storage import Record, Storage
from kdtune.records.trial_record import Planned, new_record
from kdtune.report.build import report
from kdtune.study.file import load_study
from kdtune.study.spec import StudySpec
from kdtune.study.trial_config import TrialConfig

BEGAN = 1_767_323_045.25  # 2026-01-02 03:04:05.25 UTC
GAIN = {"student": 0.0, "pi": 1.3, "pi+pa": 1.9, "pi+ho": 1.4, "pi+ifv": 0.7}  # mIoU points


def demo(**changes: Any) -> StudySpec:
    """The demo's study with other fields."""
    return StudySpec.model_validate(load_study("demo").model_dump(mode="json") | changes)


def planned(study: StudySpec, stage: str) -> list[Planned]:
    """The trials of a stage, each around the first configuration that its starts could choose."""
    found = study.stage(stage)
    starts = study.template_starts(found)
    trials = []
    for point in found.points(list(starts), study.seed):
        start = str(point.pop("start"))
        trials.append(Planned(study.name, stage, start, starts[start].replace({**found.set, **point})))
    return trials


def ended(trial: Planned, evaluations: int, chance: random.Random, **given: Any) -> Record:
    """The journal of a trial with a plausible curve; ``given`` replaces columns."""
    config, record = trial.config, new_record(trial)
    top = 40.0 + GAIN.get(config.method, 0.0) - 4.0 * abs(math.log10(config.recipe.lr / 0.2)) + chance.gauss(0.0, 0.4)
    top += 12.0 if trial.stage == "teacher" else 0.0
    steps = max(1, config.recipe.num_steps)
    status = given.get("status", "completed")
    last = steps if status in ("completed", "failed") else max(1, steps // 2)
    row = record["row"]
    for i in range(evaluations):
        step = max(1, round(last * (i + 1) / evaluations))
        miou = top * (1.0 - math.exp(-4.0 * step / steps)) + chance.gauss(0.0, 0.3)
        entry = {"study": trial.study, "stage": trial.stage, "trial_id": row["trial_id"], "step": step, "miou": miou}
        record["history"].append(entry | {"loss": 100.0 / (1.0 + miou), "lr_now": 0.01, "seconds": 0.25})
    miou = record["history"][-1]["miou"]
    classes = config.dataset.num_classes
    iou = [None if k == classes - 1 else miou * (0.4 + 1.2 * k / classes) for k in range(classes)]
    row |= {"status": status, "step": last, "miou": miou, "miou_best": miou, "per_class_iou": iou}
    row |= {"train_seconds": 2.5 * last, "images_per_second": 31.25, "peak_memory_mb": 512.0, "node": "n1"}
    row |= {"device": "cpu", "energy_kwh": 1e-5 * last, "co2_kg": 4e-6 * last}
    row |= {"started_at": BEGAN, "finished_at": BEGAN + 2.5 * last, "kdtune_version": "0.1.0", "torch_version": "2.14"}
    if status in ("diverged", "failed"):
        row |= {"miou": None, "per_class_iou": None}
    row |= given
    return record


def write(
    storage: Storage,
    study: StudySpec,
    *,
    stages: int = 99,
    evaluations: int = 6,
    statuses: Mapping[int, str] | None = None,
    given: Mapping[str, Any] | None = None,
) -> list[Record]:
    """The study on its storage as far as its first ``stages``; ``statuses``: of trials by their place in a grid."""
    chance = random.Random(1)
    plan, records = {}, []
    for stage in study.stages[:stages]:
        trials = planned(study, stage.name)
        plan[stage.name] = [trial.trial_id for trial in trials]
        wide = len(trials) > 4 and len(stage.seeds) == 1
        for i, trial in enumerate(trials):
            status = (statuses or {}).get(i, "completed") if wide else "completed"
            records.append(ended(trial, evaluations, chance, status=status, **given or {}))
    save(storage, study, plan, records)
    return records


def save(storage: Storage, study: StudySpec, plan: Mapping[str, list[str]], records: list[Record]) -> None:
    """What a launch leaves: the study, the plan, the tables."""
    storage.write_study(study, {"kdtune": "0.1.0", "torch": "2.14", "ray": "2.60", "CUDA": None})
    storage.write_plan(plan)
    writer = TableWriter(storage, study)
    for record in records:
        writer.add(record)
    writer.write(plan)


def page(storage: Storage, data_root: str | None = None) -> str:
    """The report of the study on that storage."""
    return report(storage, results(storage.study, storage.root).all(), data_root)


def weights(storage: Storage, record: Record) -> None:
    """A checkpoint of the trial: its network as it starts."""
    import torch

    config = TrialConfig.model_validate_json(record["row"]["config"])
    torch.manual_seed(len(record["row"]["trial_id"]))
    storage.write_weights(record["row"]["trial_id"], config.student.build(config.dataset.num_classes))
