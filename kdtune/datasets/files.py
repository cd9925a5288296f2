"""Datasets that lie in folders: pairing images with labels, reading both, and what to say when that fails."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from kdtune.base import IGNORE, Sample, SegmentationDataset, Split, UserError

Size = tuple[int, int]  # H, W [pixels]
IMAGES = (".jpg", ".jpeg", ".png")
FORBIDDEN = -1  # in a table of labels: this value may not occur
PHOTOGRAPHS = ("RGB", "L")  # Pillow's modes; ADE20K has a few grey ones
LABELS = ("L", "P", "1")
PNG = b"\x89PNG\r\n\x1a\n"


class BadFile(UserError):
    """A fault of one file. Its arguments are its own, so that it survives pickling."""

    def __init__(self, path: Path, message: str) -> None:
        super().__init__(path, message)
        self.path = path
        self.message = message

    def __str__(self) -> str:
        return f"{self.path}: {self.message}"


@dataclass(frozen=True)
class Archive:
    """A file on the net that unpacks to a whole dataset."""

    url: str
    folder: str  # what it holds, and nothing else
    checksum: Callable[[], tuple[str, str]]  # name of the hash as in hashlib, hexadecimal digest
    terms: str  # under which the data may be used, one line

    @property
    def name(self) -> str:
        """The file's own name."""
        return self.url.rsplit("/", 1)[-1]


@dataclass
class Found:
    """A split as it lies on the disk: its samples, and all that is wrong with it."""

    samples: list[Sample] = field(default_factory=list)
    faults: list[BadFile] = field(default_factory=list)


class FolderDataset(SegmentationDataset):
    """A dataset whose samples are an image file and a label file each."""

    archive: ClassVar[Archive | None] = None  # None: cannot be fetched, see ``obtain``
    published: ClassVar[Mapping[Split, int]]

    @property
    def published_counts(self) -> Mapping[Split, int]:
        """How many images each split has where it was published."""
        return self.published

    def find(self, split: Split, root: Path | None) -> Found:
        """Everything that belongs to a split, faults included.

        Raises:
            UserError: there is no such split at all; says where the data comes from.
        """
        raise TypeError(f"{type(self).__name__} has no find")

    def samples(self, split: Split, root: Path | None) -> list[Sample]:
        """Sorted by name; raises the first fault, see ``SegmentationDataset.samples``."""
        found = self.find(split, root)
        if found.faults:
            raise found.faults[0]
        return found.samples


def table(classes: Mapping[int, int]) -> NDArray[np.int16]:
    """A table (256,) from the values in label files to classes; values not named are forbidden."""
    values = np.full(256, FORBIDDEN, np.int16)
    for value, label in classes.items():
        values[value] = label
    return values


def folder(dataset: SegmentationDataset, root: Path | None, choices: Sequence[str]) -> Path:
    """The first of ``choices`` (paths relative to ``root``) that is a folder.

    Raises:
        UserError: there is none; says where the data comes from.
    """
    advice = (
        f"{dataset.obtain} into {dataset.name}/ of the folder that --data-root (or KDTUNE_DATA_ROOT) names; "
        "the dataset 'demo' needs no files"
    )
    if root is None:
        raise UserError(f"{dataset.name}: no data folder given: {advice}")
    for choice in choices:
        if (root / choice).is_dir():
            return root / choice
    raise UserError(f"{dataset.name}: no folder {root / choices[0]}: {advice}")


def listing(where: Path, suffixes: Sequence[str], found: Found) -> list[Path]:
    """The files of a folder with these suffixes, sorted; that there are none is a fault."""
    if not where.is_dir():
        found.faults.append(BadFile(where, "no such folder: unpack the dataset's archives again"))
        return []
    files = [path for path in _visible(where) if path.suffix.lower() in suffixes]
    if not files:
        wanted = ", ".join("*" + suffix for suffix in suffixes)
        found.faults.append(BadFile(where, f"no {wanted} in this folder: unpack the dataset's archives again"))
    return files


def labels_in(where: Path, ending: str = ".png") -> list[Path]:
    """The label files of a folder, sorted; none if it is not there, for then each image lacks its own."""
    return [path for path in _visible(where) if path.name.endswith(ending)] if where.is_dir() else []


def _visible(where: Path) -> list[Path]:
    """What is in a folder, sorted, without the hidden files (``._x.png``) that archives of macOS leave."""
    return sorted(Path(entry.path) for entry in os.scandir(where) if not entry.name.startswith("."))


def pair(
    images: Sequence[Path], label_of: Callable[[Path], Path], labels: Sequence[Path], found: Found, suffix: str = ""
) -> Found:
    """Adds a sample per image with its label, and a fault per image or label without the other.

    Args:
        images: those of the split.
        label_of: where the label of an image should be.
        labels: those that are there, all of which must have an image; none where a list says what belongs.
        found: what is added to.
        suffix: of the images' names, not part of the samples'.
    """
    present: dict[Path, set[str]] = {}  # one listing per folder: far fewer round trips than a stat per file

    def exists(path: Path) -> bool:
        if path.parent not in present:
            present[path.parent] = set(os.listdir(path.parent)) if path.parent.is_dir() else set()
        return path.name in present[path.parent]

    named: dict[str, Path] = {}
    expected = set()
    for image in images:
        label, name = label_of(image), image.stem.removesuffix(suffix)
        expected.add(label)
        if name in named:
            found.faults.append(BadFile(image, f"has the same name as {named[name]}: remove one of them"))
        elif not exists(image):
            fault = f"is listed (its label: {label}), but there is no such image: unpack the dataset's archives again"
            found.faults.append(BadFile(image, fault))
        elif not exists(label):
            found.faults.append(BadFile(image, f"has no label {label}: add the label or remove the image"))
        else:
            found.samples.append(Sample(name, (image, label)))
        named.setdefault(name, image)
    lonely = [label for label in labels if label not in expected]
    found.faults += [BadFile(label, "is a label without an image: add its image or remove it") for label in lonely]
    return found


def read_pair(
    sample: Sample, values: NDArray[np.int16], allowed: str, size: Size | None = None
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Image (H, W, 3) uint8 RGB and label (H, W) uint8 of a sample.

    Args:
        sample: its files are image and label.
        values: from the values in label files to classes, see ``table``.
        allowed: the allowed values in words, for the error.
        size: resize to this: the image bilinear with averaging when it shrinks, the label by nearest pixel.

    Raises:
        UserError: an unreadable file, image and label of different sizes, a forbidden label value.
    """
    image_path, label_path = sample.files
    image, label = _load(image_path), _load(label_path, grey=8)
    if image.mode not in PHOTOGRAPHS:
        kind = "a palette image (mode P)" if image.mode == "P" else f"of mode {image.mode}"
        raise BadFile(image_path, f"is {kind}, but photographs are RGB or grey with 8 bits: convert it to RGB")
    if label.mode not in LABELS:
        advice = "convert coloured labels to class indices first"
        raise BadFile(label_path, f"pixels are {label.mode}, but labels are 8-bit indices (modes L or P): {advice}")
    if image.size != label.size:
        sizes = " but its label is ".join("x".join(map(str, each.size)) for each in (image, label))
        raise BadFile(image_path, f"is {sizes} pixels: {label_path} belongs to another image, copy both again")
    raw = np.asarray(label, np.uint8)  # (H, W)
    _check(raw, values, allowed, label_path)  # before resizing, which may drop the offending pixel
    image = image.convert("RGB")
    if size is not None and image.size != (size[1], size[0]):
        image = image.resize((size[1], size[0]), Image.Resampling.BILINEAR)
        raw = np.asarray(Image.fromarray(raw).resize((size[1], size[0]), Image.Resampling.NEAREST))
    return np.array(image, np.uint8), values.astype(np.uint8)[raw]


def _load(path: Path, grey: int = 1) -> Image.Image:
    """A decoded file; a PNG in grey with fewer than ``grey`` bits is refused, and so is one with 16."""
    try:
        with path.open("rb") as file:
            head = file.read(26)
            file.seek(0)
            with Image.open(file) as image:
                image.load()
    except FileNotFoundError:
        raise BadFile(path, "no such file any more: unpack the dataset's archives again") from None
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise BadFile(path, f"cannot be read ({reason}): the file is damaged, copy it again") from None
    if head.startswith(PNG):
        bits, colour = head[24], head[25]
        if bits > 8:  # Pillow would drop the lower eight without a word
            raise BadFile(path, f"has {bits} bits per channel, but only 8 are read: convert it to 8 bits")
        if colour == 0 and 1 < bits < grey:  # Pillow would stretch its values to 0..255
            raise BadFile(path, f"is grey with {bits} bits, but labels have 8: convert it to 8 bits")
    if image.mode.startswith(("I", "F")):
        raise BadFile(path, f"has more than 8 bits per channel (mode {image.mode}): convert it to 8 bits")
    return image


def _check(raw: NDArray[np.uint8], values: NDArray[np.int16], allowed: str, path: Path) -> None:
    present = np.flatnonzero(np.bincount(raw.ravel(), minlength=256))
    bad = present[values[present] == FORBIDDEN]
    if bad.size:
        pixels = int(np.count_nonzero(raw == bad[0]))
        advice = "take the label of the original dataset, or convert its values"
        raise BadFile(path, f"label value {bad[0]} at {pixels} pixel(s), but allowed are {allowed}: {advice}")


def void(*ids: int) -> dict[int, int]:
    """A part of a table: these values are void."""
    return dict.fromkeys(ids, IGNORE)
