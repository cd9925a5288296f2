"""``kdtune bench train``: step time and memory of each stage's first configuration."""

import multiprocessing
import tempfile
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import torch

from kdtune.base import RunError
from kdtune.bench.figures import told
from kdtune.devices import compute_device
from kdtune.loading.pack import data_folder
from kdtune.records.rows import Row
from kdtune.search.options import Options, adjusted
from kdtune.study.file import load_study
from kdtune.study.trial_config import TrialConfig, Value
from kdtune.training import step_times
from kdtune.training.energy_meter import metered_here
from kdtune.training.site import Site
from kdtune.training.trial import run
from kdtune.training.weights import weights_bytes


def training(
    study: str,
    data_root: str | None,
    settings: Mapping[str, Value],
    steps: int,
    output: str | None,
    teacher: str | None = None,
) -> str:
    """Step time and memory of each stage's first configuration, run as a trial is; all weights are random here."""
    spec = adjusted(load_study(study), Options(settings=settings, teacher=teacher))
    seen: dict[str, step_times.Step] = {}
    measured = []
    for name, config in spec.templates().items():
        short = config.replace({"recipe.num_steps": steps, "recipe.eval_every": steps // 2, "seed": 0})
        if short.config_id not in seen:
            row = _alone(short, data_folder(data_root), spec.country_iso_code)
            measured.append({"stage": name, "method": config.method, **row})
            seen[short.config_id] = step_times.Step(row["step_ms"] / 1000, row["step_kwh"])
        step_times.keep(config, seen[short.config_id])  # for --dry-run
    return told(f"training, {study}, {steps} steps", measured, output)


def _alone(config: TrialConfig, data_root: str | None, country: str = "DEU") -> Row:
    """In a process of its own: what another configuration leaves in memory, its teacher say, is not counted."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_steps, config, data_root, country).result()


def _steps(config: TrialConfig, data_root: str | None, country: str = "DEU") -> Row:
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    with tempfile.TemporaryDirectory() as folder, metered_here(country) as spent:
        trial = run(_with_random_weights(config, folder), Site(data_root), spent=spent)
        looks = [(evaluation, state.bill.training.kwh) for evaluation, state in trial]
    (first, before), (last, after) = looks[0], looks[-1]  # the first half warms up
    if last.step == first.step:
        raise RunError(f"{config.method}: {last.error or 'ended'} before its second evaluation: no step can be timed")
    seconds = (last.seconds - first.seconds) / (last.step - first.step)
    gpu = compute_device().type == "cuda"
    return {
        "batch": config.recipe.batch_size,
        "crop": "x".join(map(str, config.recipe.crop)),
        "step_ms": 1000 * seconds,
        "step_kwh": (after - before) / (last.step - first.step) or None,  # too short for a reading, or none measures
        "images_per_second": config.recipe.batch_size / seconds,
        "memory_mb": (torch.cuda.max_memory_allocated() if gpu else psutil.Process().memory_info().rss) / 2**20,
        "threads": torch.get_num_threads(),
        "diverged": last.diverged,
    }


def _with_random_weights(config: TrialConfig, folder: str) -> TrialConfig:
    """The trial without files that others would have to make; its teacher's weights lie in the folder."""
    changes: dict[str, Any] = {"student.init": "random", "warm_start": None}
    if config.uses_teacher and config.teacher is not None:
        file = Path(folder) / "teacher.safetensors"
        model = config.teacher.model.model_copy(update={"init": "random"})
        file.write_bytes(weights_bytes(model.build(config.dataset.num_classes)))
        changes["teacher.checkpoint"] = str(file)
    return config.replace(changes)
