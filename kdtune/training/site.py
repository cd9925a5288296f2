"""Where a trial runs: the folders and files of a node, and the images that lie there."""

import functools
import logging
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from kdtune import signs
from kdtune.base import IGNORE, LossTerm, SegmentationDataset, Split, UserError
from kdtune.filesystem.folder import absolute
from kdtune.loading.content import content_key
from kdtune.loading.holdout import Some, held_out
from kdtune.loading.images import Images
from kdtune.loading.pack import PackMode, dataset_root, open_images
from kdtune.study.holdout import Holdout
from kdtune.study.trial_config import TrialConfig

NAMES: dict[Split, str] = {"train": "training", "val": "validation"}

Part = tuple[str, Split]  # a split of a dataset, the latter by its settings


def part(dataset: SegmentationDataset, split: Split) -> Part:
    """How a split of a dataset is named where places do not matter."""
    return dataset.settings, split


@dataclass(frozen=True)
class TeacherStore:
    """That what teachers make of crops is kept on each node."""

    limit: float | None = None  # bytes; none: as many as it leaves free
    terms: Sequence[LossTerm] = ()  # of the study, whose digests are worth keeping


@dataclass(frozen=True)
class Site:
    """Where a trial runs: what a configuration must not hold, because it differs from machine to machine."""

    data_root: str | None = None  # parent of the datasets' folders
    files: Mapping[str, str] = field(default_factory=dict)  # checkpoint reference -> file or URI
    pack: PackMode = "always"
    own_root: bool = False  # whether a node's own KDTUNE_DATA_ROOT comes before ``data_root``
    keys: Mapping[Part, str] = field(default_factory=dict)  # content that a split must have, where one is named
    store: TeacherStore | None = None  # none: the teacher runs at each step
    rungs: Sequence[int] = ()  # steps after which a trial is evaluated beside those of its recipe

    @property
    def root(self) -> str | None:
        """The parent of the datasets' folders on this node."""
        own = os.environ.get("KDTUNE_DATA_ROOT") if self.own_root else None
        return absolute(own) if own else self.data_root

    def split_key(self, dataset: SegmentationDataset, split: Split) -> str:
        """The content key of a split on this node.

        Raises:
            UserError: it cannot be read.
        """
        return self.keys.get(part(dataset, split)) or _key_once(dataset, split, self.root)

    def locate(self, reference: str) -> str:
        """The file of a checkpoint reference; a reference that is a path stands for itself."""
        return self.files.get(reference, reference)


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
        raise UserError(f"dataset '{config.dataset.name}' has no {NAMES[split]} images")
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
    """The images that a trial trains on, and those that it is evaluated on, see ``load_split``.

    Raises:
        UserError: too few training images to hold some of them out.
    """
    train, choice = load_split(config, "train", site), config.select_on
    if not isinstance(choice, Holdout):
        return train, load_split(config, "val", site)
    dataset = config.dataset
    mask = held_out(train.names, [dataset.sequence(name) for name in train.names], choice.holdout, choice.seed)
    if not mask.any():
        raise UserError(
            f"select_on: dataset '{dataset.name}' has {len(train)} training images in one sequence, of which none can "
            "be held out; give select_on: val"
        )
    rest, held = (Some(train, np.flatnonzero(chosen)) for chosen in (~mask, mask))
    return rest, held if config.evaluated_on == "holdout" else load_split(config, "val", site)


def check_labels(images: Images, dataset: SegmentationDataset, split: Split) -> None:
    """Looks at every label of a split.

    Raises:
        UserError: a value that is neither a class nor ``IGNORE``, which names the image; or no pixel has a class.
    """
    labelled = False
    num_classes = dataset.num_classes
    for i, name in enumerate(images.names):
        signs.alive()
        label = images.label(i)
        labelled = labelled or bool((label != IGNORE).any())
        wrong = label[(label >= num_classes) & (label != IGNORE)]
        if wrong.size:
            raise UserError(
                f"{dataset.name}: label of image '{name}' holds {wrong[0]}; allowed are 0 to {num_classes - 1} and "
                f"{IGNORE}"
            )
    if not labelled:
        raise UserError(
            f"dataset '{dataset.name}': all labels of its {len(images)} {NAMES[split]} images are void, so nothing "
            "can be learnt from or measured on them; check which values the label files hold"
        )
