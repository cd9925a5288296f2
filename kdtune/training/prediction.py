"""What a network makes of one image, as a trial's evaluations do it."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kdtune.base import Preprocessing, SegNet
from kdtune.devices import compute_device
from kdtune.loading.batches import normalise
from kdtune.resize import enlarged
from kdtune.study.recipe import Recipe
from kdtune.training.evaluation import autocast, sliding

Pixels = NDArray[np.uint8]
Size = tuple[int, int]  # H, W [pixels]


def classes_of(
    network: SegNet, preprocessing: Preprocessing, recipe: Recipe, image: Pixels, size: Size | None = None
) -> Pixels:
    """The class (H, W) of each pixel of an image (H, W, 3), of 256 classes at most.

    ``recipe``: whether in tiles, and in which precision. ``size``: of the answer, where it is not the image's.
    """
    device = compute_device()

    def logits_of(pixels: Tensor) -> Tensor:
        with autocast(recipe, device):
            return network(pixels).logits.float()

    pixels = torch.from_numpy(np.ascontiguousarray(image)).to(device).permute(2, 0, 1)[None]  # (1, 3, H, W)
    with torch.inference_mode():
        pixels = normalise(pixels, preprocessing)
        logits = logits_of(pixels) if recipe.eval_window is None else sliding(logits_of, pixels, recipe.eval_window)
        # on a processor ``argmax`` takes eight times as long for the same
        classes = enlarged(logits, size or image.shape[:2]).max(dim=1).indices[0]
        found: Pixels = classes.to(torch.uint8).cpu().numpy()
    return found
