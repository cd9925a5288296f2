"""Cityscapes: street scenes of 50 cities, 19 classes, 2975 images for training and 500 for validation."""

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import PositiveInt

from kdtune.base import IGNORE, Sample, Split
from kdtune.datasets import files
from kdtune.datasets.decode import read_pair

CLASSES = {  # in the order of the train ids
    "road": (128, 64, 128),
    "sidewalk": (244, 35, 232),
    "building": (70, 70, 70),
    "wall": (102, 102, 156),
    "fence": (190, 153, 153),
    "pole": (153, 153, 153),
    "traffic light": (250, 170, 30),
    "traffic sign": (220, 220, 0),
    "vegetation": (107, 142, 35),
    "terrain": (152, 251, 152),
    "sky": (70, 130, 180),
    "person": (220, 20, 60),
    "rider": (255, 0, 0),
    "car": (0, 0, 142),
    "truck": (0, 0, 70),
    "bus": (0, 60, 100),
    "train": (0, 80, 100),
    "motorcycle": (0, 0, 230),
    "bicycle": (119, 11, 32),
}


@cache
def label_values() -> NDArray[np.int16]:
    """The table (256,) from label ids to train ids, as torchvision has it."""
    from torchvision.datasets import Cityscapes as Official  # here, because importing it takes a second

    # -1, the licence plate, is stored as 255
    ids = {each.id % 256: each.train_id % 256 for each in Official.classes}
    assert max(label for label in ids.values() if label != IGNORE) == len(CLASSES) - 1
    return files.table(ids)


class Cityscapes(files.FolderDataset):
    """Cityscapes (Cordts et al. 2016), fine annotations, the 19 classes of its benchmark.

    ``root`` holds ``leftImg8bit/{train,val}/CITY/*_leftImg8bit.png`` (2048x1024) and
    ``gtFine/{train,val}/CITY/*_gtFine_labelIds.png``.
    """

    class_names: ClassVar[Sequence[str]] = tuple(CLASSES)
    palette: ClassVar[Sequence[tuple[int, int, int]]] = tuple(CLASSES.values())
    obtain: ClassVar[str] = (
        "register at https://www.cityscapes-dataset.com, get leftImg8bit_trainvaltest.zip and "
        "gtFine_trainvaltest.zip and unpack them"
    )
    terms: ClassVar[str] = (
        "Cityscapes is for non-commercial purposes such as research, teaching and publications: "
        "https://www.cityscapes-dataset.com/license"
    )
    published: ClassVar[Mapping[Split, int]] = {"train": 2975, "val": 500}

    name: Literal["cityscapes"]
    size: tuple[PositiveInt, PositiveInt] | None = None  # H, W [pixels]: resized on reading; None: as it is

    def find(self, split: Split, root: Path | None) -> files.Found:
        """By city, then file name; see ``FolderDataset.find``."""
        images = files.folder(self, root, [f"leftImg8bit/{split}"])
        labels, found = images.parents[1] / "gtFine" / split, files.Found()
        cities = _cities(images)
        if not cities:
            advice = "unpack leftImg8bit_trainvaltest.zip again"
            found.faults.append(files.BadFile(images, f"no folders of cities in it: {advice}"))
        listed = [path for city in cities for path in files.listing(city, [".png"], found)]
        there = [path for city in _cities(labels) for path in files.labels_in(city, "_gtFine_labelIds.png")]

        def label_of(image: Path) -> Path:
            scene = image.stem.removesuffix("_leftImg8bit")
            return labels / image.parent.name / f"{scene}_gtFine_labelIds.png"

        return files.pair(listed, label_of, there, found, "_leftImg8bit")

    def sequence(self, name: str) -> str | None:
        """City and drive, ``lindau_000000`` of ``lindau_000000_000019``."""
        return name.rpartition("_")[0] or None

    def read(self, split: Split, sample: Sample) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Image (H, W, 3) and label (H, W), uint8; raises as ``SegmentationDataset.read``."""
        return read_pair(sample, label_values(), "the label ids 0 to 33 (and 255)", self.palette, self.size)


def _cities(where: Path) -> list[Path]:
    if not where.is_dir():
        return []
    return sorted(path for path in where.iterdir() if path.is_dir() and not path.name.startswith("."))
