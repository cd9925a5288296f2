"""The batches of a trial, each a pure function of the seed and the step; resampled on the device.

Random scale, crop and flip as in SKD: the image is scaled by one of ``scale_min, scale_min + scale_step, ...``, padded
to the crop (mean colour, ignored label), cropped at a random place, mirrored half of the time. Scaled pixels have 8
bits, as those of OpenCV, which SKD used. Only the window that the crop needs is read; scaling, padding and mirroring
are one batched resampling on the device. Each network then normalises the crop in its own way: a student and a teacher
of other habits see the same one.
"""

import math
import sys
from collections.abc import Generator, Iterator, Sequence
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
from kdtune.loading.ahead import prefetched
from kdtune.loading.images import Images
from kdtune.study.recipe import Recipe

PREFETCH = 3  # batches that a thread reads ahead of a GPU
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


@dataclass(frozen=True)
class Views:
    """How each image of a batch is seen, one entry per image."""

    index: np.ndarray  # which image
    scale: np.ndarray  # the factor by which it is enlarged
    corner: np.ndarray  # (n, 2) top left of the crop, in pixels of the scaled (and padded) image
    flip: np.ndarray  # mirrored left to right


def views(recipe: Recipe, sizes: np.ndarray, seed: int, step: int) -> Views:
    """The batch of a step (from 0). ``sizes`` (n, 2): height and width of every image of the split."""
    index = _indices(len(sizes), recipe.batch_size, seed, step)
    rng = np.random.default_rng((seed, 1, step))
    num_scales = int((recipe.scale_max - recipe.scale_min) / recipe.scale_step + 1e-6) + 1  # none above scale_max
    scale = recipe.scale_min + recipe.scale_step * rng.integers(num_scales, size=len(index))
    scaled = np.maximum(np.round(sizes[index] * scale[:, None]), recipe.crop)
    corner = np.floor(rng.random((len(index), 2)) * (scaled - recipe.crop + 1))
    flip = (rng.random(len(index)) < 0.5) & recipe.flip
    return Views(index, scale, corner, flip)


def _indices(num_images: int, batch_size: int, seed: int, step: int) -> np.ndarray:
    """Epochs of shuffled images laid end to end; a batch may span two epochs, so that no image is left out."""
    first = step * batch_size
    epochs = range(first // num_images, (first + batch_size - 1) // num_images + 1)
    order = [np.random.default_rng((seed, 0, epoch)).permutation(num_images) for epoch in epochs]
    start = first - epochs[0] * num_images
    return np.concatenate(order)[start : start + batch_size]


def train_batches(
    split: Images, recipe: Recipe, seed: int, start: int, device: torch.device, stop: int | None = None
) -> Iterator[Batch]:
    """Batches from step ``start`` on, to the last or before ``stop``. A GPU's are read ahead by a thread."""
    seen = (views(recipe, split.sizes, seed, step) for step in range(start, stop or recipe.num_steps))
    if device.type == "cuda":
        windows = (_windows(split, view, recipe.crop, pinned=True) for view in seen)
        with closing(prefetched(windows, PREFETCH)) as ready:
            for window in ready:
                yield resample(window.to(device))
    elif math.prod(recipe.crop) < SMALL:
        for view in seen:
            yield resample(_windows(split, view, recipe.crop))
    else:
        memory = Memory()
        with ThreadPoolExecutor(torch.get_num_threads(), "kdtune-crops") as pool:
            for view in seen:
                yield _crops(split, view, recipe.crop, pool, memory)


@dataclass(frozen=True)
class Axis:
    """One axis of one crop: the source pixels that it needs, and where each of its own pixels lies among them."""

    start: int
    stop: int
    at: np.ndarray  # (L,) float32, in pixels from ``start``
    nearest: np.ndarray  # (L,) int64, likewise
    inside: np.ndarray  # (L,) bool, whether the pixel is of the image


def _axes(view: Views, i: int, sizes: np.ndarray, crop: tuple[int, int]) -> tuple[Axis, Axis]:
    """Rows and columns of the i-th crop: centres map to centres (OpenCV's convention, as in SKD)."""
    found = []
    for axis in (0, 1):
        position = (view.corner[i, axis] + np.arange(crop[axis]) + 0.5) / view.scale[i] - 0.5
        at = position.astype(np.float32)
        if axis == 1 and view.flip[i]:
            at = at[::-1]
        last = int(sizes[view.index[i], axis]) - 1  # a numpy integer would make float64 of what follows
        inside = (at >= -0.5) & (at <= last + 0.5)
        at = np.clip(at, 0, last)  # a pixel half outside takes its nearest neighbour
        # rounded before the offset goes: which of two pixels equally near is taken must not depend on the window
        nearest = np.floor(at + np.float32(0.5)).astype(np.int64)
        start, stop = int(at.min()), min(int(at.max()) + 1, last) + 1  # one more, to interpolate with
        found.append(Axis(start, stop, at - start, nearest - start, inside))
    return found[0], found[1]


def _crops(split: Images, view: Views, crop: tuple[int, int], pool: Executor, memory: "Memory") -> Batch:
    """A batch on a processor: crop by crop, each from its own window, because padded windows would cost the most."""
    size = (len(view.index), *crop)
    pixels = memory.array((size[0], 3, *crop), np.uint8)
    inside, target = memory.array(size, np.bool_), memory.array(size, np.int64)

    def fill(i: int) -> bool:
        rows, columns = _axes(view, i, split.sizes, crop)
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


@dataclass(frozen=True)
class Windows:
    """The source pixels that the crops of a batch need, in windows of one size, and where the crops' pixels lie."""

    images: Tensor  # (N, h, w, 3) uint8
    labels: Tensor  # (N, h, w) uint8
    at: tuple[Tensor, Tensor]  # rows (N, H) and columns (N, W), float32, in pixels of the window
    nearest: tuple[Tensor, Tensor]  # int64
    inside: tuple[Tensor, Tensor]  # bool

    def to(self, device: torch.device) -> "Windows":
        """On a device; asynchronous from pinned memory, which PyTorch does not hand out again before it was read."""

        def moved(pair: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
            return pair[0].to(device, non_blocking=True), pair[1].to(device, non_blocking=True)

        images, labels = moved((self.images, self.labels))
        return Windows(images, labels, moved(self.at), moved(self.nearest), moved(self.inside))


def _windows(split: Images, view: Views, crop: tuple[int, int], *, pinned: bool = False) -> Windows:
    axes = [_axes(view, i, split.sizes, crop) for i in range(len(view.index))]
    height, width = (max(each[axis].stop - each[axis].start for each in axes) for axis in (0, 1))
    images = torch.zeros(len(axes), height, width, 3, dtype=torch.uint8, pin_memory=pinned)
    labels = torch.zeros(len(axes), height, width, dtype=torch.uint8, pin_memory=pinned)
    for index, image, label, (rows, columns) in zip(view.index, images.numpy(), labels.numpy(), axes, strict=True):
        window = np.s_[rows.start : rows.stop, columns.start : columns.stop]
        size = np.s_[: rows.stop - rows.start, : columns.stop - columns.start]
        image[size], label[size] = split.image(index)[window], split.label(index)[window]

    def both(name: str) -> tuple[Tensor, Tensor]:
        stacked = [torch.from_numpy(np.stack([getattr(each[axis], name) for each in axes])) for axis in (0, 1)]
        rows, columns = (tensor.pin_memory() if pinned else tensor for tensor in stacked)
        return rows, columns

    return Windows(images, labels, both("at"), both("nearest"), both("inside"))


def resample(windows: Windows) -> Batch:
    """Crops from windows, in one batched operation on their device; ``_crops`` gives the same but for the last bit."""
    count, height, width = windows.labels.shape
    (rows, columns), (row, column) = windows.at, windows.nearest
    x = ((2 * columns + 1) / width - 1)[:, None, :].expand(-1, rows.shape[1], -1)
    y = ((2 * rows + 1) / height - 1)[:, :, None].expand(-1, -1, columns.shape[1])
    images = windows.images.permute(0, 3, 1, 2).float()
    grid = torch.stack((x, y), dim=-1)  # (N, H, W, 2), -1 and 1 at the borders of the windows
    pixels = F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)
    inside = windows.inside[0][:, :, None] & windows.inside[1][:, None, :]  # (N, H, W)
    batch = torch.arange(count, device=row.device)[:, None, None]
    target = windows.labels[batch, row[:, :, None], column[:, None, :]].long()
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
    read = _whole(split, batch_size, pinned=device.type == "cuda")
    with closing(prefetched(read, PREFETCH) if device.type == "cuda" else read) as ready:
        for images, labels in ready:
            pixels = images.to(device, non_blocking=True).permute(0, 3, 1, 2)
            yield pixels, labels.to(device, non_blocking=True).long()


def _whole(split: Images, batch_size: int, *, pinned: bool) -> Generator[tuple[Tensor, Tensor]]:
    i = 0
    while i < len(split):
        height, width = split.sizes[i]
        most = max(1, min(batch_size, MAX_PIXELS // int(height * width)))
        j = i + 1
        while j < min(len(split), i + most) and (split.sizes[j] == split.sizes[i]).all():
            j += 1
        images = torch.empty(j - i, height, width, 3, dtype=torch.uint8, pin_memory=pinned)
        labels = torch.empty(j - i, height, width, dtype=torch.uint8, pin_memory=pinned)
        for k in range(i, j):
            images.numpy()[k - i], labels.numpy()[k - i] = split.image(k), split.label(k)
        yield images, labels
        i = j
