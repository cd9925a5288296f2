"""The batches of a trial, each a pure function of the seed and the step; resampled on the device.

Random scale, crop and flip as in SKD: the image is scaled by one of ``scale_min, scale_min + scale_step, ...``, padded
to the crop (mean colour, ignored label), cropped at a random place, mirrored half of the time. Only the window that
the crop needs is read; scaling, padding and mirroring are one batched resampling on the device. Each network then
normalises the crop in its own way: a student and a teacher of other habits see the same one.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from kdtune.base import IGNORE, Preprocessing
from kdtune.loading.pack import Packed
from kdtune.spec import Recipe


@dataclass(frozen=True)
class Batch:
    """Crops before any network's own preprocessing."""

    pixels: Tensor  # (N, 3, H, W) float32, RGB, 0 to 255
    inside: Tensor  # (N, H, W) bool, whether the pixel is of the image; the rest is padding
    target: Tensor  # (N, H, W) int64, ``IGNORE`` where padded

    def image(self, how: Preprocessing) -> Tensor:
        """(N, 3, H, W) as a network wants it; padding has the mean colour, which is 0."""
        return torch.where(self.inside[:, None], normalise(self.pixels, how), 0.0)


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


def train_batches(split: Packed, recipe: Recipe, seed: int, start: int, device: torch.device) -> Iterator[Batch]:
    """Batches from step ``start`` on."""
    for step in range(start, recipe.num_steps):
        view = views(recipe, split.sizes, seed, step)
        windows, labels, offsets = _windows(split, view, recipe.crop)
        yield resample(
            _move(windows, device), _move(labels, device), view, offsets, recipe.crop, split.sizes[view.index]
        )


def _move(array: np.ndarray, device: torch.device) -> Tensor:
    tensor = torch.from_numpy(array)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor


def _windows(split: Packed, view: Views, crop: tuple[int, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The source pixels that each crop needs, in windows of one size: images, labels, top-left corners (n, 2)."""
    sizes = split.sizes[view.index]
    scale = view.scale[:, None]
    first = np.floor((view.corner + 0.5) / scale - 0.5).astype(int)
    last = np.floor((view.corner + np.array(crop) - 0.5) / scale - 0.5).astype(int) + 1  # to interpolate with
    start, stop = np.clip(first, 0, sizes - 1), np.clip(last, 0, sizes - 1) + 1
    height, width = (stop - start).max(axis=0)
    images = np.zeros((len(sizes), height, width, 3), dtype=np.uint8)
    labels = np.full((len(sizes), height, width), IGNORE, dtype=np.uint8)
    for i, (index, (top, left), (bottom, right)) in enumerate(zip(view.index, start, stop, strict=True)):
        images[i, : bottom - top, : right - left] = split.image(index)[top:bottom, left:right]
        labels[i, : bottom - top, : right - left] = split.label(index)[top:bottom, left:right]
    return images, labels, start


def resample(
    windows: Tensor,
    labels: Tensor,
    view: Views,
    offsets: np.ndarray,
    crop: tuple[int, int],
    sizes: np.ndarray,
) -> Batch:
    """Crops from uint8 windows; one batched operation on the device.

    Images are interpolated bilinearly between pixel centres (OpenCV's convention, as in SKD), labels take the nearest
    pixel. What lies outside of the image becomes padding and the ignored label.
    """
    device = windows.device
    height, width = windows.shape[1:3]
    rows = _source(view.corner[:, 0], view.scale, crop[0], device)  # (N, H) in pixels of the source image
    columns = _source(view.corner[:, 1], view.scale, crop[1], device)  # (N, W)
    flip = torch.from_numpy(view.flip).to(device)[:, None]
    columns = torch.where(flip, columns.flip(1), columns)
    size = torch.from_numpy(sizes.astype(np.float32)).to(device)
    inside = _inside(rows, size[:, :1])[:, :, None] & _inside(columns, size[:, 1:])[:, None, :]  # (N, H, W)
    offset = torch.from_numpy(offsets.astype(np.float32)).to(device)
    # border: a pixel half outside takes its nearest neighbour; clamp, because a smaller window is padded with zeros
    rows = torch.minimum(rows.clamp(min=0), size[:, :1] - 1)
    columns = torch.minimum(columns.clamp(min=0), size[:, 1:] - 1)
    # rounded before the offset goes: which of two pixels equally near is taken must not depend on the window
    row, column = (rows + 0.5).floor() - offset[:, :1], (columns + 0.5).floor() - offset[:, 1:]
    rows, columns = rows - offset[:, :1], columns - offset[:, 1:]
    x = ((2 * columns + 1) / width - 1)[:, None, :].expand(-1, crop[0], -1)
    y = ((2 * rows + 1) / height - 1)[:, :, None].expand(-1, -1, crop[1])
    grid = torch.stack((x, y), dim=-1)  # (N, H, W, 2), from -1 to 1 as grid_sample wants it
    images = windows.permute(0, 3, 1, 2).float()
    crops = F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)
    batch = torch.arange(len(labels), device=device)[:, None, None]
    target = labels[batch, row.long()[:, :, None], column.long()[:, None, :]].long()
    return Batch(crops, inside, torch.where(inside, target, IGNORE))


def _source(corner: np.ndarray, scale: np.ndarray, length: int, device: torch.device) -> Tensor:
    """Where each pixel of the crop lies in the source, (N, length): centres map to centres."""
    position = (corner[:, None] + np.arange(length) + 0.5) / scale[:, None] - 0.5
    return torch.from_numpy(position.astype(np.float32)).to(device)


def _inside(position: Tensor, size: Tensor) -> Tensor:
    return (position >= -0.5) & (position <= size - 0.5)


def normalise(pixels: Tensor, how: Preprocessing) -> Tensor:
    """(N, 3, H, W) RGB, 0 to 255, as a network wants it."""
    mean = torch.tensor(how.mean, device=pixels.device).view(1, 3, 1, 1)
    std = torch.tensor(how.std, device=pixels.device).view(1, 3, 1, 1)
    ordered = pixels.flip(1) if how.order == "bgr" else pixels
    return (ordered - mean) / std


def validation_batches(split: Packed, batch_size: int, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    """Whole images in their order, as many at once as have equal sizes: RGB 0 to 255 (n, 3, H, W), target (n, H, W)."""
    i = 0
    while i < len(split):
        j = i + 1
        while j < min(len(split), i + batch_size) and (split.sizes[j] == split.sizes[i]).all():
            j += 1
        images = _move(np.stack([split.image(k) for k in range(i, j)]), device)
        labels = _move(np.stack([split.label(k) for k in range(i, j)]), device)
        yield images.permute(0, 3, 1, 2).float(), labels.long()
        i = j
