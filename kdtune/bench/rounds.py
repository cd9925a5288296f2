"""``kdtune bench orchestration --study``: how well the stages of a study fill so many slots."""

import hashlib
import json
import math
import multiprocessing
import os
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from typing import Any

import torch

from kdtune.api import launch
from kdtune.bench.figures import told
from kdtune.bench.orchestration import no_training
from kdtune.bench.own_cache import own_cache
from kdtune.bench.teacher_store import TINY
from kdtune.records.rows import Row
from kdtune.search.options import Options
from kdtune.study import graph
from kdtune.study.file import load_study
from kdtune.study.trial_config import TrialConfig
from kdtune.training.energy import Spent
from kdtune.training.loop import Evaluation, Run
from kdtune.training.site import Site
from kdtune.training.weights import weights_bytes

EVALUATIONS = 4
WAITS = "KDTUNE_BENCH_WAITS"  # seconds of a trial; workers inherit it
NETWORK = {"name": "pspnet", "backbone": "resnet18", "width": 0.0625}


def rounds(study: str, slots: Sequence[int], seconds: float, output: str | None) -> str:
    """A study's trials, which only wait, on so many slots: logical processors of a Ray that is started here.

    ``rounds``: the time from the first trial to the last, in trials. ``bound``: what no order of the trials can do
    without: all of them on these slots, or the longest chain of stages, whichever is longer. ``idle``: the share of
    the slots' time in which no trial ran.
    """
    measured = []
    for count in slots:
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
            measured.append(process.submit(_waiting, study, count, seconds).result())
    return told(f"{study}: trials that wait {seconds:g} s each", measured, output)


def _waiting(name: str, slots: int, seconds: float) -> Row:
    os.environ |= {"RAY_OVERRIDE_RESOURCES": json.dumps({"CPU": slots}), "KDTUNE_DASHBOARD": "0", WAITS: str(seconds)}
    study = load_study(name).model_copy(update={"needs_gpu": False})
    with tempfile.TemporaryDirectory() as folder, own_cache(folder):
        settings: dict[str, Any] = {**TINY, "recipe.num_steps": EVALUATIONS, "recipe.eval_every": 1}
        if "teacher" not in {stage.name for stage in study.stages}:
            settings |= {"teacher.model": NETWORK, "teacher.checkpoint": _teacher(folder, study.base)}
        options = Options(settings=settings, scheduler="none", threads=1, max_concurrent=slots)
        where = launch(study, storage=f"{folder}/storage", options=options, trainer=waiting)
        rows = [record["row"] for record in where.records().values() if record["row"]["step"]]
    waits = graph.graph(study, study.stages)
    chain = max(each.steps for each in graph.chains(_of_one_step(waits), slots).values())
    took = max(row["finished_at"] for row in rows) - min(row["started_at"] for row in rows)
    busy = sum(row["finished_at"] - row["started_at"] for row in rows)
    return {
        "slots": slots,
        "trials": len(rows),
        "seconds": took,
        "rounds": took / seconds,
        "bound": max(chain, math.ceil(len(rows) / slots)),
        "idle": 1 - busy / (took * slots),
    }


def _of_one_step(waits: Mapping[str, graph.Waits]) -> dict[str, graph.Waits]:
    """The same, counted in trials."""
    return {name: graph.Waits(name, each.starts, each.trials, 1) for name, each in waits.items()}


def _teacher(folder: str, base: TrialConfig) -> str:
    """A file of random weights."""
    torch.manual_seed(0)
    path = f"{folder}/teacher.safetensors"
    model = base.replace({"dataset": TINY["dataset"], "student": NETWORK})
    with open(path, "wb") as file:
        file.write(weights_bytes(model.student.build(model.dataset.num_classes)))
    return path


def waiting(
    config: TrialConfig, site: Site, saved: Mapping[str, Any] | None, spent: Spent
) -> Iterator[tuple[Evaluation, Run]]:
    """In place of ``kdtune.training.trial.run``: waits, and comes to a value that hangs on the configuration alone."""
    digest = hashlib.sha256(config.model_dump_json().encode()).digest()
    for evaluation, run in no_training(config, site, saved, spent):
        time.sleep(float(os.environ[WAITS]) / config.recipe.num_steps)
        yield replace(evaluation, miou=20 + digest[0] / 10), run
