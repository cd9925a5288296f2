"""ADE20K of the Scene Parsing Challenge 2016: 150 classes, 20210 images for training, 2000 for validation."""

import colorsys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from kdtune.base import Sample, Split
from kdtune.datasets import files

CLASSES = tuple(  # in the order of objectInfo150.txt, each by its first name
    """
    wall, building, sky, floor, tree, ceiling, road, bed, windowpane, grass, cabinet, sidewalk,
    person, earth, door, table, mountain, plant, curtain, chair, car, water, painting, sofa, shelf,
    house, sea, mirror, rug, field, armchair, seat, fence, desk, rock, wardrobe, lamp, bathtub,
    railing, cushion, base, box, column, signboard, chest of drawers, counter, sand, sink,
    skyscraper, fireplace, refrigerator, grandstand, path, stairs, runway, case, pool table, pillow,
    screen door, stairway, river, bridge, bookcase, blind, coffee table, toilet, flower, book, hill,
    bench, countertop, stove, palm, kitchen island, computer, swivel chair, boat, bar, arcade
    machine, hovel, bus, towel, light, truck, tower, chandelier, awning, streetlight, booth,
    television receiver, airplane, dirt track, apparel, pole, land, bannister, escalator, ottoman,
    bottle, buffet, poster, stage, van, ship, fountain, conveyer belt, canopy, washer, plaything,
    swimming pool, stool, barrel, basket, waterfall, tent, bag, minibike, cradle, oven, ball, food,
    step, tank, trade name, microwave, pot, animal, bicycle, lake, dishwasher, screen, blanket,
    sculpture, hood, sconce, vase, traffic light, tray, ashcan, fan, pier, crt screen, plate,
    monitor, bulletin board, shower, radiator, glass, clock, flag
    """.replace("\n    ", " ")
    .strip()
    .split(", ")
)
VALUES = files.table({value: value - 1 for value in range(1, len(CLASSES) + 1)} | files.void(0))


def _colour(index: int) -> tuple[int, int, int]:
    """A colour of its own for each class: hues by the golden ratio, lightness and saturation in turn."""
    hue, light, vivid = index * 0.618034 % 1, (0.9, 0.6, 0.75)[index % 3], (0.85, 0.5)[index // 3 % 2]
    red, green, blue = colorsys.hsv_to_rgb(hue, vivid, light)
    return round(255 * red), round(255 * green), round(255 * blue)


class Ade20k(files.FolderDataset):
    """ADE20K (Zhou et al. 2017), the 150 classes of the Scene Parsing Challenge 2016.

    ``root`` holds ``ADEChallengeData2016`` (or is it): ``{images,annotations}/{training,validation}``, JPEG
    images of many sizes, label PNGs with 1..150 for the classes and 0 for void. The palette is kdtune's own.
    """

    class_names: ClassVar[Sequence[str]] = CLASSES
    palette: ClassVar[Sequence[tuple[int, int, int]]] = tuple(_colour(index) for index in range(len(CLASSES)))
    obtain: ClassVar[str] = "get http://data.csail.mit.edu/places/ADEchallenge/ADEChallengeData2016.zip and unpack it"
    archive: ClassVar[files.Archive | None] = files.Archive(
        url="http://data.csail.mit.edu/places/ADEchallenge/ADEChallengeData2016.zip",
        folder="ADEChallengeData2016",
        # as in GluonCV, scripts/datasets/ade20k.py
        checksum=lambda: ("sha1", "219e1696abb36c8ba3a3afe7fb2f4b4606a897c7"),
        terms="ADE20K is for non-commercial research and education only, MIT does not own the copyright of the "
        "images: https://groups.csail.mit.edu/vision/datasets/ADE20K/terms",
    )
    published: ClassVar[Mapping[Split, int]] = {"train": 20210, "val": 2000}

    name: Literal["ade20k"]

    def find(self, split: Split, root: Path | None) -> files.Found:
        """See ``FolderDataset.find``."""
        part = {"train": "training", "val": "validation"}[split]
        images = files.folder(self, root, [f"ADEChallengeData2016/images/{part}", f"images/{part}"])
        labels, found = images.parents[1] / "annotations" / part, files.Found()
        listed = files.listing(images, [".jpg"], found)
        return files.pair(listed, lambda image: labels / f"{image.stem}.png", files.labels_in(labels), found)

    def read(self, split: Split, sample: Sample) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Image (H, W, 3) and label (H, W), uint8, as stored; raises as ``SegmentationDataset.read``."""
        return files.read_pair(sample, VALUES, "0 for void and 1 to 150")
