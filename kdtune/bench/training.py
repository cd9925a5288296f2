"""``kdtune bench train``: step time and memory of each stage's first configuration."""

from collections.abc import Mapping

import psutil
import torch

from kdtune.base import compute_device
from kdtune.bench.figures import told
from kdtune.loading.pack import data_folder
from kdtune.records.rows import Row
from kdtune.search.options import Options, adjusted
from kdtune.study.file import load_study
from kdtune.study.trial_config import TrialConfig, Value
from kdtune.training.loop import Run, fit
from kdtune.training.site import Site, load_splits
from kdtune.training.teaching import Live


def training(study: str, data_root: str | None, settings: Mapping[str, Value], steps: int, output: str | None) -> str:
    """Step time and memory of each stage's first configuration; teachers have random weights here."""
    spec = adjusted(load_study(study), Options(settings=settings))
    seen: dict[str, str] = {}
    measured = []
    for name, config in spec.templates().items():
        short = config.replace({"recipe.num_steps": steps, "recipe.eval_every": steps // 2, "seed": 0})
        if short.config_id not in seen:
            seen[short.config_id] = name
            measured.append({"stage": name, "method": config.method, **_steps(short, data_folder(data_root))})
    return told(f"training, {study}, {steps} steps", measured, output)


def _steps(config: TrialConfig, data_root: str | None) -> Row:
    device = compute_device()
    train, val = load_splits(config, Site(data_root))
    classes = config.dataset.num_classes
    random = {"init": "random"}
    student = config.student.model_copy(update=random).build(classes).to(device)
    teacher = None
    if config.uses_teacher and config.teacher is not None:
        teacher = config.teacher.model.model_copy(update=random).build(classes).to(device)
        teacher.eval().requires_grad_(False)
    losses = {name: term.build(student, teacher).to(device) for name, term in config.active_losses.items()}
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    teaching = None if teacher is None else Live(config, lambda: teacher, device)
    evaluations = list(fit(config, Run(student, losses, config.recipe), teaching, train, val, device))
    first, last = evaluations[0], evaluations[-1]  # the first half warms up
    seconds = (last.seconds - first.seconds) / (last.step - first.step)
    memory = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else psutil.Process().memory_info().rss
    return {
        "batch": config.recipe.batch_size,
        "crop": "x".join(map(str, config.recipe.crop)),
        "step_ms": 1000 * seconds,
        "images_per_second": config.recipe.batch_size / seconds,
        "memory_mb": memory / 2**20,
        "threads": torch.get_num_threads(),
        "diverged": last.diverged,
    }
