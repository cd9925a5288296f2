"""One trial: builds the parts, seeds each, hands them to the loop. Knows neither Ray nor tables."""

import functools
import gc
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from kdtune.base import Loss, Model, SegNet, compute_device
from kdtune.loading.images import Images
from kdtune.study.trial_config import Teacher, TrialConfig
from kdtune.training.energy import Spent, unmeasured
from kdtune.training.loop import Evaluation, Run, fit
from kdtune.training.site import Site, load_splits
from kdtune.training.sizes import check_crop, check_validation
from kdtune.training.weights import load_weights, trusted_weights

# What runs a configuration to its end, from a saved state if there is one: ``run`` but where only the way is measured.
Trainer = Callable[[TrialConfig, Site, Mapping[str, Any] | None, Spent], Iterator[tuple[Evaluation, Run]]]


def run(
    config: TrialConfig, site: Site, saved: Mapping[str, Any] | None = None, spent: Spent = unmeasured
) -> Iterator[tuple[Evaluation, Run]]:
    """Trains one configuration from the start, or from a saved state, to its end; yields at every evaluation.

    Raises:
        UserError: data or weights are missing or do not fit.
    """
    parts = prepared(config, site, saved)
    for evaluation in fit(config, parts.state, parts.teacher, parts.train, parts.val, parts.device, spent):
        yield evaluation, parts.state


@dataclass(frozen=True)
class Parts:
    """What the loop is given."""

    state: Run
    teacher: SegNet | None
    train: Images
    val: Images
    device: torch.device


def prepared(config: TrialConfig, site: Site, saved: Mapping[str, Any] | None = None) -> Parts:
    """Networks, terms and data of a trial, each from its own seed or from the saved state.

    Raises:
        UserError: data or weights are missing or do not fit.
    """
    device = compute_device()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    train, val = load_splits(config, site)
    torch.manual_seed(config.seed)
    student = config.student.build(config.dataset.num_classes).to(device)
    if config.recipe.compile:
        student = _into_shell(student, config.student, device)
    if config.warm_start is not None and saved is None:
        source = site.locate(config.warm_start.checkpoint)
        load_weights(student, trusted_weights(config.warm_start.checkpoint, source), source, config.warm_start.part)
    teacher = None
    if config.uses_teacher and config.teacher is not None:
        source = site.locate(config.teacher.checkpoint)
        teacher = frozen_teacher(config.teacher, source, config.dataset.num_classes, device)
    if saved is None:
        check_crop(student, f"student {config.student.label}", config.recipe, device)
        check_validation(student, f"student {config.student.label}", val.sizes, config.recipe, device)
        if teacher is not None and config.teacher is not None:
            check_crop(teacher, f"teacher {config.teacher.model.label}", config.recipe, device)
    losses = _losses(config, student, teacher, device)
    state = Run(student, losses, config.recipe)
    if saved is not None:
        state.load_state_dict(saved)
    return Parts(state, teacher, train, val, device)


@functools.lru_cache(maxsize=2)  # a process runs many trials with one teacher
def frozen_teacher(teacher: Teacher, source: str, num_classes: int, device: torch.device) -> SegNet:
    """The teacher with its weights, in eval mode, without gradients; loaded once per process.

    Raises:
        UserError: no such file, or weights of another architecture.
    """
    network = teacher.model.model_copy(update={"init": "random"}).build(num_classes)
    load_weights(network, trusted_weights(teacher.checkpoint, source), source)
    network.to(device).eval().requires_grad_(False)
    gc.collect()  # the file's copy of the weights
    return network


@functools.lru_cache(maxsize=2)
def _shell(model: Model, num_classes: int, device: torch.device) -> SegNet:
    return model.model_copy(update={"init": "random"}).build(num_classes).to(device)


def _into_shell(student: SegNet, model: Model, device: torch.device) -> SegNet:
    """A process's one network of this kind, with the weights of a new one: what was compiled for it stays compiled."""
    shell = _shell(model, student.num_classes, device)
    shell.load_state_dict(student.state_dict())
    shell.zero_grad(set_to_none=True)
    return shell


def _losses(config: TrialConfig, student: SegNet, teacher: SegNet | None, device: torch.device) -> dict[str, Loss]:
    """Each term from its own seed: a cached teacher or another term must not shift what it draws."""
    built = {}
    for name, term in config.active_losses.items():
        torch.manual_seed(config.seed)
        built[name] = term.build(student, teacher).to(device)
    return built
