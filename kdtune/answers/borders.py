"""Whether the best of a search lies at the border of its grid: then a better one may lie beyond."""

import math
from collections.abc import Mapping, Sequence

from kdtune.answers.cells import loss_symbol, parameter, parameter_words, scientific
from kdtune.answers.columns import rounded
from kdtune.answers.planned_grid import Value
from kdtune.answers.ranking import Row
from kdtune.losses.marks import term

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
    called = _NAMES.get(name) or parameter_words(name) or f"weight of {loss_symbol(name)}"
    told = f"{called} {scientific(best)} is the {'highest' if highest else 'lowest'} tried"
    further = float(f"{beyond:.2g}")
    return f"{told}: add {scientific(further)}" if _may_be(name, further) else told


def _may_be(column: str, value: float) -> bool:
    """Whether a term's parameter may have this value, as far as the term is known here."""
    found = parameter(column)
    kind = term(found[0]) if found else None
    if found is None or kind is None:
        return True
    try:
        kind.plain(**{found[1]: value})
    except ValueError:
        return False
    return True


def _next(inner: float, outer: float) -> float | None:
    """As far beyond the outer value as that is from the inner one; none below 0."""
    found = outer * outer / inner if min(inner, outer) > 0 else 2 * outer - inner
    return found if found > 0 and math.isfinite(found) else None
