"""Maps and labels for tests of loss terms, the same for the same arguments."""

import torch
from torch import Tensor

from kdtune.base import IGNORE

NO_LABELS = torch.zeros(1, 1, 1, dtype=torch.long)  # for terms that do not read them


def maps(*shape: int, seed: int = 0) -> Tensor:
    """Normal numbers in float64."""
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def labels(*shape: int, classes: int, ignored: float = 0.2, seed: int = 0) -> Tensor:
    """Labels of which a share is ignored."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(classes, shape, generator=generator)
    return drawn.masked_fill(torch.rand(shape, generator=generator) < ignored, IGNORE)
