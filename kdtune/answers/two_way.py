"""Runs of several methods over the same seeds as one linear model: a method's level, a seed's, and chance.

``miou = level of the method + level of the seed + chance``, by least squares, so that cells may be missing. What the
seeds share cancels in differences of methods, and chance is estimated from all methods at once: m methods over n seeds
give (m - 1)(n - 1) degrees of freedom, where a pair of methods has n - 1.

That supposes that all methods scatter alike. Of the reference, which is in every difference, it is looked at: the
difference of the reference from the mean of the others, seed by seed, has a variance of its own, and over that of the
others it follows an F distribution with n - 1 and (m - 2)(n - 1) degrees of freedom. Both are also what is needed to
go on without the supposition, see ``apart``.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from kdtune.answers.simultaneous import smallest

Runs = Mapping[int, float]  # seed -> mIoU [percent]


@dataclass(frozen=True)
class Difference:
    """A method's difference from the reference [mIoU points], its standard error, and degrees of freedom of that."""

    value: float
    error: float
    freedom: float


@dataclass(frozen=True)
class Differences:
    """Those of all methods that can be told from a reference, by name, and what two of them have in common."""

    of: Mapping[str, Difference]
    correlation: float = 0.5
    deviation: float | None = None  # of a run, all methods together [mIoU points]
    freedom: int = 0  # degrees of freedom of that


@dataclass(frozen=True)
class Scatter:
    """How chance varies: variances [points squared] of a run and of the reference less the mean of the others."""

    others: float  # of a run of the other methods
    reference: float  # of the reference less their mean; if all scatter alike (1 + 1/methods) times the other
    methods: int  # the others
    seeds: int

    @property
    def p(self) -> float:
        """The probability of a reference that scatters at least so much more than the rest, if all scatter alike."""
        from scipy.special import fdtrc

        expected = (1.0 + 1.0 / self.methods) * self.others
        if expected <= 0.0:
            return 0.0 if self.reference > 0.0 else 1.0
        return float(fdtrc(self.seeds - 1, (self.methods - 1) * (self.seeds - 1), self.reference / expected))


def pooled(runs: Mapping[str, Runs], reference: str) -> Differences:
    """Every difference over one estimate of chance, from all runs; none where the seeds leave no degree of freedom."""
    methods, seeds = list(runs), sorted({seed for those in runs.values() for seed in those})
    cells = [(methods.index(name), seeds.index(seed), miou) for name in methods for seed, miou in runs[name].items()]
    if not cells:
        return Differences({})
    design = np.zeros((len(cells), len(methods) + len(seeds)))
    for line, (method, seed, _) in enumerate(cells):
        design[line, [method, len(methods) + seed]] = 1.0
    values = np.array([miou for _, _, miou in cells])
    normal = design.T @ design
    inverse = np.linalg.pinv(normal, hermitian=True)
    shift = float(values.mean())  # far from 0 its rounding would be the deviation of equal runs
    levels = inverse @ design.T @ (values - shift)
    freedom = len(cells) - round(float(np.trace(inverse @ normal)))
    others = [name for name in methods if name != reference]
    contrasts = np.zeros((len(others), design.shape[1]))
    for line, name in enumerate(others):
        contrasts[line, [methods.index(name), methods.index(reference)]] = 1.0, -1.0
    told = np.abs(contrasts @ inverse @ normal - contrasts).max(axis=1, initial=0.0) < 1e-8
    if freedom < 1 or not told.any():
        return Differences({})
    others, contrasts = [name for name, known in zip(others, told, strict=True) if known], contrasts[told]
    residuals = values - shift - design @ levels
    deviation = math.sqrt(float(residuals @ residuals) / freedom)
    spread = contrasts @ inverse @ contrasts.T
    scale = np.sqrt(np.diag(spread))
    correlations = (spread / np.outer(scale, scale))[~np.eye(len(others), dtype=bool)]
    found = zip(others, contrasts @ levels, scale * deviation, strict=True)
    return Differences(
        {name: Difference(float(value), float(error), float(freedom)) for name, value, error in found},
        smallest(correlations),
        deviation,
        freedom,
    )


def scatter(runs: Mapping[str, Runs], reference: str) -> Scatter | None:
    """How the reference scatters beside the rest; none of an incomplete table, or of fewer than two others or seeds."""
    seeds = sorted(runs[reference])
    others = [name for name in runs if name != reference]
    if len(others) < 2 or len(seeds) < 2 or any(sorted(those) != seeds for those in runs.values()):
        return None
    table = np.array([[runs[name][seed] for seed in seeds] for name in others])
    means = table.mean(axis=0)
    chance = table - means - (table.mean(axis=1) - means.mean())[:, None]
    freedom = (len(others) - 1) * (len(seeds) - 1)
    apart = np.array([runs[reference][seed] for seed in seeds]) - means
    return Scatter(float((chance**2).sum()) / freedom, float(apart.var(ddof=1)), len(others), len(seeds))


def apart(values: Mapping[str, float], found: Scatter, seeds: int | None = None) -> Differences:
    """Differences of these values whose reference scatters in its own way: two variances, two degrees of freedom.

    A method's difference from the reference is that from the mean of all methods, whose chance the methods share, and
    the mean's from the reference, whose chance is in all of them; degrees of freedom by Welch and Satterthwaite.

    ``seeds``: as many as there might be; those there are, if none.
    """
    seeds = seeds or found.seeds
    own = found.others * (1.0 - 1.0 / found.methods) / seeds
    common = found.reference / seeds
    squares = own**2 / ((found.methods - 1) * (seeds - 1)) + common**2 / (seeds - 1)
    error = math.sqrt(own + common)
    freedom = (own + common) ** 2 / squares if squares > 0.0 else float(seeds - 1)
    shared = (common - found.others / (found.methods * seeds)) / (own + common) if error > 0.0 else 0.0
    return Differences({name: Difference(value, error, freedom) for name, value in values.items()}, max(0.0, shared))


def welch(ours: Sequence[float], theirs: Sequence[float]) -> Difference | None:
    """The difference of two means of runs that share no seed, each with its own deviation; none of a single run."""
    if min(len(ours), len(theirs)) < 2:
        return None
    parts = [float(np.var(values, ddof=1)) / len(values) for values in (ours, theirs)]
    squares = sum(part**2 / (len(values) - 1) for part, values in zip(parts, (ours, theirs), strict=True))
    freedom = sum(parts) ** 2 / squares if squares > 0.0 else 1.0
    return Difference(float(np.mean(ours) - np.mean(theirs)), math.sqrt(sum(parts)), freedom)
