"""Datasets that lie in folders: pairing images with labels, and what to say when that fails."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from kdtune import signs
from kdtune.base import IGNORE, Sample, SegmentationDataset, Split, UserError

IMAGES = (".jpg", ".jpeg", ".png")
FORBIDDEN = -1  # in a table of labels: this value may not occur


class BadFile(UserError):
    """A fault of one file. Its arguments are its own, so that it survives pickling."""

    def __init__(self, path: Path, message: str) -> None:
        super().__init__(path, message)
        self.path = path
        self.message = message

    def __str__(self) -> str:
        return f"{os.fsencode(self.path).decode(errors='backslashreplace')}: {self.message}"


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
    if root is None:
        raise UserError(f"{dataset.name}: no data folder given: {_advice(dataset)}")
    for choice in choices:
        with signs.reading(root / choice):
            if (root / choice).is_dir():
                return root / choice
    raise UserError(f"{dataset.name}: no folder {root / choices[0]}: {_advice(dataset)}")


def says_its_place(dataset: SegmentationDataset) -> bool:
    """Whether it is a folder of the user's own, which nobody else has, and which its description names."""
    return "root" in type(dataset).model_fields


def _advice(dataset: SegmentationDataset) -> str:
    """What to do where its folder is not there."""
    if says_its_place(dataset) and Path(dataset.folder).is_absolute():
        return dataset.obtain
    below = f"{dataset.folder}/ of the folder that --data-root (or KDTUNE_DATA_ROOT) names"
    if says_its_place(dataset):
        return f"{dataset.obtain}, or --data-root: it is {below}"
    return f"{dataset.obtain} into {below}; the dataset 'demo' needs no files"


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
    there = _visible(where) if where.is_dir() else []
    return [path for path in there if path.name.lower().endswith(ending.lower())]


def _visible(where: Path) -> list[Path]:
    """What is in a folder, sorted, without the hidden files (``._x.png``) that archives of macOS leave."""
    with signs.reading(where):
        return sorted(Path(entry.path) for entry in os.scandir(where) if not entry.name.startswith("."))


def pair(
    images: Sequence[Path], label_of: Callable[[Path], Path], labels: Sequence[Path], found: Found, suffix: str = ""
) -> Found:
    """Adds a sample per image with its label, and a fault per image or label without the other.

    A suffix may be in capitals (``x.PNG``). A name must be text, for it goes into tables.

    Args:
        images: those of the split.
        label_of: where the label of an image should be.
        labels: those that are there, all of which must have an image; none where a list says what belongs.
        found: what is added to.
        suffix: of the images' names, not part of the samples'.
    """
    present: dict[Path, dict[str, str]] = {}  # one listing per folder: far fewer round trips than a stat per file

    def there(path: Path) -> Path | None:
        if path.parent not in present:
            names = os.listdir(path.parent) if path.parent.is_dir() else []
            present[path.parent] = {_small_suffix(name): name for name in names} | {name: name for name in names}
        name = present[path.parent].get(path.name) or present[path.parent].get(_small_suffix(path.name))
        return path.with_name(name) if name else None

    named: dict[str, Path] = {}
    expected = set()
    for listed in images:
        image, name = there(listed), listed.stem.removesuffix(suffix)
        label = there(label_of(listed))
        expected.add(label)
        if name in named:
            found.faults.append(BadFile(listed, f"has the same name as {named[name]}: remove one of them"))
        elif not is_text(name):
            found.faults.append(BadFile(listed, "its name is not text in UTF-8: rename it and its label"))
        elif image is None:
            fault = f"is listed (its label: {label_of(listed)}), but there is no such image"
            found.faults.append(BadFile(listed, f"{fault}: unpack the dataset's archives again"))
        elif label is None:
            fault = f"has no label {label_of(listed)}: add the label or remove the image"
            found.faults.append(BadFile(listed, fault))
        else:
            found.samples.append(Sample(name, (image, label)))
        named.setdefault(name, listed)
    lonely = [label for label in labels if label not in expected]
    found.faults += [BadFile(label, "is a label without an image: add its image or remove it") for label in lonely]
    return found


def lines_of(listed: Path, advice: str) -> list[str]:
    """The lines of a list of names.

    Raises:
        BadFile: it cannot be read.
    """
    try:
        return listed.read_text(encoding="utf-8-sig").splitlines()  # an editor may mark it
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not text"
        raise BadFile(listed, f"cannot be read ({reason}): {advice}") from None


def bare(name: str) -> str:
    """A name without the suffix of an image; it may have dots of its own."""
    stem, dot, suffix = name.rpartition(".")
    return stem if stem and dot + suffix.lower() in IMAGES else name


def _small_suffix(name: str) -> str:
    stem, dot, suffix = name.rpartition(".")
    return stem + dot + suffix.lower()


def is_text(name: str) -> bool:
    """Whether a file's name is text: others have parts that only the system can read."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def void(*ids: int) -> dict[int, int]:
    """A part of a table: these values are void."""
    return dict.fromkeys(ids, IGNORE)
