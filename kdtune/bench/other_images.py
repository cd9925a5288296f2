"""How often intervals of other images hold: images drawn from a world whose true difference is known.

An image has pixels of a few classes. How many of them a network has right depends on the class, on the image (hard for
all networks), on the recording that it is from, and on the network and the image together.
"""

import functools
import itertools
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from kdtune.answers.other_images import Run, bootstrap, mious, sums
from kdtune.bench.figures import told
from kdtune.records.rows import Row
from kdtune.training.image_counts import ImageCounts

CLASSES, PIXELS = 8, 10_000
WORLD = 40_000  # images that tell the truth
IMAGES = (48, 100, 500)
RECORDINGS = ("none", "of 5", "one")  # of an image each; of five images each; one of them all
MEMORY = 0.7  # correlation of the difficulties of one image and the next of a recording
METHODS = 5

Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class Setting:
    """What is drawn."""

    images: int
    recordings: str


def settings() -> Iterator[Setting]:
    """Every combination."""
    return itertools.starmap(Setting, itertools.product(IMAGES, RECORDINGS))


def drawn(images: int, recordings: str, generator: np.random.Generator) -> list[ImageCounts]:
    """What ``METHODS`` networks make of the same images."""
    length = {"none": 1, "of 5": 5, "one": images}[recordings]
    shares = generator.dirichlet(np.full(CLASSES, 0.4), images)
    pixels = np.where(shares > 0.01, shares * PIXELS, 0).astype(np.int64)
    street = _remembering(images, length, generator, 1)
    own = _remembering(images, length, generator, METHODS) * 0.3
    level = np.linspace(1.8, 0.6, CLASSES) + generator.normal(0.0, 0.3, (images, CLASSES))
    names = tuple(f"{i}" for i in range(images))
    sequences = tuple(f"{i // length}" if length > 1 else None for i in range(images))
    found = []
    for method in range(METHODS):
        right = 1.0 / (1.0 + np.exp(-(level + street + own[:, method, None] + 0.1 * method)))
        hits = (pixels * right).astype(np.int64)
        image, label = np.indices(pixels.shape).reshape(2, -1)
        cells = [
            np.stack([image, label, label, hits.ravel()], 1),
            np.stack([image, label, (label + 1) % CLASSES, (pixels - hits).ravel()], 1),
        ]
        joined = np.concatenate(cells)
        found.append(ImageCounts(names, sequences, joined[joined[:, 3] > 0]))
    return found


def _remembering(images: int, length: int, generator: np.random.Generator, count: int) -> Numbers:
    """Normal numbers (images, count), of deviation 1, correlated with those just before in the same recording."""
    found = generator.standard_normal((images, count))
    for i in range(images if length > 1 else 0):
        if i % length:
            found[i] = MEMORY * found[i - 1] + math.sqrt(1.0 - MEMORY**2) * found[i]
    return found


def measure(setting: Setting, tables: int, seed: int) -> Row:
    """Percent of tables in which all intervals hold (``covered``), that of the best method (``headline``)."""
    generator, truth = np.random.default_rng(seed), _truth(setting.recordings)
    counts, widths = {"covered": 0, "headline": 0}, []
    for _ in range(tables):
        made = drawn(setting.images, setting.recordings, generator)
        runs = {f"m{i}": [Run(each, CLASSES, "skip")] for i, each in enumerate(made)}
        found = bootstrap(runs, "m0").intervals
        held = [found[f"m{i}"][0] <= truth[i] <= found[f"m{i}"][1] for i in range(1, METHODS)]
        middles = [sum(found[f"m{i}"]) / 2 for i in range(1, METHODS)]
        counts["covered"] += all(held)
        counts["headline"] += held[int(np.argmax(middles))]
        widths += [(high - low) / 2 for low, high in found.values()]
    return {name: 100 * count / tables for name, count in counts.items()} | {"half_width": float(np.mean(widths))}


@functools.cache
def _truth(recordings: str) -> Numbers:
    """What each network's mIoU is above the first one's [points]."""
    world = drawn(WORLD, recordings, np.random.default_rng(1))
    found = np.array([_miou(Run(each, CLASSES, "skip")) for each in world])
    return np.asarray(found - found[0])


def _miou(run: Run) -> float:
    whole = sums(run, [np.arange(len(run.counts.names))])
    return float(mious(np.ones((1, 1)), *whole, run.absent)[0])


def other_images(tables: int, output: str | None) -> str:
    """A line per setting."""
    rows = [{**asdict(setting), **measure(setting, tables, seed)} for seed, setting in enumerate(settings())]
    title = f"intervals of other images, percent of {tables} tables a line; half width in points of mIoU"
    return told(title, rows, output)
