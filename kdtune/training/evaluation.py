"""A network on validation images: one confusion matrix over all of them, and the IoU of each class."""

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import numpy as np
import torch
import torch._functorch.config
import torch.nn.functional as F
from torch import Tensor

from kdtune import signs
from kdtune.base import IGNORE, Preprocessing, SegNet, UserError
from kdtune.loading.batches import MAX_PIXELS, normalise, validation_batches
from kdtune.loading.images import Images
from kdtune.resize import enlarged
from kdtune.study.recipe import Recipe
from kdtune.training.image_counts import Cells


def autocast(recipe: Recipe, device: torch.device) -> AbstractContextManager[Any]:
    """bf16 on a GPU if the recipe allows it; float32 elsewhere."""
    return torch.autocast("cuda", dtype=torch.bfloat16) if half_precision(recipe, device) else nullcontext()


def half_precision(recipe: Recipe, device: torch.device) -> bool:
    """Whether networks run in bf16."""
    return recipe.bf16 and device.type == "cuda"


def layout(recipe: Recipe, device: torch.device) -> torch.memory_format:
    """How maps lie in memory."""
    return torch.channels_last if recipe.channels_last and device.type == "cuda" else torch.contiguous_format


@torch.no_grad()
def confusion(
    network: SegNet,
    preprocessing: Preprocessing,
    val: Images,
    recipe: Recipe,
    device: torch.device,
    of_each: list[Cells] | None = None,
) -> Tensor:
    """One confusion matrix (K, K) int64 over all images: rows are labels, columns predictions; ``IGNORE`` is dropped.

    Logits are upsampled to the label's size (bilinear, align_corners=True) before the argmax, as SKD does.

    ``of_each``: gets what ``image_counts.collected`` makes the matrices of single images of; a GPU is waited for once
    per batch then, and else not at all.
    """
    network.eval()
    classes = network.num_classes
    counts = torch.zeros(classes * classes + 1, dtype=torch.int64, device=device)  # the last: what is ignored

    def logits_of(image: Tensor) -> Tensor:
        with autocast(recipe, device):
            return network(image).logits.float()

    for pixels, target in validation_batches(val, recipe.eval_batch_size, device):
        signs.alive()
        image = normalise(pixels, preprocessing)
        logits = logits_of(image) if recipe.eval_window is None else sliding(logits_of, image, recipe.eval_window)
        of_images = counted(logits, target)
        counts += of_images.sum(0)
        if of_each is not None:
            for found in of_images.cpu().numpy():
                cells = np.flatnonzero(found)
                of_each.append((cells, found[cells]))
    return counts[:-1].view(classes, classes)


def counted(logits: Tensor, target: Tensor) -> Tensor:
    """(n, K * K + 1) int64: the pixels of each image by ``label * K + predicted``, the last those that are ignored.

    Args:
        logits: (n, K, h, w), enlarged here.
        target: (n, H, W) int64.
    """
    classes = logits.shape[1]
    found = torch.zeros(len(target), classes * classes + 1, dtype=torch.int64, device=logits.device)
    one = torch.ones((), dtype=torch.int64, device=logits.device)
    # one by one: K values per pixel are most of the memory
    for each, label, counts in zip(logits, target, found, strict=True):
        # (H, W); on a processor ``argmax`` takes eight times as long for the same
        predicted = enlarged(each[None], label.shape).max(dim=1).indices[0]
        pairs = torch.where(label == IGNORE, classes * classes, label * classes + predicted).flatten()
        counts.scatter_add_(0, pairs, one.expand(len(pairs)))  # ``bincount`` would wait for a GPU, to find the largest
    return found


def sliding(logits_of: Callable[[Tensor], Tensor], image: Tensor, window: tuple[int, int]) -> Tensor:
    """Logits (n, K, H, W) of images, each pixel's the plain mean over the tiles that hold it.

    Tiles lie two thirds of the window apart, its height down and its width across, the last ones at the border; an
    image smaller than the window is padded with 0. Each tile's logits are enlarged to the window. Source: SKD,
    ``predict_sliding``, which goes by the height in both directions: for a square window that is the same.
    """
    size = image.shape[-2:]
    image = F.pad(image, (0, max(0, window[1] - size[1]), 0, max(0, window[0] - size[0])))
    rows, columns = (_places(whole, tile) for whole, tile in zip(image.shape[-2:], window, strict=True))
    places = [np.s_[..., y : y + window[0], x : x + window[1]] for y in rows for x in columns]
    tiles = [(i, where) for i in range(len(image)) for where in places]
    total, count = torch.zeros(()), torch.zeros(image.shape[-2:], device=image.device)
    covered = torch.zeros(image.shape[-2:], dtype=torch.bool)  # here, where to look makes no GPU wait
    for where in places:
        count[where] += 1
        covered[where] = True
    if not bool(covered.all()):
        raise AssertionError(f"tiles of {window} leave out pixels of an image of {tuple(image.shape[-2:])}")
    at_once = max(1, MAX_PIXELS // (window[0] * window[1]))  # as many pixels as a batch of whole images may have
    for first in range(0, len(tiles), at_once):
        chosen = tiles[first : first + at_once]
        logits = enlarged(logits_of(torch.stack([image[i][where] for i, where in chosen])), window)
        if first == 0:
            total = logits.new_zeros(len(image), logits.shape[1], *image.shape[-2:])
        for (i, where), each in zip(chosen, logits, strict=True):
            total[i][where] += each
    return total.div_(count)[..., : size[0], : size[1]]


def _places(whole: int, tile: int) -> list[int]:
    """Where tiles begin on an axis of ``whole`` pixels so that they cover it."""
    stride = math.ceil(tile * 2 / 3)
    return [min(i * stride, whole - tile) for i in range(math.ceil((whole - tile) / stride) + 1)]


def intersection_over_union(matrix: Tensor, absent: Literal["skip", "zero"]) -> tuple[float, list[float | None]]:
    """Mean and per-class IoU in percent of a confusion matrix.

    A class absent from labels and predictions alike has none and leaves the mean ("skip"), or counts as 0 ("zero", as
    in the code of SKD, IFVD, CIRKD and semseg).

    Raises:
        UserError: nothing was counted, for all labels are void.
    """
    matrix = matrix.double().cpu()
    if not matrix.any():
        raise UserError("no pixel of the validation images has a class, so there is no mIoU; check their labels")
    hits = matrix.diag()
    union = matrix.sum(0) + matrix.sum(1) - hits
    iou = [
        100 * float(h / u) if u > 0 else (0.0 if absent == "zero" else None) for h, u in zip(hits, union, strict=True)
    ]
    present = [value for value in iou if value is not None]
    return sum(present) / len(present), iou
