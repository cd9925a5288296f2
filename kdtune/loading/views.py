"""Which image each crop of a batch is from, and which of its pixels; a pure function of the seed and the step."""

from dataclasses import dataclass

import numpy as np

from kdtune.study.recipe import Recipe


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


@dataclass(frozen=True)
class Axis:
    """One axis of one crop: the source pixels that it needs, and where each of its own pixels lies among them."""

    start: int
    stop: int
    at: np.ndarray  # (L,) float32, in pixels from ``start``
    nearest: np.ndarray  # (L,) int64, likewise
    inside: np.ndarray  # (L,) bool, whether the pixel is of the image


def axes(view: Views, i: int, sizes: np.ndarray, crop: tuple[int, int]) -> tuple[Axis, Axis]:
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
