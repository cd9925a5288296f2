"""PASCAL VOC 2012: photographs, 21 classes with the background, 1464 for training and 1449 for validation.

With the labels of SBD there are 10582 for training.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from kdtune.base import IGNORE, Sample, Split
from kdtune.datasets import files
from kdtune.datasets.decode import read_pair

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


AUGMENTED = (
    "this is the augmented training set of SBD (Hariharan et al. 2011) in the form of 10582 images, not part of VOC: "
    "get SegmentationClassAug.zip and train_aug.txt as https://github.com/DrSleep/tensorflow-deeplab-resnet links "
    "them and put them at {base}/SegmentationClassAug/*.png and {base}/ImageSets/Segmentation/train_aug.txt"
)


def _checksum() -> tuple[str, str]:
    from torchvision.datasets.voc import DATASET_YEAR_DICT  # here, because importing it takes a second

    return "md5", DATASET_YEAR_DICT["2012"]["md5"]


class Voc(files.FolderDataset):
    """PASCAL VOC 2012 (Everingham et al. 2015), segmentation, with or without the labels of SBD for training.

    ``root`` holds ``VOCdevkit/VOC2012`` (or is one of the two): ``ImageSets/Segmentation/{train,val}.txt``,
    ``JPEGImages/*.jpg``, ``SegmentationClass/*.png`` (indices with a palette, 255 for borders). Images
    are not all of one size. ``train_aug`` trains with SBD (Hariharan et al. 2011): ``train_aug.txt`` beside the other
    lists and its labels, all of them, in ``SegmentationClassAug``.
    """

    class_names: ClassVar[Sequence[str]] = CLASSES
    palette: ClassVar[Sequence[tuple[int, int, int]]] = tuple(voc_colour(index) for index in range(len(CLASSES)))
    obtain: ClassVar[str] = (
        "get VOCtrainval_11-May-2012.tar at http://host.robots.ox.ac.uk/pascal/VOC/voc2012 and unpack it"
    )
    published: ClassVar[Mapping[Split, int]] = {"train": 1464, "val": 1449}

    archive: ClassVar[files.Archive | None] = files.Archive(
        url="http://host.robots.ox.ac.uk/pascal/VOC/voc2012/VOCtrainval_11-May-2012.tar",
        folder="VOCdevkit",
        checksum=_checksum,
        terms="the images of VOC 2012 are from flickr, whose terms of use hold for them: "
        "http://host.robots.ox.ac.uk/pascal/VOC/voc2012/#rights",
    )

    name: Literal["voc"]
    split: Literal["train", "train_aug"] = "train"  # what is trained on

    @property
    def published_counts(self) -> Mapping[Split, int]:
        """With ``train_aug``: those of VOC's training images and SBD's that are not in VOC's validation split."""
        return {**self.published, "train": 10582} if self.split == "train_aug" else self.published

    def find(self, split: Split, root: Path | None) -> files.Found:
        """See ``FolderDataset.find``; what no list names does not count."""
        choices = ["VOCdevkit/VOC2012/JPEGImages", "VOC2012/JPEGImages", "JPEGImages"]
        images = files.folder(self, root, choices)
        augmented = split == "train" and self.split == "train_aug"
        labels = images.with_name("SegmentationClassAug" if augmented else "SegmentationClass")
        listed = images.with_name("ImageSets") / "Segmentation" / f"{self.split if split == 'train' else split}.txt"
        advice = AUGMENTED.format(base=images.parent) if augmented else "unpack the archive again"
        if augmented and not labels.is_dir():
            raise files.BadFile(labels, f"no such folder: {advice}")
        found = files.Found()
        names = _names(listed, advice, found)
        paths = [images / f"{name}.jpg" for name in names]
        return files.pair(paths, lambda image: labels / f"{image.stem}.png", [], found)

    def read(self, split: Split, sample: Sample) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Image (H, W, 3) and label (H, W), uint8, as stored; raises as ``SegmentationDataset.read``."""
        return read_pair(sample, VALUES, "0 to 20, and 255 for void", self.palette)


def _names(listed: Path, advice: str, found: files.Found) -> list[str]:
    """The names in a list, sorted, each once; a line may be ``/JPEGImages/NAME.jpg /SegmentationClassAug/NAME.png``.

    Raises:
        BadFile: there is no such list, or nothing in it.
    """
    lines = [line.split() for line in files.lines_of(listed, advice)]
    names = sorted(files.bare(Path(words[0]).name) for words in lines if words)
    if not names:
        raise files.BadFile(listed, f"names no image: {advice}")
    for name in sorted({one for one, other in pairwise(names) if one == other}):
        found.faults.append(files.BadFile(listed, f"names '{name}' more than once: remove all such lines but one"))
    return list(dict.fromkeys(names))
