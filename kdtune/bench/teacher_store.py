"""``kdtune bench teacher-store``: what a distilled trial costs beside a student's, and how often a teacher is run."""

import hashlib
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from kdtune.api import launch
from kdtune.bench.figures import told
from kdtune.bench.own_cache import own_cache
from kdtune.records.progress import Lines
from kdtune.records.rows import Row
from kdtune.search.options import Options
from kdtune.study.file import load_study
from kdtune.study.trial_config import TrialConfig
from kdtune.training.site import Site, TeacherStore
from kdtune.training.trial import run
from kdtune.training.weights import weights_bytes

HEAVY = {"name": "pspnet", "backbone": "resnet101", "width": 0.25}
TRIALS, AT_ONCE = 6, 2
COUNTED = 4.31 / 2.59  # TFLOP at 512 x 512, batch 8: ResNet-101's forward over ResNet-18's step
TINY: Mapping[str, Any] = {  # a study's protocol at a size for a processor; its trials and seeds as they are
    "dataset": {"name": "demo", "size": [64, 96], "num_train": 32, "num_val": 8},
    "student": {"name": "pspnet", "backbone": "resnet18", "width": 0.0625},
    "recipe.crop": [48, 64],
    "recipe.batch_size": 4,
    "recipe.num_steps": 64,
    "recipe.eval_every": 32,
    "losses.ho.critic_width": 0.0625,
}


def teacher_store(steps: int, rounds: int, study: str | None, output: str | None) -> str:
    """Processor seconds of six trials of one seed, two at once: student, and with a heavy teacher, by its store.

    All four in turn, so many rounds, for a machine is not as fast at one time as at another: ``cpu_seconds`` and
    ``over_student``, a trial with a teacher over one without, are medians over rounds. ``same_weights``: whether every
    trial has come to the very weights that it has without a store. With ``study``, its protocol at a tiny size too: how
    many steps of the teacher its trials ran for each that they made.
    """
    with tempfile.TemporaryDirectory() as folder:
        teacher = _written(folder, HEAVY)
        found = [_sharing(f"{folder}/{number}", teacher, steps) for number in range(rounds)]
        title = f"{TRIALS} trials of {steps} steps and one seed, {AT_ONCE} at once, {rounds} rounds"
        text = told(title, [_median(list(each)) for each in zip(*found, strict=True)], output)
        if study is not None:
            rows = protocol(study, folder)
            text += told(f"steps of the teacher in {study}, tiny", rows, None if output is None else f"{output}.study")
    return text


def _median(rounds: list[Row]) -> Row:
    """A line of the table from those of the rounds."""
    middle = {key: statistics.median(row[key] for row in rounds) for key in ("cpu_seconds", "over_student")}
    spread = [row["over_student"] for row in rounds]
    same = [row["same_weights"] for row in rounds]
    ends = {"least": min(spread), "most": max(spread), "same_weights": None if None in same else all(same)}
    return rounds[0] | middle | ends


def _written(folder: str, model: Mapping[str, Any]) -> str:
    """A teacher of random weights."""
    torch.manual_seed(0)
    path = Path(folder) / "teacher.safetensors"
    path.write_bytes(weights_bytes(_config(None, 1, 0.01).replace({"student": model}).student.build(12)))
    return str(path)


def _config(teacher: str | None, steps: int, lr: float) -> TrialConfig:
    data: dict[str, Any] = {
        "dataset": {"name": "demo", "size": [128, 128], "num_train": 32, "num_val": 2},
        "student": {"name": "pspnet", "backbone": "resnet18", "width": 0.25},
        "losses": {"ce": {"weight": 1.0}},
        "recipe": {"lr": lr, "weight_decay": 5e-4, "crop": [128, 128], "batch_size": 4, "num_steps": steps}
        | {"eval_every": steps},
        "seed": 1,
    }
    if teacher is not None:
        data |= {"teacher": {"model": HEAVY, "checkpoint": teacher}}
        data["losses"] |= {"pi": {"weight": 1.0}}
    return TrialConfig.model_validate(data)


def _sharing(folder: str, teacher: str, steps: int) -> list[Row]:
    rates = [0.01 * (i + 1) for i in range(TRIALS)]
    plain = [_config(None, steps, lr) for lr in rates]
    distilled = [_config(teacher, steps, lr) for lr in rates]
    kept = Site(store=TeacherStore())
    with own_cache(folder):
        measured = {"student": _at_once(plain, Site()), "off": _at_once(distilled, Site())}
        measured |= {"cold": _at_once(distilled, kept), "warm": _at_once(distilled, kept)}
    student = sum(each["cpu_seconds"] for each in measured["student"])
    found = []
    for store, trials in measured.items():
        cpu = sum(each["cpu_seconds"] for each in trials)
        same = [a["weights"] == b["weights"] for a, b in zip(trials, measured["off"], strict=True)]
        found.append(
            {
                "store": store,
                "cpu_seconds": cpu,
                "over_student": cpu / student,
                "teacher_steps_run": sum(each["run"] for each in trials),
                "teacher_steps_read": sum(each["read"] for each in trials),
                "same_weights": None if store == "student" else all(same),
            }
        )
    return found


def _at_once(configs: Iterable[TrialConfig], site: Site) -> list[dict[str, Any]]:
    """Trials in processes of their own, so many at a time."""
    with multiprocessing.get_context("spawn").Pool(AT_ONCE) as pool:
        return pool.map(_trial, [(config, site) for config in configs], chunksize=1)


def _trial(given: tuple[TrialConfig, Site]) -> dict[str, Any]:
    config, site = given
    torch.set_num_threads(1)
    began = time.process_time()
    *_, (_, state) = run(config, site)
    used = time.process_time() - began
    weights = hashlib.sha256(weights_bytes(state.student)).hexdigest()
    return {"cpu_seconds": used, "weights": weights, "run": state.asked.run, "read": state.asked.read}


def protocol(study: str, folder: str) -> list[Row]:
    """Steps that distilled trials made and that their teacher was run for, by stage and in all, of a real launch.

    ``times_student``: what such a trial costs beside a student's, where a step of the teacher costs ``COUNTED`` of it.
    """
    spec = load_study(study)
    model = {"name": "pspnet", "backbone": "resnet18", "width": 0.0625}
    given = {"teacher.model": model, "teacher.checkpoint": _written(folder, model)}
    spec = spec.model_copy(update={"needs_gpu": False})
    options = Options(settings={**TINY, **given})
    with own_cache(folder):
        where = launch(spec, storage=f"{folder}/storage", options=options, reporter=Lines())
    rows = [record["row"] for record in where.records().values()]
    distilled = [row for row in rows if row["teacher_steps_run"] is not None]
    stages = [stage.name for stage in spec.stages if any(row["stage"] == stage.name for row in distilled)]
    parts = [(name, [row for row in distilled if row["stage"] == name]) for name in stages]
    return [_counted(name, part) for name, part in (*parts, ("all", distilled))]


def _counted(name: str, rows: list[Row]) -> Row:
    made, ran = (sum(row[column] for row in rows) for column in ("step", "teacher_steps_run"))
    return {
        "stage": name,
        "trials": len(rows),
        "seeds": len({row["seed"] for row in rows}),
        "steps": made,
        "teacher_steps_run": ran,
        "teacher_steps_read": sum(row["teacher_steps_read"] for row in rows),
        "times_student": 1 + COUNTED * ran / made,
    }
