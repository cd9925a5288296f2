"""Each method's own paired test against the student alone, corrected for how many there are by Holm's rule.

Holm (1979, Scandinavian Journal of Statistics 6): the smallest of m values of p is taken m times, the next m - 1 times,
and so on, none less than one before it. It needs no common model of the methods; see ``significance`` for that.
"""

import statistics
from collections.abc import Mapping

from kdtune.answers.significance import SAME


def paired_p(ours: Mapping[int, float], theirs: Mapping[int, float]) -> float | None:
    """Two-sided p of a paired t test over the seeds that both have; none of fewer than two, or without deviation."""
    from scipy.stats import ttest_rel  # costly to import

    seeds = sorted(ours.keys() & theirs.keys())
    if len(seeds) < 2 or statistics.stdev(ours[seed] - theirs[seed] for seed in seeds) < SAME:
        return None
    return float(ttest_rel([ours[seed] for seed in seeds], [theirs[seed] for seed in seeds]).pvalue)


def corrected(found: Mapping[str, float], tests: int) -> dict[str, float]:
    """The p of each method, corrected for so many planned tests, those without a p among them."""
    told, least = dict[str, float](), 0.0
    for place, name in enumerate(sorted(found, key=lambda name: found[name])):
        least = max(least, min(1.0, (max(tests, len(found)) - place) * found[name]))
        told[name] = least
    return told
