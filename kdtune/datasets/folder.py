"""Any folder of images and masks, as a study or a file that ``kdtune data init`` wrote describes it."""

import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BeforeValidator, Field, PositiveInt, field_validator, model_validator

from kdtune.base import IGNORE, Config, Sample, Seed, Split
from kdtune.datasets import files, pairing
from kdtune.datasets.colours import Colour, enough
from kdtune.datasets.decode import read_coloured, read_pair
from kdtune.datasets.pairing import Named
from kdtune.datasets.patterns import Below, Pattern, found_below, leads_out, may_meet

Byte = Annotated[int, Field(ge=0, le=255)]
RGB = tuple[Byte, Byte, Byte]


def _lists(value: Any) -> Any:
    """Each entry as a list: one may stand for a list of one."""
    return [each if isinstance(each, list | tuple) else [each] for each in value] if isinstance(value, list) else value


def _colour_lists(value: Any) -> Any:
    """Each entry as a list of colours."""
    whole = isinstance(value, list | tuple)
    return [[each] if _is_colour(each) else each for each in value] if whole else value


def _is_colour(value: Any) -> bool:
    return isinstance(value, list | tuple) and len(value) == 3 and all(isinstance(each, int) for each in value)


def _of_both(value: Any) -> Any:
    """One pattern is that of both splits."""
    return {"train": value, "val": value} if isinstance(value, str) else value


class OfSplits(Config):
    """A pattern for each split."""

    train: Pattern
    val: Pattern


class SplitBy(Config):
    """How images are told apart that one pattern finds: a list of names for each split, or a share drawn by a seed."""

    train: Below | None = None  # files of names
    val: Below | None = None
    share: Annotated[float, Field(gt=0, lt=1)] | None = None  # of the images, for validation
    seed: Seed = 0

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if (self.share is None) == (self.train is None) or (self.train is None) != (self.val is None):
            raise ValueError("needs either train and val, two files of names, or share, of the images for validation")
        return self


class AnyFolder(files.FolderDataset):
    """Images and masks that are found by patterns below ``root``, one mask for each image.

    A mask is a PNG that belongs to the image of the same name, but for what ``image_ending`` and ``mask_ending`` say.
    Where names repeat in several folders, the folders that the patterns' signs stand for must be the same, too.
    """

    published: ClassVar[Mapping[Split, int]] = {}
    obtain: ClassVar[str] = "correct `root` in the study, or in the file that it names as its dataset"

    name: Literal["folder"]
    root: str  # absolute, or below --data-root; no part of what the dataset is
    images: Annotated[OfSplits, BeforeValidator(_of_both)]
    masks: Annotated[OfSplits, BeforeValidator(_of_both)]
    split: SplitBy | None = None
    image_ending: str = ""  # what an image's name has behind that of the pair, before the suffix
    mask_ending: str = ""
    classes: Annotated[tuple[str, ...], Field(min_length=2, max_length=255)]
    # what masks of colours hold, one or several of each class, and in which the classes are shown
    colours: Annotated[tuple[tuple[RGB, ...], ...] | None, BeforeValidator(_colour_lists)] = None
    masks_are: Literal["indices", "colours"] = "indices"
    ids: Annotated[tuple[tuple[Byte, ...], ...] | None, BeforeValidator(_lists)] = None  # of each class; null: 0, 1 ...
    ignore: tuple[Byte | RGB, ...] | None = None  # values, or colours, without a class; null: 255, or no colour
    ignore_rest: bool = False  # all others have no class, too
    reduce_zero_label: bool = False  # 0 has no class, 1 is the first
    follow_links: bool = False  # out of the root
    size: tuple[PositiveInt, PositiveInt] | None = None  # H, W [pixels]: resized on reading; null: as it is

    @field_validator("root")
    @classmethod
    def _stays_below(cls, root: str) -> str:
        if not root or "\0" in root or (not Path(root).is_absolute() and ".." in Path(root).parts):
            raise ValueError(f"must be an absolute path, or one below --data-root, got {root!r}")
        return root

    @field_validator("classes")
    @classmethod
    def _each_once(cls, classes: tuple[str, ...]) -> tuple[str, ...]:
        twice = next((name for name in classes if classes.count(name) > 1 or not name.strip()), None)
        if twice is not None:
            raise ValueError(f"names must differ and be no blanks, got {twice!r}")
        return classes

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if (self.images.train == self.images.val) != (self.split is not None):
            raise ValueError("needs images of each split (images: {train: ..., val: ...}), or split, and not both")
        for key, given in (("colours", self.colours), ("ids", self.ids)):
            if given is not None and (len(given) != len(self.classes) or not all(given)):
                raise ValueError(f"{key}: needs an entry for each of the {len(self.classes)} classes, got {len(given)}")
        if self.masks_are == "colours" and self.colours is None:
            raise ValueError("masks_are: colours needs colours, those of each class")
        if self.masks_are == "colours" and (self.ids is not None or self.reduce_zero_label):
            raise ValueError("ids and reduce_zero_label are of masks_are: indices")
        if self.ids is not None and self.reduce_zero_label:
            raise ValueError("ids and reduce_zero_label exclude each other")
        wrong = [value for value in self._ignored if isinstance(value, int) == (self.masks_are == "colours")]
        if wrong:
            raise ValueError(f"ignore: masks of {self.masks_are} hold no {wrong[0]!r}")
        self._check_apart()
        return self

    def _check_apart(self) -> None:
        """No value of a mask stands for two classes, or for a class and none."""
        seen: dict[Any, str] = {value: "ignore" for value in self._ignored}
        for name, values in zip(self.classes, self._meant, strict=True):
            for value in values:
                if seen.setdefault(value, name) != name:
                    raise ValueError(f"{value!r} of a mask stands for '{seen[value]}' and for '{name}'")

    @property
    def _ignored(self) -> tuple[Any, ...]:
        """What has no class."""
        if self.ignore is not None:
            return self.ignore
        return (IGNORE,) if self.masks_are == "indices" else ()

    @property
    def _meant(self) -> Sequence[Sequence[Any]]:
        """The values, or colours, of each class."""
        if self.masks_are == "colours":
            return self.colours or ()
        return self.ids or [[i + self.reduce_zero_label] for i in range(len(self.classes))]

    @property
    def class_names(self) -> Sequence[str]:  # type: ignore[override]
        """See ``SegmentationDataset``."""
        return self.classes

    @property
    def palette(self) -> Sequence[Colour]:  # type: ignore[override]
        """The first colour of each class, or such as are easily told apart."""
        return enough([each[0] for each in self.colours or ()], len(self.classes))

    @property
    def folder(self) -> str:
        """Its root."""
        return self.root

    def find(self, split: Split, root: Path | None) -> files.Found:
        """See ``FolderDataset.find``."""
        base, found = files.folder(self, root, ["."]), files.Found()
        masks = self._masks(split, base, found)
        images = self._images(split, base, masks, found)
        fits = pairing.masks_of(images, masks, (self.image_ending, self.mask_ending), found)
        others = self._others(split, base, masks)
        if self.split is None or self.split.share is not None:
            found.faults += pairing.lonely(masks, images, others, fits)
        if self.split is None and self.masks.train == self.masks.val:
            found.faults += pairing.taken_twice(fits, pairing.masks_of(others, masks, ("", ""), files.Found()))
        chosen = self._chosen(split, base, images, found)
        found.faults += pairing.in_both(base, chosen, others or self._listed_for_other(split, base, images))
        short = pairing.differ(images)
        named = {each.name if short else each.below: each.path for each in chosen if each.path in fits}
        found.samples += [Sample(name, (path, fits[path])) for name, path in sorted(named.items())]
        if not found.samples and not found.faults:
            how = "correct `split`" if self.split is not None else "correct the pattern"
            found.faults.append(files.BadFile(base, f"no images for {split}, of {len(images)} that are there: {how}"))
        return found

    def _masks(self, split: Split, base: Path, found: files.Found) -> list[Named]:
        pattern = getattr(self.masks, split)
        paths = found_below(base, pattern, (".png",), self.follow_links, found)
        return pairing.named(pairing.ending_in(paths, self.mask_ending), base, pattern, self.mask_ending, found)

    def _images(self, split: Split, base: Path, masks: Sequence[Named], found: files.Found) -> list[Named]:
        pattern, beside = getattr(self.images, split), {each.path for each in masks}  # in one folder with the images
        paths = found_below(base, pattern, files.IMAGES, self.follow_links, found)
        images = [path for path in pairing.ending_in(paths, self.image_ending) if path not in beside]
        return pairing.named(images, base, pattern, self.image_ending, found)

    def _others(self, split: Split, base: Path, masks: Sequence[Named]) -> list[Named]:
        """The images of the other split, where they could be the same or have the same masks: else nobody looks."""
        shared = self.masks.train == self.masks.val
        if self.split is not None or not (shared or may_meet(self.images.train, self.images.val)):
            return []
        other: Split = "val" if split == "train" else "train"
        unheard = files.Found()  # its faults are told with its split
        return self._images(other, base, masks if shared else self._masks(other, base, unheard), unheard)

    def _listed_for_other(self, split: Split, base: Path, images: Sequence[Named]) -> list[Named]:
        """The images of the other split, where lists tell the splits apart."""
        if self.split is None or self.split.share is not None:
            return []
        try:
            return self._chosen("val" if split == "train" else "train", base, images, files.Found())
        except files.BadFile:
            return []  # that list cannot be read, which is told with its split

    def _chosen(self, split: Split, base: Path, images: Sequence[Named], found: files.Found) -> list[Named]:
        """Those of the images that belong to a split."""
        if self.split is None:
            return list(images)
        if self.split.share is not None:
            short = pairing.differ(images)
            images = sorted(images, key=lambda each: each.name if short else each.below)
            count = min(len(images), max(1, round(self.split.share * len(images))))
            drawn = set(random.Random(f"{self.split.seed}").sample(range(len(images)), count))
            return [each for i, each in enumerate(images) if (i in drawn) == (split == "val")]
        listed = base / str(getattr(self.split, split))
        if not self.follow_links and (leads := leads_out(listed, base)):
            raise files.BadFile(listed, f"is a link to {leads}, outside of the dataset's root: copy the file")
        return pairing.chosen_of(listed, files.lines_of(listed, "correct split"), images, self.image_ending, found)

    def read(self, split: Split, sample: Sample) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Image (H, W, 3) and label (H, W), uint8; raises as ``SegmentationDataset.read``."""
        rest = IGNORE if self.ignore_rest else None
        meant = {value: number for number, values in enumerate(self._meant) for value in values}
        meant |= dict.fromkeys(self._ignored, IGNORE)
        if self.masks_are == "colours":
            return read_coloured(sample, meant, rest, self.size)
        values = files.table(dict.fromkeys(range(256), IGNORE) | meant if self.ignore_rest else meant)
        return read_pair(sample, values, self._allowed, self.palette, self.size)

    @property
    def _allowed(self) -> str:
        """The values of masks in words."""
        meant = sorted(value for values in self._meant for value in values)
        whole = f"{meant[0]} to {meant[-1]}" if len(meant) == meant[-1] - meant[0] + 1 else ", ".join(map(str, meant))
        ignored = f", and {', '.join(map(str, self._ignored))} for no class" if self._ignored else ""
        return f"{whole}{ignored}"
