"""Which methods cannot be told apart from each other, and how far chance alone would carry the best of equal ones."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from kdtune.answers.significance import SAME, Family
from kdtune.answers.simultaneous import ALPHA


@dataclass(frozen=True)
class Standing:
    """Of all methods of a comparison that ran with every seed. Differences are in mIoU points."""

    groups: Mapping[str, str]  # method -> its groups by number, the best first: "1", "2-4"
    apart: float  # from which on two methods differ, all pairs at once, with 95 % confidence
    methods: int
    lead: float  # of the best on the mean of all
    by_chance: float  # the same, as expected of as many methods that are equal
    deviation: float  # of a run
    seeds: int


def standing(family: Family, means: Mapping[str, float]) -> Standing | None:
    """Of these mean mIoUs [percent]; none while runs are missing, or where the seeds tell no deviation.

    Groups are the longest stretches of the ranking in which no two methods differ by ``apart``: methods that share a
    group cannot be told apart. All pairs are compared at once (Tukey's range test), over the deviation that all methods
    have in common; its freedom is that of a whole table of methods and seeds.
    """
    from scipy.stats import studentized_range  # costly to import

    seeds, deviation = family.seeds, family.deviation
    if family.provisional or deviation is None or deviation < SAME or len(means) < 2 or seeds < 2:
        return None
    error = deviation / math.sqrt(seeds)
    reach = float(studentized_range.ppf(1 - ALPHA, len(means), (len(means) - 1) * (seeds - 1))) * error
    best = max(means.values())
    lead = best - sum(means.values()) / len(means)
    chance = expected_maximum(len(means)) * error
    return Standing(grouped(means, reach), reach, len(means), lead, chance, deviation, seeds)


def grouped(means: Mapping[str, float], apart: float) -> dict[str, str]:
    """The groups of each method, by number; see ``standing``."""
    ranking = sorted(means, key=lambda method: -means[method])
    stretches: list[Sequence[str]] = []
    for first, top in enumerate(ranking):
        stretch = [method for method in ranking[first:] if means[top] - means[method] < apart]
        if not stretches or stretch[-1] not in stretches[-1]:
            stretches.append(stretch)
    found = {}
    for method in ranking:
        numbers = [i for i, stretch in enumerate(stretches, 1) if method in stretch]
        found[method] = f"{numbers[0]}-{numbers[-1]}" if len(numbers) > 1 else f"{numbers[0]}"
    return found


def expected_maximum(count: int) -> float:
    """Of so many independent standard normal variables."""
    from scipy.special import log_ndtr

    x = np.linspace(-9.0, 9.0, 4001)
    density = np.exp((count - 1) * log_ndtr(x) - x**2 / 2) * count / math.sqrt(2 * math.pi)
    return float((x * density).sum() * (x[1] - x[0]))
