"""Several differences from one reference at once: the distribution of the largest of their t values.

With k differences from a common reference, each over its own estimated error and all over one estimate of it, the t
values follow a multivariate t distribution (Dunnett 1955, Journal of the American Statistical Association 50). Its
two-sided probabilities are integrated here over the estimate of the deviation and over what the differences share; with
one correlation for all of them that is a double integral whatever k is. A correlation smaller than the true one gives
wider intervals (Sidak 1967, the same journal, 62), so where correlations differ the smallest is taken.
"""

import functools
import math
from collections.abc import Callable, Iterable

import numpy as np

Numbers = np.ndarray[tuple[int], np.dtype[np.float64]]

CONFIDENCE = 0.95
ALPHA = 0.05
CORRELATION = 0.5  # of two differences of equally many runs from one reference, if all vary alike
MOST = 0.95  # a larger correlation is taken for this one: the integral would need more points
_POINTS = 42  # of either integral at least: doubled, no probability changes by 1e-4 of it
_FAR = 6.0  # deviations from which a standard normal variable is left out


def adjusted_p(t: float, tests: int, freedom: float, correlation: float = CORRELATION) -> float:
    """The probability that chance alone makes the largest of ``tests`` absolute t values at least ``|t|``."""
    from scipy.special import ndtr

    if math.isinf(t):
        return 0.0
    scale, weight = _deviations(round(freedom, 6))
    correlation = min(max(correlation, 0.0), MOST)
    shared = np.linspace(-_FAR, _FAR, _POINTS + round(15 * math.sqrt(correlation / (1.0 - correlation))))
    density = np.exp(-(shared**2) / 2)
    density /= density.sum()
    own = math.sqrt(1.0 - correlation)
    middle = math.sqrt(correlation) * shared[:, None] / own
    reach = abs(t) * scale[None, :] / own
    outside = ndtr(-reach - middle) + ndtr(middle - reach)  # of one t value: (shared, deviation)
    with np.errstate(divide="ignore"):
        largest = -np.expm1(tests * np.log1p(-np.minimum(outside, 1.0)))
    return min(1.0, float(density @ largest @ weight))


@functools.lru_cache(4096)
def quantile(tests: int, freedom: float, correlation: float = CORRELATION, confidence: float = CONFIDENCE) -> float:
    """What the largest of ``tests`` absolute t values stays below with that confidence."""
    low, high = 0.0, 2.0
    while adjusted_p(high, tests, freedom, correlation) > 1.0 - confidence:
        low, high = high, 2.0 * high
    return _crossing(lambda t: adjusted_p(t, tests, freedom, correlation) - (1.0 - confidence), low, high)


def power(gain: float, error: float, freedom: float, reach: float) -> float:
    """The probability that a difference is found which is ``gain``: that its t value is beyond ``reach``.

    Args:
        gain: the true difference.
        error: standard error of its estimate, in the same unit.
        freedom: degrees of freedom of that error.
        reach: the quantile that the t value must exceed.
    """
    from scipy.special import nctdtr

    return float(1.0 - nctdtr(freedom, gain / error, reach))


def least_gain(error: float, freedom: float, reach: float, wanted: float) -> float:
    """The smallest true difference that is found with a probability of ``wanted``; see ``power``."""
    high = error
    while power(high, error, freedom, reach) < wanted:
        high *= 2.0
    return _crossing(lambda gain: wanted - power(gain, error, freedom, reach), 0.0, high)


def smallest(correlations: Iterable[float]) -> float:
    """The smallest of some correlations, none below 0; of none that of equal designs."""
    return max(0.0, min(map(float, correlations), default=CORRELATION))


@functools.lru_cache(4096)
def _deviations(freedom: float) -> tuple[Numbers, Numbers]:
    """Values of an estimated deviation over the true one, evenly spaced in its logarithm, and their weights."""
    from scipy.special import chdtri

    ends = [math.log(float(chdtri(freedom, share)) / freedom) / 2 for share in (1.0 - 1e-12, 1e-13)]
    logs = np.linspace(ends[0], ends[1], _POINTS + round(60 / freedom))  # few degrees of freedom have a long tail
    density = freedom * logs - freedom * np.exp(2 * logs) / 2
    weight = np.exp(density - density.max())
    return np.exp(logs), weight / weight.sum()


def _crossing(falling: Callable[[float], float], low: float, high: float) -> float:
    """Where a function that falls from above 0 to below it is 0, to 40 halvings."""
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if falling(middle) > 0 else (low, middle)
    return (low + high) / 2
