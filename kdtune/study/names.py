"""Names that stand in files: of a study's folder, its trials, the columns of hyperparameters; and of stages."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

STUDY_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]*"  # it becomes the name of a folder

TRIAL_ID = r"[a-z0-9-]+-[0-9a-f]+-s\d+"  # the folder of its weights

ALONE = "student"  # the method of the student without a teacher
LONGER = "longer"  # the student without a teacher, trained as long as the dearest method
VARIANTS = {"untuned": "untuned", LONGER: "trained longer"}  # further methods without one -> in words

TEACHER = "teacher"  # the stage that trains the teacher, or whose row holds a given teacher's own mIoU
FINAL = "final"  # the stage that compares methods over new seeds
SHARED = "training, teacher shared"  # phase of `emissions`: a distilled training as it was, others ran the teacher

MOST_TRIALS = 100_000  # of a stage: all are planned, and listed, before the first runs


def config_id(data: Mapping[str, Any]) -> str:
    """Hash of all of a configuration but its seed, and but where its data lies."""
    told = {key: value for key, value in data.items() if key != "seed"}
    if isinstance(told.get("dataset"), Mapping) and "root" in told["dataset"]:
        told["dataset"] = {key: value for key, value in told["dataset"].items() if key != "root"}
    text = json.dumps(told, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:10]


def trial_id(stage: str, data: Mapping[str, Any]) -> str:
    """``<stage>-<config_id>-s<seed>``: the same trial has the same id on every launch.

    Raises:
        KeyError: the configuration has no seed.
    """
    return f"{stage}-{config_id(data)}-s{data['seed']}"


def stage_of(trial: str) -> str:
    """The stage that the id of a trial begins with."""
    return trial.rsplit("-", 2)[0]


def is_distilled(method: str) -> bool:
    """Whether a method of students has terms beside the task's own."""
    return method != ALONE and method not in VARIANTS


def column(loss: str, field: str) -> str:
    """``lambda_<loss>`` for a weight, ``temperature`` for that of L_PI, ``<field>_<loss>`` for all else."""
    if field == "weight":
        return f"lambda_{loss}"
    return field if (loss, field) == ("pi", "temperature") else f"{field}_{loss}"


def column_at(path: str) -> str | None:
    """The column of a dotted path of a configuration, ``recipe.lr`` or ``losses.pi.weight``; None if it has none."""
    match path.split("."):
        case ["recipe", "lr" | "weight_decay" as field]:
            return field
        case ["losses", loss, field]:
            return column(loss, field)
    return None
