"""The confusion matrix of each image of a validation split: what tells how a result depends on its images.

As a table a row is a cell of an image's matrix: ``image``, ``sequence`` (the recording that it is from, null where the
dataset knows none), ``label``, ``predicted``, ``pixels``. Void pixels are a row with neither label nor prediction, so
that no image is without rows. Knows no torch: results are read without it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

Counts = NDArray[np.int64]
Cells = tuple[Counts, Counts]  # of one image: label * classes + predicted (classes ** 2: void) -> pixels

SCHEMA = pa.schema(
    [
        ("image", pa.string()),
        ("sequence", pa.string()),
        ("label", pa.int16()),
        ("predicted", pa.int16()),
        ("pixels", pa.int32()),
    ]
)


@dataclass(frozen=True)
class ImageCounts:
    """Cells of the matrices of n images, in the images' order; ``cells`` are (m, 4): image, label, predicted, pixels.

    The index of an image is its place in ``names``. Label and prediction of void are -1.
    """

    names: tuple[str, ...]
    sequences: tuple[str | None, ...]
    cells: Counts

    def overlaps(self, classes: int) -> tuple[Counts, Counts]:
        """Intersection and union [pixels] of label and prediction, each (n, classes).

        Raises:
            ValueError: a cell is of no such class.
        """
        image, label, predicted, pixels = self.cells[self.cells[:, 1] >= 0].T
        if len(image) and not 0 <= min(label.min(), predicted.min()) <= max(label.max(), predicted.max()) < classes:
            raise ValueError(f"a class that is none of the {classes}")
        hits, marked = np.zeros((2, len(self.names), classes), np.int64)
        np.add.at(hits, (image[label == predicted], label[label == predicted]), pixels[label == predicted])
        np.add.at(marked, (image, label), pixels)
        np.add.at(marked, (image, predicted), pixels)
        return hits, marked - hits

    def table(self) -> pa.Table:
        """As ``SCHEMA``."""
        image, label, predicted, pixels = self.cells.T
        columns = [
            pa.array([self.names[i] for i in image], pa.string()),
            pa.array([self.sequences[i] for i in image], pa.string()),
            *(pa.array(values, mask=values < 0).cast(pa.int16()) for values in (label, predicted)),
            pa.array(pixels).cast(pa.int32()),
        ]
        return pa.Table.from_arrays(columns, schema=SCHEMA)


def counts_of(table: pa.Table) -> ImageCounts:
    """What ``ImageCounts.table`` made.

    Raises:
        ValueError: it is another table, or a value of it is missing or below 0.
    """
    if table.schema.remove_metadata() != SCHEMA or table["image"].null_count or table["pixels"].null_count:
        raise ValueError("no table of counts per image")
    coded = table["image"].combine_chunks().dictionary_encode()
    image = coded.indices.to_numpy(zero_copy_only=False).astype(np.int64)
    label, predicted = (pc.fill_null(table[name], -1).to_numpy().astype(np.int64) for name in ("label", "predicted"))
    pixels = table["pixels"].to_numpy().astype(np.int64)
    if (pixels < 0).any() or ((label < 0) != (predicted < 0)).any():
        raise ValueError("no counts of cells")
    first = np.unique(image, return_index=True)[1]
    sequences = table["sequence"].take(pa.array(first)).to_pylist()
    cells = np.stack([image, label, predicted, pixels], 1)
    return ImageCounts(tuple(coded.dictionary.to_pylist()), tuple(sequences), cells)


def collected(
    names: Sequence[str], sequences: Sequence[str | None], found: Sequence[Cells], classes: int
) -> ImageCounts:
    """Of the cells of each image, in the images' order."""
    cells = [
        np.stack([np.full(len(cell), i), cell // classes, cell % classes, pixels], 1)
        for i, (cell, pixels) in enumerate(found)
    ]
    joined = np.concatenate(cells) if cells else np.zeros((0, 4), np.int64)
    joined[joined[:, 1] == classes, 1:3] = -1
    return ImageCounts(tuple(names), tuple(sequences), joined)
