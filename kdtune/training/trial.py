"""One trial: builds the parts, seeds each, hands them to the loop. Knows neither Ray nor tables."""

import functools
import gc
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from kdtune.base import Loss, LossTerm, Model, SegNet, Tap
from kdtune.devices import compute_device
from kdtune.loading.images import Images
from kdtune.study.recipe import Recipe
from kdtune.study.trial_config import Teacher, TrialConfig
from kdtune.training.energy import Spent, unmeasured
from kdtune.training.kept_parts import KeptParts
from kdtune.training.loop import Evaluation, Run, fit
from kdtune.training.site import Site, load_splits
from kdtune.training.sizes import cells, check_crop, check_validation
from kdtune.training.stored_teaching import LOGITS, Stored, Wanted
from kdtune.training.teacher_key import key
from kdtune.training.teacher_store import Store, store_folder
from kdtune.training.teaching import Live, Teaching
from kdtune.training.weights import load_weights, trusted_weights


def run(
    config: TrialConfig, site: Site, saved: Mapping[str, Any] | None = None, spent: Spent = unmeasured
) -> Iterator[tuple[Evaluation, Run]]:
    """Trains one configuration from the start, or from a saved state, to its end; yields at every evaluation.

    Raises:
        UserError: data or weights are missing or do not fit.
    """
    parts = prepared(config, site, saved)
    try:
        images = parts.train, parts.val, parts.device
        for evaluation in fit(config, parts.state, parts.teaching, *images, spent, site.rungs):
            yield evaluation, parts.state
    finally:
        if parts.teaching is not None:
            parts.teaching.close()


@dataclass(frozen=True)
class Parts:
    """What the loop is given."""

    state: Run
    teaching: Teaching | None
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
    if saved is None:
        check_crop(student, f"student {config.student.label}", config.recipe, device)
        check_validation(student, f"student {config.student.label}", val.sizes, config.recipe, device)
    teaching = _teaching(config, site, student, train, device)
    losses = _losses(config, student, _seen_by_terms(config, site, teaching, device), device)
    state = Run(student, losses, config.recipe)
    if saved is not None:
        state.load_state_dict(saved)
    return Parts(state, teaching, train, val, device)


def _teaching(config: TrialConfig, site: Site, student: SegNet, train: Images, device: torch.device) -> Teaching | None:
    """Who answers for the teacher: the network itself, or the node's store, where all that the terms read is there."""
    if not config.uses_teacher or config.teacher is None:
        return None
    kept = KeptParts(lambda: key(config, site, device), site.store.limit) if site.store else None
    live = Live(config, lambda: _loaded(config, site, device), device, kept)
    terms = [term for term in config.active_losses.values() if term.needs_teacher]
    if site.store is None or any(term.live_teacher or _reads_whole_maps(term) for term in terms):
        return live
    read = [term for term in terms if term.digested]
    own = {term.digest_name for term in read}
    teacher = hollow(config.teacher.model, config.dataset.num_classes)
    # what other trials of the study read, if these networks have it: theirs may be others
    others = [term for term in site.store.terms if term.digest_name not in own and _has_taps(term, student, teacher)]
    taps = frozenset[Tap]().union(*(term.taps for term in (*read, *others)))
    try:
        store = Store(key(config, site, device), site.store.limit)
    except OSError as error:
        logging.getLogger("kdtune").warning("%s: %s; the teacher runs at each step", store_folder(), error.strerror)
        return live
    wanted = Wanted(read, others, cells(student, taps, config.recipe, device) if taps else {})
    return Stored(config, live, store, train, wanted, device)


def _reads_whole_maps(term: LossTerm) -> bool:
    """Whether it needs more of the teacher than the store has: logits and digests."""
    return bool(term.teacher_taps - {LOGITS}) and not term.digested


def _has_taps(term: LossTerm, student: SegNet, teacher: SegNet) -> bool:
    return student.channels.keys() >= term.taps and teacher.channels.keys() >= term.teacher_taps


def _loaded(config: TrialConfig, site: Site, device: torch.device) -> SegNet:
    assert config.teacher is not None
    source = site.locate(config.teacher.checkpoint)
    return _checked_teacher(config.teacher, source, config.dataset.num_classes, config.recipe, device)


@functools.lru_cache(maxsize=2)
def _checked_teacher(teacher: Teacher, source: str, classes: int, recipe: Recipe, device: torch.device) -> SegNet:
    network = frozen_teacher(teacher, source, classes, device)
    check_crop(network, f"teacher {teacher.model.label}", recipe, device)
    return network


def _seen_by_terms(config: TrialConfig, site: Site, teaching: Teaching | None, device: torch.device) -> SegNet | None:
    """The teacher that terms are built for: without values where the store may have all that it would be run for."""
    if teaching is None or config.teacher is None:
        return None
    if isinstance(teaching, Live):
        return _loaded(config, site, device)
    return hollow(config.teacher.model, config.dataset.num_classes)


@functools.lru_cache(maxsize=2)
def hollow(model: Model, num_classes: int) -> SegNet:
    """A network without values: its channels and shapes."""
    plain = model.model_copy(update={"init": "random"})
    if model.name == "external":  # other packages' code may need values while it builds
        return plain.build(num_classes).to("meta")
    with torch.device("meta"):
        return plain.build(num_classes)


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
