"""Whether a difference would hold on other images: a paired bootstrap over the validation images of the same runs.

The intervals of ``significance`` are of other seeds on these images. Here the runs stay as they are and the images
change: they are drawn with replacement, the same ones for every run, and each run's mIoU is taken of the drawn ones
together (one confusion matrix, as an evaluation has it). Drawn are **units**: images that show the same street are not
independent, so a unit is a sequence where the dataset knows any. None holds more than a tenth of the images: a longer
sequence is cut into stretches of consecutive images, for a bootstrap over few units gives intervals that are too short.
So they are, if less, where images remember those before them for as long as a stretch.

The intervals of a family hold at once: they reach as many standard errors as the largest deviation of the draws stays
below in 95 % of them. They are widened as those of few units need it, by sqrt(n / (n - 1)) and from the normal
distribution to that of t (Hesterberg 2015, The American Statistician 69). How often they cover:
``kdtune bench statistics``.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from kdtune.answers.ranking import Row
from kdtune.answers.significance import Family
from kdtune.answers.simultaneous import CONFIDENCE
from kdtune.filesystem import json_text
from kdtune.training.image_counts import ImageCounts

DRAWS = 2000
LEAST = 10  # units below which there is no interval
LARGEST = 0.1  # share of the images in a unit
EXACT = 1e-6  # percent: a sum in another order
MOST = 20_000_000  # images times classes; a table of more is none that kdtune makes
AT_ONCE = 4_000_000  # units times draws that are held in memory

Numbers = NDArray[np.float64]
Absent = Literal["skip", "zero"]


@dataclass(frozen=True)
class Run:
    """A network's counts over the images, and how its mIoU is made of them (see ``recipe.absent_classes``)."""

    counts: ImageCounts
    classes: int
    absent: Absent


@dataclass(frozen=True)
class Units:
    """What is drawn: the places of each unit's images, and how a person is told of them."""

    places: Sequence[NDArray[np.int64]]
    words: str


@dataclass(frozen=True)
class OtherImages:
    """Intervals [mIoU points] by method, simultaneous; ``words`` say over what, or why there are none."""

    intervals: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    words: str = ""


def units(counts: ImageCounts) -> Units:
    """Sequences, long ones cut; single images where the dataset knows no sequences."""
    images, grouped = len(counts.names), dict[str, list[int]]()
    for place, (name, sequence) in enumerate(zip(counts.names, counts.sequences, strict=True)):
        grouped.setdefault(f"of {sequence}" if sequence is not None else f"alone {name}", []).append(place)
    most = math.ceil(images * LARGEST)
    places = [part for each in grouped.values() for part in np.array_split(np.array(each), math.ceil(len(each) / most))]
    words = f"{images} images"
    if any(sequence is not None for sequence in counts.sequences):
        words += f" of {len(grouped)} sequence{'s' * (len(grouped) != 1)}"
        words += f", in {len(places)} stretches" if len(places) > len(grouped) else ""
    return Units(places, words)


def sums(run: Run, places: Sequence[NDArray[np.int64]]) -> tuple[Numbers, Numbers]:
    """Intersection and union [pixels] of each unit, (units, classes).

    Raises:
        ValueError: the counts are not of these classes, or too many for a table of results.
    """
    if run.classes * len(run.counts.names) > MOST:
        raise ValueError(f"more than {MOST:,} images times classes")
    hits, union = (np.stack([each[unit].sum(axis=0) for unit in places]) for each in run.counts.overlaps(run.classes))
    return hits.astype(float), union.astype(float)


def mious(drawn: Numbers, hits: Numbers, union: Numbers, absent: Absent) -> Numbers:
    """The mIoU [percent] of each draw; NaN: no class at all. ``drawn``: (draws, units), how often a unit is in it."""
    hits, union = drawn @ hits, drawn @ union
    there = union > 0
    iou = np.divide(100.0 * hits, union, out=np.zeros_like(hits), where=there)
    present = there.sum(axis=1)
    counted = present if absent == "skip" else np.where(present > 0, there.shape[1], 0)
    found: Numbers = np.divide(iou.sum(axis=1), counted, out=np.full(len(iou), np.nan), where=counted > 0)
    return found


def bootstrap(runs: Mapping[str, Sequence[Run]], reference: str) -> OtherImages:
    """The intervals of every method's mean mIoU less the reference's, each mean over the method's runs.

    Raises:
        ValueError: the counts of a run are not of its classes.
    """
    first = runs[reference][0].counts
    if any(run.counts.names != first.names for those in runs.values() for run in those):
        return OtherImages(words="runs were evaluated on different images")
    found = units(first)
    count = len(found.places)
    if count < LEAST:
        return OtherImages(words=f"{found.words}: too few")
    of_units = {name: [(*sums(run, found.places), run.absent) for run in those] for name, those in runs.items()}
    parts = [
        [np.mean([mious(drawn, *each) for each in those], axis=0) for those in of_units.values()]
        for drawn in _draws(count)
    ]
    means = dict(zip(runs, np.concatenate(parts, axis=1), strict=True))
    others = [name for name in runs if name != reference]
    differences = np.stack([means[name] - means[reference] for name in others], axis=1)
    if not np.isfinite(differences).all():
        return OtherImages(words=f"{found.words}: too many of them are void")
    reach = _reach(differences, count)
    middle = differences[0]
    if (reach <= EXACT).all():
        return OtherImages(words=f"{found.words}: all networks answer alike on them")
    ends = zip(others, middle - reach, middle + reach, reach, strict=True)
    return OtherImages({name: (float(low), float(high)) for name, low, high, r in ends if r > EXACT}, found.words)


def of_run(run: Run) -> tuple[tuple[float, float] | None, str]:
    """The interval of one run's own mIoU [percent] and what it is over; or none, and why."""
    found = units(run.counts)
    count = len(found.places)
    if count < LEAST:
        return None, f"{found.words}: too few"
    hits, union = sums(run, found.places)
    drawn = np.concatenate([mious(each, hits, union, run.absent) for each in _draws(count)])
    if not np.isfinite(drawn).all():
        return None, f"{found.words}: too many of them are void"
    reach = float(_reach(drawn[:, None], count)[0])
    return (float(drawn[0]) - reach, float(drawn[0]) + reach), found.words


def _draws(count: int) -> Iterator[Numbers]:
    """The units as they are, then draws of them: the same ones each time, a few at once."""
    chance, left = np.random.default_rng(0), DRAWS
    yield np.ones((1, count))
    while left:
        taken = min(left, max(1, AT_ONCE // count))
        yield chance.multinomial(count, np.full(count, 1.0 / count), taken).astype(float)
        left -= taken


def of_family(family: Family, known: Mapping[str, Run | str]) -> OtherImages:
    """The intervals of a family's differences; none, and why, unless every run of them has its counts.

    ``known``: trial -> its run, or why there is none; see ``run_of``.
    """
    trials = {gain.method: gain.trials for gain in family.gains if gain.difference is not None}
    if not trials:
        return OtherImages()
    trials[family.reference] = family.trials
    runs: dict[str, list[Run]] = {method: [] for method in trials}
    for method, ids in trials.items():
        for trial_id in ids:
            run = known[trial_id]
            if isinstance(run, str):
                return OtherImages(words=run)
            runs[method].append(run)
    return bootstrap(runs, family.reference)


def run_of(row: Row, counts: ImageCounts | str) -> Run | str:
    """What a trial's counts are of, or why there are none, or why they are not the trial's."""
    if isinstance(counts, str):
        return counts
    fault = f"{row['trial_id']}: its counts per image do not give its mIoU"
    try:
        absent = json_text.parsed(row["config"].encode())["recipe"]["absent_classes"]
        run = Run(counts, len(row["per_class_iou"]), "zero" if absent == "zero" else "skip")
        whole = mious(np.ones((1, 1)), *sums(run, [np.arange(len(counts.names))]), run.absent)
    except (KeyError, TypeError, ValueError):
        return fault
    return run if abs(float(whole[0]) - row["miou"]) < EXACT else fault


def _reach(differences: Numbers, count: int) -> Numbers:
    """Half of each interval; ``differences`` (1 + draws, methods), of ``count`` units."""
    from scipy.special import ndtr, stdtrit

    errors = differences[1:].std(axis=0, ddof=1)
    away = np.abs(differences[1:] - differences[0])
    largest = np.divide(away, errors, out=np.zeros_like(away), where=errors > 0).max(axis=1)
    normal = float(np.quantile(largest, CONFIDENCE))
    few = float(stdtrit(count - 1, ndtr(normal)))  # t of as large a probability
    return np.asarray(math.sqrt(count / (count - 1)) * few * errors)
