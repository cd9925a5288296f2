"""Whether the best of a search lies at the border of its grid: then a better one may lie beyond."""

import math
from collections.abc import Mapping, Sequence

from kdtune.answers.cells import loss_symbol, scientific
from kdtune.answers.columns import rounded
from kdtune.answers.planned_grid import Value
from kdtune.answers.ranking import Row

_NAMES = {"lr": "learning rate", "weight_decay": "weight decay", "temperature": "temperature"}


def border(row: Row, axes: Mapping[str, Sequence[Value]]) -> str | None:
    """What of a stage's best lies at the border of its axes (column -> values), with the value to add; none if nothing.

    An axis of one value is none, and so is one of words.
    """
    told = [words for name, values in axes.items() if (words := _of_axis(name, row.get(name), values))]
    return "; ".join(told) or None


def _of_axis(name: str, best: Value, values: Sequence[Value]) -> str | None:
    tried = sorted({rounded(float(value)) for value in values if isinstance(value, int | float)})
    if not isinstance(best, int | float) or len(tried) < 2 or rounded(float(best)) not in (tried[0], tried[-1]):
        return None
    highest = rounded(float(best)) == tried[-1]
    beyond = _next(*tried[-2:]) if highest else _next(tried[1], tried[0])
    if beyond is None:
        return None
    called = _NAMES.get(name, f"weight of {loss_symbol(name)}")
    side = "highest" if highest else "lowest"
    return f"{called} {scientific(best)} is the {side} tried: add {scientific(float(f'{beyond:.2g}'))}"


def _next(inner: float, outer: float) -> float | None:
    """As far beyond the outer value as that is from the inner one; none below 0."""
    found = outer * outer / inner if min(inner, outer) > 0 else 2 * outer - inner
    return found if found > 0 and math.isfinite(found) else None
