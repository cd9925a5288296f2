"""PASCAL VOC 2012: photographs, 21 classes with the background, 1464 for training and 1449 for validation."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from kdtune.base import IGNORE, Sample, SegmentationDataset, Split, UserError
from kdtune.datasets import files

CLASSES = (
    "background",
    "aeroplane",
    "bicycle",
    "bird",
    "boat",
    "bottle",
    "bus",
    "car",
    "cat",
    "chair",
    "cow",
    "diningtable",
    "dog",
    "horse",
    "motorbike",
    "person",
    "pottedplant",
    "sheep",
    "sofa",
    "train",
    "tvmonitor",
)
VALUES = files.table({label: label for label in range(len(CLASSES))} | files.void(IGNORE))


def voc_colour(index: int) -> tuple[int, int, int]:
    """The colour of a palette entry: its bits 0, 3, 6 are the top bits of red; 1, 4, 7 green; 2, 5 blue."""

    def channel(first: int) -> int:
        return sum(((index >> (first + 3 * place)) & 1) << (7 - place) for place in range(3))

    return channel(0), channel(1), channel(2)


class Voc(SegmentationDataset):
    """PASCAL VOC 2012 (Everingham et al. 2015), segmentation, without the extra labels of SBD.

    ``root`` holds ``VOCdevkit/VOC2012`` (or is one of the two): ``ImageSets/Segmentation/{train,val}.txt``,
    ``JPEGImages/*.jpg``, ``SegmentationClass/*.png`` (indices with a palette, 255 for borders). Images
    are not all of one size.
    """

    class_names: ClassVar[Sequence[str]] = CLASSES
    palette: ClassVar[Sequence[tuple[int, int, int]]] = tuple(voc_colour(index) for index in range(len(CLASSES)))
    obtain: ClassVar[str] = (
        "get VOCtrainval_11-May-2012.tar at http://host.robots.ox.ac.uk/pascal/VOC/voc2012 and unpack it"
    )
    published_counts: ClassVar[Mapping[Split, int]] = {"train": 1464, "val": 1449}

    name: Literal["voc"]

    def samples(self, split: Split, root: Path | None) -> list[Sample]:
        """Sorted by name; raises as ``SegmentationDataset.samples``."""
        choices = ["VOCdevkit/VOC2012/JPEGImages", "VOC2012/JPEGImages", "JPEGImages"]
        images = files.folder(self, root, choices)
        labels, listed = images.with_name("SegmentationClass"), images.with_name("ImageSets") / "Segmentation"
        try:
            names = sorted((listed / f"{split}.txt").read_text(encoding="utf-8").split())
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "not text"
            raise UserError(f"{listed / f'{split}.txt'}: cannot be read ({reason}): unpack the archive again") from None
        if not names:
            raise UserError(f"{listed / f'{split}.txt'}: names no image: unpack the archive again")
        found = [images / f"{name}.jpg" for name in names]
        return files.samples(files.pair(found, lambda image: labels / f"{image.stem}.png"))

    def read(self, split: Split, sample: Sample) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Image (H, W, 3) and label (H, W), uint8, as stored; raises as ``SegmentationDataset.read``."""
        return files.read_pair(sample, VALUES, "0 to 20, and 255 for void")
