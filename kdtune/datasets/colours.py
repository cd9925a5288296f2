"""The colours in which classes are shown."""

import colorsys
from collections.abc import Sequence

from kdtune.base import SegmentationDataset

Colour = tuple[int, int, int]  # RGB


def palette_of(dataset: SegmentationDataset) -> list[Colour]:
    """The dataset's colours; of one that has none, or too few, colours that are easily told apart."""
    return enough(getattr(dataset, "palette", ()), dataset.num_classes)


def enough(palette: Sequence[Colour], classes: int) -> list[Colour]:
    """The palette if it has a colour for each class, else another that has."""
    return list(palette) if len(palette) >= classes else [colour(i) for i in range(classes)]


def colour(index: int) -> Colour:
    """A colour of its own for each class: hues by the golden ratio, lightness and saturation in turn."""
    hue, light, vivid = index * 0.618034 % 1, (0.9, 0.6, 0.75)[index % 3], (0.85, 0.5)[index // 3 % 2]
    red, green, blue = colorsys.hsv_to_rgb(hue, vivid, light)
    return round(255 * red), round(255 * green), round(255 * blue)
