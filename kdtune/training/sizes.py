"""Sizes that a network does not take: found before the first step, not at the first evaluation."""

import numpy as np
import torch
from torch import Tensor

from kdtune.base import SegNet, SegOutput, Tap, UserError
from kdtune.models.builders import first_line
from kdtune.models.external_network import resting
from kdtune.study.recipe import Recipe
from kdtune.training.evaluation import autocast

MOST = 4  # sizes of validation images that are tried
PERIOD = 32  # pixels: networks want multiples of it, or of a divisor; sizes alike up to it are tried once


def check_crop(network: SegNet, name: str, recipe: Recipe, device: torch.device) -> None:
    """One pass at the size of training.

    Raises:
        UserError: the network raises there.
    """
    fault = _fault(network, recipe.crop, recipe, device)
    if fault:
        raise UserError(
            f"{name}: takes no crops of {_written(recipe.crop)} pixels: {fault}; set recipe.crop to a size that it "
            f"takes (many want multiples of {PERIOD})"
        )


def check_validation(network: SegNet, name: str, sizes: np.ndarray, recipe: Recipe, device: torch.device) -> None:
    """One pass at sizes of validation: of the window, or of images that differ in what they leave over.

    Args:
        network: which is to be evaluated.
        name: of the network, for the error.
        sizes: (n, 2), height and width of the validation images.
        recipe: says how they are evaluated.
        device: where.

    Raises:
        UserError: the network raises at one of them; names ``recipe.eval_window``.
    """
    for height, width in [recipe.eval_window] if recipe.eval_window else _different(sizes):
        fault = _fault(network, (height, width), recipe, device)
        if fault:
            whose = "recipe.eval_window" if recipe.eval_window else "validation images"
            crop = ", ".join(map(str, recipe.crop))
            raise UserError(
                f"{name}: takes no {whose} of {_written((height, width))} pixels: {fault}; with recipe.eval_window: "
                f"[{crop}] it sees them in tiles of that size"
            )


def cells(network: SegNet, taps: frozenset[Tap], recipe: Recipe, device: torch.device) -> dict[Tap, tuple[int, int]]:
    """The sizes (h, w) of a network's maps at the size of training; see ``_pass``."""
    found = _pass(network, _black(recipe.crop, device), recipe, device, taps)
    return {tap: (int(found.taps[tap].shape[-2]), int(found.taps[tap].shape[-1])) for tap in taps}


def _different(sizes: np.ndarray) -> list[tuple[int, int]]:
    """A few of the sizes (n, 2), the first of each kind."""
    found: dict[tuple[int, int], tuple[int, int]] = {}
    for height, width in sizes.tolist():
        found.setdefault((height % PERIOD, width % PERIOD), (height, width))
    return list(found.values())[:MOST]


def _fault(network: SegNet, size: tuple[int, int], recipe: Recipe, device: torch.device) -> str | None:
    """What the network raises at a black image of this size."""
    image = _black(size, device)
    try:
        _pass(network, image, recipe, device)
    except (UserError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        return first_line(error)
    return None


def _pass(
    network: SegNet, image: Tensor, recipe: Recipe, device: torch.device, taps: frozenset[Tap] = frozenset()
) -> SegOutput:
    """What it makes of an image; it changes no weight, no statistic, no random number."""
    with resting(network), torch.no_grad(), torch.random.fork_rng(devices=[]), autocast(recipe, device):
        return network(image, taps)


def _black(size: tuple[int, int], device: torch.device) -> Tensor:
    return torch.zeros(1, 3, *size, device=device)


def _written(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]}"
