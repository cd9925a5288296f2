"""The batches of a trial, each a pure function of the seed and the step; resampled on the device.

Random scale, crop and flip as in SKD: the image is scaled by one of ``scale_min, scale_min + scale_step, ...``, padded
to the crop (mean colour, ignored label), cropped at a random place, mirrored half of the time. Scaled pixels have 8
bits, as those of OpenCV, which SKD used. Only the window that the crop needs is read; scaling, padding and mirroring
are one batched resampling on the device. Each network then normalises the crop in its own way: a student and a teacher
of other habits see the same one.
"""

import math
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from kdtune.base import IGNORE, Preprocessing
from kdtune.loading.images import Images
from kdtune.loading.transfer import on_device
from kdtune.loading.views import Axis, Views, axes, views
from kdtune.loading.windows import Windows, windows
from kdtune.study.recipe import Recipe

MAX_PIXELS = 2048 * 1024  # of one validation batch, see there
SMALL = 128 * 128  # pixels of a crop below which one batched operation is faster on a processor, too


@dataclass(frozen=True)
class Batch:
    """Crops before any network's own preprocessing."""

    pixels: Tensor  # (N, 3, H, W) uint8, RGB
    inside: Tensor  # (N, H, W) bool, whether the pixel is of the image; the rest is padding
    target: Tensor  # (N, H, W) int64, ``IGNORE`` where padded
    padded: bool  # whether any pixel is
    memory: "Memory | None" = None  # for images on a processor
    _images: dict[Any, Tensor] = field(default_factory=dict, repr=False)

    def image(self, how: Preprocessing, layout: torch.memory_format = torch.contiguous_format) -> Tensor:
        """(N, 3, H, W) as a network wants it; padding has the mean colour, which is 0. Made once: not to be changed."""
        if (how, layout) not in self._images:
            out = torch.from_numpy(self.memory.array(tuple(self.pixels.shape), np.float32)) if self.memory else None
            image = normalise(self.pixels, how, out)
            image = image.masked_fill_(~self.inside[:, None], 0.0) if self.padded else image
            self._images[how, layout] = image.to(memory_format=layout)
        return self._images[how, layout]


def train_batches(
    split: Images, recipe: Recipe, seed: int, start: int, device: torch.device, stop: int | None = None
) -> Iterator[Batch]:
    """Batches from step ``start`` on, to the last or before ``stop``; a GPU's are read ahead by threads."""
    steps, gpu = range(start, stop or recipe.num_steps), device.type == "cuda"

    def seen(step: int) -> Views:
        return views(recipe, split.sizes, seed, step)

    if gpu or math.prod(recipe.crop) < SMALL:

        def read(step: int) -> Windows:
            return windows(split, seen(step), recipe.crop, pinned=gpu)

        with closing(on_device(read, steps, device)) as ready:
            for each in ready:
                yield resample(Windows(*each))
    else:
        memory = Memory()
        with ThreadPoolExecutor(torch.get_num_threads(), "kdtune-crops") as pool:
            for step in steps:
                yield _crops(split, seen(step), recipe.crop, pool, memory)


def _crops(split: Images, view: Views, crop: tuple[int, int], pool: Executor, memory: "Memory") -> Batch:
    """A batch on a processor: crop by crop, each from its own window, because padded windows would cost the most."""
    size = (len(view.index), *crop)
    pixels = memory.array((size[0], 3, *crop), np.uint8)
    inside, target = memory.array(size, np.bool_), memory.array(size, np.int64)

    def fill(i: int) -> bool:
        rows, columns = axes(view, i, split.sizes, crop)
        _resized(split.image(view.index[i]), view, i, rows, columns, pixels[i])
        nearest = split.label(view.index[i])[rows.start : rows.stop, columns.start : columns.stop]
        nearest = nearest[rows.nearest][:, columns.nearest]
        np.logical_and(rows.inside[:, None], columns.inside, out=inside[i])
        whole = bool(rows.inside.all() and columns.inside.all())
        if not whole:
            nearest[~inside[i]] = IGNORE
        target[i] = nearest
        return whole

    padded = not all(list(pool.map(fill, range(size[0]))))
    return Batch(torch.from_numpy(pixels), torch.from_numpy(inside), torch.from_numpy(target), padded, memory)


def _resized(image: np.ndarray, view: Views, i: int, rows: Axis, columns: Axis, out: np.ndarray) -> None:
    """Writes the i-th crop of its image (H, W, 3) to ``out`` (3, h, w), what is outside of the image as 0.

    Torch's kernel for 8 bits is several times as fast as sampling at given places, but it begins at the corner of what
    it is given. At a scale of p / q, each q-th pixel of the source begins where a p-th one of the scaled image does:
    the window begins there, one period before the crop, so that only the image's own border is a border of it.
    """
    part = Fraction(float(view.scale[i])).limit_denominator(1000)
    window, sizes, skipped = image, [], []
    for axis, corner in ((rows, int(view.corner[i, 0])), (columns, int(view.corner[i, 1]))):
        period = max(corner // part.numerator - 1, 0)
        window = window[period * part.denominator : axis.stop].swapaxes(0, 1)
        skipped.append(corner - period * part.numerator)
        sizes.append(skipped[-1] + int(np.count_nonzero(axis.inside)))
    if part != 1:  # the kernel takes equal sizes for scale 1; one more pixel, which nothing reads, makes them unequal
        window = np.pad(window, [(0, int(window.shape[axis] == sizes[axis])) for axis in (0, 1)] + [(0, 0)], "edge")
    source = torch.from_numpy(np.array(window, order="C")).permute(2, 0, 1)[None]
    scaled = torch.ops.aten.upsample_bilinear2d(source, sizes, False, float(part), float(part))
    crop = scaled[0, :, skipped[0] :, skipped[1] :]
    if crop.shape != out.shape:
        out.fill(0)
    _, height, width = crop.shape
    into = torch.from_numpy(out)
    if view.flip[i]:
        into[:, :height, into.shape[2] - width :] = crop.flip(2)
    else:
        into[:, :height, :width] = crop


class Memory:
    """Arrays that are handed out again once nobody holds them, or a tensor made of them.

    New memory is zeroed by the system page by page, which takes several times as long as filling it.
    """

    def __init__(self) -> None:
        self._arrays: list[np.ndarray] = []
        self._unheld = _references([np.empty(0)])[0]  # differs between versions of Python

    def array(self, shape: tuple[int, ...], dtype: type[np.generic]) -> np.ndarray:
        """An array of any content."""
        for array, references in zip(self._arrays, _references(self._arrays), strict=True):
            if references <= self._unheld and array.shape == shape and array.dtype == dtype:
                return array
        self._arrays.append(np.empty(shape, dtype))
        return self._arrays[-1]


def _references(arrays: list[np.ndarray]) -> list[int]:
    return [sys.getrefcount(array) for array in arrays]


def resample(seen: Windows) -> Batch:
    """Crops from windows, in one batched operation on their device; ``_crops`` gives the same but for the last bit."""
    count, height, width = seen.labels.shape
    x = ((2 * seen.columns + 1) / width - 1)[:, None, :].expand(-1, seen.rows.shape[1], -1)
    y = ((2 * seen.rows + 1) / height - 1)[:, :, None].expand(-1, -1, seen.columns.shape[1])
    images = seen.images.permute(0, 3, 1, 2).float()
    grid = torch.stack((x, y), dim=-1)  # (N, H, W, 2), -1 and 1 at the borders of the windows
    pixels = F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)
    inside = seen.row_inside[:, :, None] & seen.column_inside[:, None, :]  # (N, H, W)
    batch = torch.arange(count, device=seen.labels.device)[:, None, None]
    target = seen.labels[batch, seen.nearest_row[:, :, None], seen.nearest_column[:, None, :]].long()
    return Batch(pixels.round().to(torch.uint8), inside, torch.where(inside, target, IGNORE), padded=True)


def normalise(pixels: Tensor, how: Preprocessing, out: Tensor | None = None) -> Tensor:
    """(N, 3, H, W) RGB, 0 to 255, as a network wants it; in ``out`` if that is given."""
    mean, std = _of_channels(how.mean, pixels.device), _of_channels(how.std, pixels.device)
    ordered = pixels.flip(1) if how.order == "bgr" else pixels
    image = ordered.to(torch.float32, copy=True) if out is None else out.copy_(ordered)
    return image.sub_(mean).div_(std)


def _of_channels(values: Sequence[float], device: torch.device) -> Tensor:
    """(1, 3, 1, 1), filled there: to copy it would make a GPU wait."""
    return torch.cat([torch.full((1, 1, 1, 1), value, device=device) for value in values], dim=1)


def validation_batches(split: Images, batch_size: int, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    """Whole images in their order, as many at once as have equal sizes: RGB uint8 (n, 3, H, W), target (n, H, W).

    No batch but of one image holds more than ``MAX_PIXELS``, whatever ``batch_size``. That is one image of 2048 x 1024,
    for which a PSPNet with ResNet-101 at stride 8 (128 x 256 cells) needs in float32, in evaluation: 270 MB of weights,
    1.1 GB where the pyramid is put together (4096 + 2048 channels, and their copies) or in the stem (128 channels at
    half size, 270 MB per map), and for 19 classes 160 MB of enlarged logits. That is below 2 GB; two images would
    come close to 4.
    """
    gpu = device.type == "cuda"

    def read(where: range) -> tuple[Tensor, Tensor]:
        height, width = split.sizes[where[0]]
        images = torch.empty(len(where), height, width, 3, dtype=torch.uint8, pin_memory=gpu)
        labels = torch.empty(len(where), height, width, dtype=torch.uint8, pin_memory=gpu)
        for image, label, i in zip(images.numpy(), labels.numpy(), where, strict=True):
            image[:], label[:] = split.image(i), split.label(i)
        return images, labels

    with closing(on_device(read, _of_one_size(split, batch_size), device)) as ready:
        for images, labels in ready:
            yield images.permute(0, 3, 1, 2), labels.long()


def _of_one_size(split: Images, batch_size: int) -> Iterator[range]:
    """Which images are a validation batch, one batch after the other."""
    i = 0
    while i < len(split):
        height, width = split.sizes[i]
        most = max(1, min(batch_size, MAX_PIXELS // int(height * width)))
        j = i + 1
        while j < min(len(split), i + most) and (split.sizes[j] == split.sizes[i]).all():
            j += 1
        yield range(i, j)
        i = j
