"""What batches are made from: the images of a split, packed or read directly."""

import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from kdtune import signs
from kdtune.base import Sample, SegmentationDataset, Split
from kdtune.datasets.decode import ORIENTATION
from kdtune.datasets.opened import UNREADABLE, opened

DECODED = 8  # images that a direct reader keeps: 8 MB each for 2048 x 1024


class Images(Protocol):
    """The images of a split, in a fixed order."""

    @property
    def names(self) -> tuple[str, ...]:
        """Of the images, without suffix."""

    @property
    def sizes(self) -> np.ndarray:
        """(n, 2), height and width."""

    def __len__(self) -> int: ...

    def image(self, i: int) -> np.ndarray:
        """(H, W, 3) uint8 RGB."""

    def label(self, i: int) -> np.ndarray:
        """(H, W) uint8."""


@dataclass(frozen=True)
class Direct:
    """A split that is decoded at each access, but for the last few images: slow, and without a file of its own."""

    names: tuple[str, ...]
    sizes: np.ndarray
    read: Callable[[int], tuple[np.ndarray, np.ndarray]] = field(repr=False)

    def __len__(self) -> int:
        return len(self.sizes)

    def image(self, i: int) -> np.ndarray:
        """(H, W, 3) uint8, decoded."""
        return self.read(int(i))[0]

    def label(self, i: int) -> np.ndarray:
        """(H, W) uint8, decoded."""
        return self.read(int(i))[1]


def read_directly(dataset: SegmentationDataset, split: Split, root: Path | None) -> Direct:
    """A split of the dataset in ``root``; only the headers of its images are read now.

    Raises:
        UserError: missing or unreadable data.
    """
    samples = dataset.samples(split, root)

    @functools.lru_cache(maxsize=DECODED)
    def read(i: int) -> tuple[np.ndarray, np.ndarray]:
        return dataset.read(split, samples[i])

    sizes = [size(dataset, split, sample) for sample in samples]
    return Direct(tuple(sample.name for sample in samples), np.array(sizes, np.int64).reshape(-1, 2), read)


def size(dataset: SegmentationDataset, split: Split, sample: Sample) -> tuple[int, int]:
    """Height and width of an image, from its header where that tells.

    Raises:
        UserError: the file cannot be read.
    """
    given: Any = getattr(dataset, "size", None)  # to which the dataset resizes, or draws
    if given is not None:
        return int(given[0]), int(given[1])
    if sample.files:
        try:
            path = sample.files[0]
            with signs.reading(path), path.open("rb") as file, opened(path, file) as image:
                if image.getexif().get(ORIENTATION, 1) == 1:  # else its label says which way up it is
                    return image.height, image.width
        except UNREADABLE:
            pass  # reading it below says what is wrong, in the dataset's words
    height, width = dataset.read(split, sample)[1].shape
    return height, width
