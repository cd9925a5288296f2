"""A split in two parts: what is held out, and the rest; sequences stay whole."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kdtune.loading.images import Images


@dataclass(frozen=True)
class Some:
    """Some images of a split, in its order."""

    split: Images
    chosen: np.ndarray  # their places in the split

    @property
    def names(self) -> tuple[str, ...]:
        """Of the images, without suffix."""
        return tuple(self.split.names[i] for i in self.chosen)

    @property
    def sizes(self) -> np.ndarray:
        """(n, 2), height and width."""
        found: np.ndarray = self.split.sizes[self.chosen]
        return found

    def __len__(self) -> int:
        return len(self.chosen)

    def image(self, i: int) -> np.ndarray:
        """(H, W, 3) uint8 RGB."""
        return self.split.image(int(self.chosen[i]))

    def label(self, i: int) -> np.ndarray:
        """(H, W) uint8."""
        return self.split.label(int(self.chosen[i]))


def held_out(names: Sequence[str], sequences: Sequence[str | None], share: float, seed: int) -> np.ndarray:
    """(n,) bool: which images are held out. A function of seed and names: their order, and others, change little.

    Sequences are taken in a drawn order, each if the number of images comes closer to the share by it; the smallest if
    none does, and none if there is but one.
    """
    groups: dict[str, list[int]] = {}
    for i, (name, sequence) in enumerate(zip(names, sequences, strict=True)):
        groups.setdefault(f"of {sequence}" if sequence is not None else f"alone {name}", []).append(i)
    order = sorted(groups, key=lambda group: hashlib.sha256(f"{seed}/{group}".encode()).digest())
    wanted, found = share * len(names), list[int]()
    for group in order:
        if abs(len(found) + len(groups[group]) - wanted) < abs(len(found) - wanted):
            found += groups[group]
    if not found and len(groups) > 1:
        found = groups[min(order, key=lambda group: len(groups[group]))]
    mask = np.zeros(len(names), bool)
    if len(found) < len(names):
        mask[found] = True
    return mask
