"""Any folder of images and masks, as a study or a file that ``kdtune data init`` wrote describes it."""

import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BeforeValidator, Field, PositiveInt, field_validator, model_validator

from kdtune.base import IGNORE, Config, Sample, Seed, Split
from kdtune.datasets import files
from kdtune.datasets.colours import Colour, enough
from kdtune.datasets.decode import read_coloured, read_pair
from kdtune.datasets.patterns import Below, Pattern, fixed_part, found_below, leads_out

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
    Where names repeat in several folders, the folders below the pattern's fixed part must be the same, too.
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
        image_pattern, mask_pattern = getattr(self.images, split), getattr(self.masks, split)
        masks = found_below(base, mask_pattern, (".png",), self.follow_links, found)
        masks = [path for path in masks if path.stem.endswith(self.mask_ending)]
        images = found_below(base, image_pattern, files.IMAGES, self.follow_links, found)
        beside = set(masks)  # in one folder with the images
        images = [path for path in images if path.stem.endswith(self.image_ending) and path not in beside]
        stems = [path.stem.removesuffix(self.image_ending) for path in images]
        alone = len(set(stems)) == len(stems)

        def key(path: Path, pattern: str, ending: str) -> str:
            stem = path.stem.removesuffix(ending)
            below = path.parent.relative_to(base / fixed_part(pattern))
            return stem if alone else (below / stem).as_posix()

        pictures = {key(path, image_pattern, self.image_ending): path for path in images}
        known = {key(path, mask_pattern, self.mask_ending): path for path in masks}
        for name, path in pictures.items():
            if name not in known:
                wanted = f"{path.stem.removesuffix(self.image_ending)}{self.mask_ending}.png"
                found.faults.append(files.BadFile(path, f"has no mask {wanted}: add the mask or remove the image"))
        if self.split is None or self.split.share is not None:
            lonely = [path for name, path in known.items() if name not in pictures]
            found.faults += [files.BadFile(each, "is a mask without an image: remove it") for each in lonely]
        chosen = self._chosen(split, base, sorted(pictures), found)
        found.samples += [Sample(name, (pictures[name], known[name])) for name in chosen if name in known]
        return found

    def _chosen(self, split: Split, base: Path, names: Sequence[str], found: files.Found) -> list[str]:
        """Those of the names that belong to a split."""
        if self.split is None:
            return list(names)
        if self.split.share is not None:
            count = min(len(names), max(1, round(self.split.share * len(names))))
            drawn = set(random.Random(f"{self.split.seed}").sample(names, count))
            return [name for name in names if (name in drawn) == (split == "val")]
        listed = base / str(getattr(self.split, split))
        if not self.follow_links and (leads := leads_out(listed, base)):
            raise files.BadFile(listed, f"is a link to {leads}, outside of the dataset's root: copy the file")
        known = {name.rsplit("/", 1)[-1]: name for name in names} | {name: name for name in names}
        chosen: dict[str, None] = {}
        for line in filter(None, map(str.strip, files.lines_of(listed, "correct split"))):
            words = (files.bare(each).removesuffix(self.image_ending) for each in (line, line.split()[0]))
            tried = [each for word in words for each in (word.lstrip("/"), word.rsplit("/", 1)[-1])]
            name = next((known[each] for each in tried if each in known), None)
            if name is None:
                found.faults.append(files.BadFile(listed, f"names '{line}', but no such image is there"))
            else:
                chosen[name] = None
        return sorted(chosen)

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
