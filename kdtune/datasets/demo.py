"""Street scenes that the project draws itself: a dataset that needs no files."""

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import PositiveInt

from kdtune.base import Sample, Seed, SegmentationDataset, Split
from kdtune.datasets.street import draw_scene
from kdtune.datasets.street_classes import CLASSES, PALETTE


class Demo(SegmentationDataset):
    """Drawn street scenes: perspective, occlusion, haze, shadows, noise; colour does not give the class.

    An image is a pure function of (seed, split, index, size); at another size an index is the same street.
    """

    class_names: ClassVar[Sequence[str]] = CLASSES
    palette: ClassVar[Sequence[tuple[int, int, int]]] = PALETTE
    needs_files: ClassVar[bool] = False
    obtain: ClassVar[str] = "drawn by kdtune, nothing to get"

    terms: ClassVar[str] = "the scenes are drawn by kdtune, nobody else's terms hold for them"

    name: Literal["demo"]
    size: tuple[PositiveInt, PositiveInt] = (96, 128)  # H, W [pixels]
    num_train: PositiveInt = 160
    num_val: PositiveInt = 64
    seed: Seed = 0

    def samples(self, split: Split, root: Path | None) -> list[Sample]:
        """``train-00000`` and so on; ``root`` is not looked at."""
        count = self.num_train if split == "train" else self.num_val
        return [Sample(f"{split}-{index:05d}") for index in range(count)]

    def read(self, split: Split, sample: Sample) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Draws image (H, W, 3) uint8 and label (H, W) uint8."""
        index = int(sample.name.rsplit("-", 1)[1])
        return draw_scene(self.size, [self.seed, ("train", "val").index(split), index])
