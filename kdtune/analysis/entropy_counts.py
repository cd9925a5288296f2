"""The Shannon entropy of a teacher's softened distributions, pixel by pixel, counted into histograms.

H = -sum_k p_k ln p_k of p = softmax(z / tau) over the K classes, in nats; 0 where one class has all, ln K where all
have the same. Counts are whole numbers: those of shards of the images add up to those of all of them.
"""

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kdtune.base import Split, UserError
from kdtune.devices import compute_device
from kdtune.loading.batches import normalise
from kdtune.loading.images import Images
from kdtune.resize import enlarged
from kdtune.study.trial_config import TrialConfig
from kdtune.training.evaluation import autocast, sliding
from kdtune.training.site import Site, load_split
from kdtune.training.trial import frozen_teacher

# A prime: the entropy of a tie, such as ln 2 of ln 4, then lies on no edge, where rounding would choose the bin.
BINS = 199
THRESHOLD = 0.1  # nats: below it one class has more than 0.979, whatever the others have
UNITS = 2**20  # of a nat: sums of entropies are whole numbers of them, so that they add up in any order
PIECE = 2**18  # logits that are worked on at once on a processor: they stay in its cache
PIECE_GPU = 2**26
LOWEST = -80.0  # of (z - max) / tau: e^-80 changes no float32 sum, and a processor takes 40 times as long for e^-90

Integers = NDArray[np.int64]
Map = Callable[..., Any]


@dataclass(frozen=True)
class Asked:
    """What is measured. The default is the paper's: 800 crops of 512 x 512 are its 209,715,200 pixels."""

    temperatures: tuple[float, ...] = (1.0, 2.0, 4.0, 8.0, 16.0)
    images: int = 800
    crop: tuple[int, int] | None = (512, 512)  # H, W [pixels], of each image; none: whole images
    split: Split = "train"
    seed: int = 0
    threshold: float = THRESHOLD  # nats
    upsampled: bool = True  # logits enlarged to the crop's size before the softmax, as in evaluations

    def __post_init__(self) -> None:
        bad = [t for t in self.temperatures if not (math.isfinite(t) and t > 0)]
        if bad or not self.temperatures:
            raise UserError(f"--temperatures {_told(self.temperatures)}: each must be above 0, e.g. 1,2,4,8,16")
        if len(set(self.temperatures)) < len(self.temperatures):
            raise UserError(f"--temperatures {_told(self.temperatures)}: one stands there twice")
        if self.images < 1:
            raise UserError(f"--images {self.images}: leaves no image; give 1 or more")
        if self.crop is not None and min(self.crop) < 1:
            raise UserError(f"--crop {_told(self.crop)}: height and width must be 1 or more")
        if not (math.isfinite(self.threshold) and self.threshold > 0):
            raise UserError(f"--threshold {self.threshold:g}: must be above 0 nats")

    def chosen(self, available: int) -> list[int]:
        """The images of a split of so many, a function of the seed alone; all where there are no more than wanted."""
        order = np.random.default_rng((self.seed, 0)).permutation(available)
        return sorted(order[: self.images].tolist())

    def window(self, index: int, height: int, width: int) -> tuple[slice, slice]:
        """Rows and columns of an image, a function of the seed, its index and its size; no more than it has."""
        if self.crop is None:
            return slice(0, height), slice(0, width)
        draws = np.random.default_rng((self.seed, 1, index)).random(2)
        sizes = min(self.crop[0], height), min(self.crop[1], width)
        top, left = (int(u * (n - s + 1)) for u, n, s in zip(draws, (height, width), sizes, strict=True))
        return slice(top, top + sizes[0]), slice(left, left + sizes[1])


def _told(values: Sequence[float]) -> str:
    return ",".join(f"{value:g}" for value in values)


@dataclass(frozen=True)
class Counts:
    """Pixels by temperature and bin, and what they add up to."""

    bins: Integers  # (temperatures, BINS), from 0 to ln K; a bin holds its lower edge, the last one both
    below: Integers  # (temperatures,) pixels below the threshold
    sums: Integers  # (temperatures,) entropies, each image's rounded to a whole number of UNITS
    images: int = 0
    smaller: int = 0  # of these, the images that are smaller than the crop
    available: int = 0  # images that the split has

    @classmethod
    def none(cls, temperatures: int) -> "Counts":
        """Of no pixel."""
        zeros = np.zeros(temperatures, np.int64)
        return cls(np.zeros((temperatures, BINS), np.int64), zeros, zeros)

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(
            self.bins + other.bins,
            self.below + other.below,
            self.sums + other.sums,
            self.images + other.images,
            self.smaller + other.smaller,
            max(self.available, other.available),
        )

    @property
    def pixels(self) -> int:
        """At each temperature the same."""
        return int(self.bins[0].sum())


@contextlib.contextmanager
def threads() -> Iterator[Map]:
    """A ``map`` over as many threads as torch has here, each of which computes alone.

    Torch's own threads share every operation, and on pieces that fit the cache mostly wait for one another.
    """
    count = torch.get_num_threads()
    if count == 1 or compute_device().type != "cpu":
        yield map
        return
    with ThreadPoolExecutor(count, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        try:
            yield pool.map
        finally:
            torch.set_num_threads(count)  # what later threads begin with; this thread's own has not changed


def tally(logits: Tensor, temperatures: Sequence[float], threshold: float, spread: Map = map) -> Counts:
    """The counts of one image's logits (K, H, W), float32.

    Raises:
        UserError: they are not finite.
    """
    flat = logits.flatten(1)  # (K, P)
    size = max(1, (PIECE if flat.device.type == "cpu" else PIECE_GPU) // len(flat))
    found = spread(lambda piece: _piece(piece, temperatures, threshold), torch.split(flat, size, dim=1))
    bins, below, sums = (sum(each) for each in zip(*found, strict=True))
    units = torch.round(sums * UNITS).to(torch.int64)
    return Counts(bins.cpu().numpy(), below.cpu().numpy(), units.cpu().numpy(), images=1)


def _piece(logits: Tensor, temperatures: Sequence[float], threshold: float) -> tuple[Tensor, Tensor, Tensor]:
    """Bins (T, BINS) int64, pixels below the threshold (T,) int64, sums of entropies (T,) float64 of logits (K, P).

    With y = z - max z and e = exp(y / tau): H = ln sum e - sum (e y) / (tau sum e), one exponential per logit.
    """
    most = math.log(len(logits))
    shifted = logits - logits.amax(0)
    work, lowest = torch.empty_like(shifted), float(shifted.amin())
    bins, below, sums = [], [], []
    for temperature in temperatures:
        torch.mul(shifted, 1 / temperature, out=work)
        if lowest < LOWEST * temperature:
            work.clamp_(min=LOWEST)
        work.exp_()
        total = work.sum(0).double()  # what follows is one number per pixel, and near ln K float32 has too few digits
        mean = work.mul_(shifted).sum(0).double().div_(total).div_(temperature)
        entropy = total.log_().sub_(mean).clamp_(0, most)  # rounding leaves the interval by 1e-6
        sums.append(entropy.sum())
        below.append(torch.count_nonzero(entropy < threshold))
        if not math.isfinite(sums[-1]):
            raise UserError("the teacher's logits are not finite: check its weights and its preprocessing")
        places = entropy.mul_(BINS / most).clamp_(max=BINS - 1).to(torch.int32)
        bins.append(torch.bincount(places, minlength=BINS))
    return torch.stack(bins), torch.stack(below), torch.stack(sums)


@torch.no_grad()
def count(
    config: TrialConfig,
    source: str,
    asked: Asked,
    site: Site,
    part: tuple[int, int] = (0, 1),
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> Counts:
    """The counts of every image, or of ``part`` (i, n): each n-th from the i-th on.

    One image at a time, whatever the memory: what a network makes of an image may differ in the last bits with what
    else is in its batch, and shards must add up. ``source``: the file of the teacher's weights.

    Raises:
        UserError: data or weights are missing or do not fit, or there are no images.
    """
    assert config.teacher is not None
    device, recipe = compute_device(), config.recipe
    network = frozen_teacher(config.teacher, source, config.dataset.num_classes, device)
    images = load_split(config, asked.split, site)
    chosen = asked.chosen(len(images))[part[0] :: part[1]]

    def logits_of(image: Tensor) -> Tensor:
        with autocast(recipe, device):
            return network(image).logits.float()

    total = Counts.none(len(asked.temperatures))
    with threads() as spread:
        for done, index in enumerate(chosen, 1):
            pixels, smaller = _pixels(images, index, asked)
            image = normalise(pixels.to(device), config.teacher.model.preprocessing)
            tiled = asked.crop is None and recipe.eval_window is not None
            logits = sliding(logits_of, image, recipe.eval_window) if tiled else logits_of(image)  # type: ignore[arg-type]
            if asked.upsampled and not tiled:
                logits = enlarged(logits, image.shape[-2:])
            try:
                each = tally(logits[0], asked.temperatures, asked.threshold, spread)
            except UserError as error:
                raise UserError(f"image '{images.names[index]}': {error}") from None
            total += Counts(each.bins, each.below, each.sums, 1, int(smaller), len(images))
            progress(done, len(chosen))
    return total


def _pixels(images: Images, index: int, asked: Asked) -> tuple[Tensor, bool]:
    """An image's crop (1, 3, H, W) uint8, and whether the image is smaller than the crop should be."""
    height, width = (int(side) for side in images.sizes[index])
    rows, columns = asked.window(index, height, width)
    crop = np.array(images.image(index)[rows, columns])  # a copy: what is mapped may not be written
    smaller = asked.crop is not None and (height < asked.crop[0] or width < asked.crop[1])
    return torch.from_numpy(crop).permute(2, 0, 1)[None], smaller
