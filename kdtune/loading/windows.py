"""The part of each image that its crop needs, for a batch that is resampled at once."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from kdtune.loading.images import Images
from kdtune.loading.views import Views, axes


class Windows(NamedTuple):
    """The source pixels that the crops of a batch need, in windows of one size, and where the crops' pixels lie."""

    images: Tensor  # (N, h, w, 3) uint8
    labels: Tensor  # (N, h, w) uint8
    rows: Tensor  # (N, H) float32, in pixels of the window
    columns: Tensor  # (N, W), likewise
    nearest_row: Tensor  # (N, H) int64
    nearest_column: Tensor  # (N, W)
    row_inside: Tensor  # (N, H) bool
    column_inside: Tensor  # (N, W)


def windows(split: Images, view: Views, crop: tuple[int, int], *, pinned: bool = False) -> Windows:
    """Those of a batch; ``pinned``: in memory that a GPU can read by itself.

    A crop smaller than the largest leaves a margin. Of it only the nearest row and column are set, to 0: a pixel on
    the border of an image may read them, since its place is rounded, and nothing reads the rest.
    """
    found = [axes(view, i, split.sizes, crop) for i in range(len(view.index))]
    height, width = (max(each[axis].stop - each[axis].start for each in found) for axis in (0, 1))
    images = torch.empty(len(found), height, width, 3, dtype=torch.uint8, pin_memory=pinned)
    labels = torch.empty(len(found), height, width, dtype=torch.uint8, pin_memory=pinned)
    for index, image, label, (rows, columns) in zip(view.index, images.numpy(), labels.numpy(), found, strict=True):
        window = np.s_[rows.start : rows.stop, columns.start : columns.stop]
        h, w = rows.stop - rows.start, columns.stop - columns.start
        image[:h, :w], label[:h, :w] = split.image(index)[window], split.label(index)[window]
        image[h : h + 1, : w + 1] = image[:h, w : w + 1] = 0

    def both(name: str) -> tuple[Tensor, Tensor]:
        stacked = [torch.from_numpy(np.stack([getattr(each[axis], name) for each in found])) for axis in (0, 1)]
        rows, columns = (tensor.pin_memory() if pinned else tensor for tensor in stacked)
        return rows, columns

    return Windows(images, labels, *both("at"), *both("nearest"), *both("inside"))
