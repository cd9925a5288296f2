"""One trial: builds the parts, seeds each, hands them to the loop. Knows neither Ray nor tables."""

import functools
import gc
import logging
import os
import platform
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from kdtune.base import IGNORE, Loss, Model, SegmentationDataset, SegNet, Split, UserError, compute_device
from kdtune.filesystem.folder import absolute
from kdtune.loading.content import content_key
from kdtune.loading.images import Images
from kdtune.loading.pack import PackMode, dataset_root, open_images
from kdtune.study.spec import Teacher, TrialConfig
from kdtune.training.energy import Spent, unmeasured
from kdtune.training.loop import Evaluation, Run, fit
from kdtune.training.weights import load_weights, read_weights

Part = tuple[str, Split]  # a split of a dataset, the latter by its config's JSON


def part(dataset: SegmentationDataset, split: Split) -> Part:
    """How a split of a dataset is named where places do not matter."""
    return dataset.model_dump_json(), split


@dataclass(frozen=True)
class Site:
    """Where a trial runs: what a configuration must not hold, because it differs from machine to machine."""

    data_root: str | None = None  # parent of the datasets' folders
    files: Mapping[str, str] = field(default_factory=dict)  # checkpoint reference -> file or URI
    pack: PackMode = "always"
    own_root: bool = False  # whether a node's own KDTUNE_DATA_ROOT comes before ``data_root``
    keys: Mapping[Part, str] = field(default_factory=dict)  # content that a split must have, where one is named

    @property
    def root(self) -> str | None:
        """The parent of the datasets' folders on this node."""
        own = os.environ.get("KDTUNE_DATA_ROOT") if self.own_root else None
        return absolute(own) if own else self.data_root

    def locate(self, reference: str) -> str:
        """The file of a checkpoint reference; a reference that is a path stands for itself."""
        return self.files.get(reference, reference)


# What runs a configuration to its end, from a saved state if there is one: ``run`` but where only the way is measured.
Trainer = Callable[[TrialConfig, Site, Mapping[str, Any] | None, Spent], Iterator[tuple[Evaluation, Run]]]


def run(
    config: TrialConfig, site: Site, saved: Mapping[str, Any] | None = None, spent: Spent = unmeasured
) -> Iterator[tuple[Evaluation, Run]]:
    """Trains one configuration from the start, or from a saved state, to its end; yields at every evaluation.

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
        load_weights(student, read_weights(source), source, config.warm_start.part)
    teacher = None
    if config.uses_teacher and config.teacher is not None:
        source = site.locate(config.teacher.checkpoint)
        teacher = frozen_teacher(config.teacher, source, config.dataset.num_classes, device)
    losses = _losses(config, student, teacher, device)
    state = Run(student, losses, config.recipe)
    if saved is not None:
        state.load_state_dict(saved)
    for evaluation in fit(config, state, teacher, train, val, device, spent):
        yield evaluation, state


@functools.lru_cache(maxsize=8)  # a look at every source file, else, for every trial
def _open_once(dataset: SegmentationDataset, split: Split, data_root: str | None, pack: PackMode) -> Images:
    return open_images(dataset, split, data_root, pack, note=logging.getLogger("kdtune").warning)


def load_split(config: TrialConfig, split: Split, site: Site) -> Images:
    """The images of a split, packed on this node if they are to be and are not; opened once per process.

    Raises:
        UserError: missing or unreadable data, none at all, or other data than the rest of the study has.
    """
    expected = site.keys.get(part(config.dataset, split))
    try:
        images = _open_once(config.dataset, split, site.root, site.pack)
    except UserError as error:
        if expected is None:
            raise
        raise UserError(f"node {platform.node()}: {error}") from error  # one that joined after the others were asked
    if len(images) == 0:
        name = "training" if split == "train" else "validation"
        raise UserError(f"dataset '{config.dataset.name}' has no {name} images")
    if expected is not None and _key_once(config.dataset, split, site.root) != expected:
        found = _key_once(config.dataset, split, site.root)
        where = dataset_root(config.dataset, site.root) or "drawn by this version of kdtune"
        raise UserError(
            f"node {platform.node()}: dataset '{config.dataset.name}', {split} ({where}) has the content key "
            f"{found[:12]}, but the other trials of this study have {expected[:12]}: copy the same data to this node"
        )
    return images


@functools.lru_cache(maxsize=8)
def _key_once(dataset: SegmentationDataset, split: Split, data_root: str | None) -> str:
    return content_key(dataset, split, dataset_root(dataset, data_root))


def load_splits(config: TrialConfig, site: Site) -> tuple[Images, Images]:
    """Training and validation images, see ``load_split``."""
    return load_split(config, "train", site), load_split(config, "val", site)


def check_labels(split: Images, num_classes: int, dataset: str) -> None:
    """Looks at every label of a split.

    Raises:
        UserError: a value that is neither a class nor ``IGNORE``; names the image.
    """
    for i, name in enumerate(split.names):
        label = split.label(i)
        wrong = label[(label >= num_classes) & (label != IGNORE)]
        if wrong.size:
            raise UserError(
                f"{dataset}: label of image '{name}' holds {wrong[0]}; allowed are 0 to {num_classes - 1} and {IGNORE}"
            )


@functools.lru_cache(maxsize=2)  # a process runs many trials with one teacher
def frozen_teacher(teacher: Teacher, source: str, num_classes: int, device: torch.device) -> SegNet:
    """The teacher with its weights, in eval mode, without gradients; loaded once per process.

    Raises:
        UserError: no such file, or weights of another architecture.
    """
    network = teacher.model.model_copy(update={"init": "random"}).build(num_classes)
    load_weights(network, read_weights(source), source)
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
