"""What a search varied beside rates, weights and L_PI's temperature: the further parameters of its terms, in words."""

from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import types

from kdtune.records.schemas import is_parameter

Row = dict[str, Any]

COLUMN = "parameters"  # of a table: what of them has two values in the line's stage, and which this line has


def further_columns(trials: pa.Table) -> list[str]:
    """The columns of these trials that hold such a parameter and have two values: numbers, words, or null."""
    return [name for name in trials.column_names if is_parameter(name) and _differs(trials[name])]


def _differs(column: pa.ChunkedArray) -> bool:
    values = pc.count_distinct(column).as_py()
    return bool(values > 1 or (values and column.null_count and not types.is_string(column.type)))


def varied(trials: Sequence[Row], names: Sequence[str]) -> dict[tuple[str | None, str], list[str]]:
    """Study and stage -> those of ``names`` that differ there between trials of one start and one method.

    Text that is missing is no value: null is written out, so it is of a trial from before the column was there.
    """
    values: dict[tuple[Any, ...], list[set[Any]]] = {}
    for trial in trials:
        key = (trial.get("study"), trial["stage"], trial["start"], trial["method"])
        for name, seen in zip(names, values.setdefault(key, [set() for _ in names]), strict=True):
            seen.add(trial.get(name))
    found: dict[tuple[str | None, str], list[str]] = {}
    for (study, stage, *_), each in values.items():
        differing = found.setdefault((study, stage), [])
        differing += [n for n, seen in zip(names, each, strict=True) if _several(seen) and n not in differing]
    return {key: those for key, those in found.items() if those}


def _several(values: set[Any]) -> bool:
    return len(values - {None} if any(isinstance(value, str) for value in values) else values) > 1


def told(row: Row, names: Sequence[str]) -> str | None:
    """``convention_ho=skd, pool_pa=0.25`` of a line; none where nothing is known of it."""
    words = [f"{name}={_word(row.get(name))}" for name in names]
    return ", ".join(words) if any(row.get(name) is not None for name in names) else None


def _word(value: Any) -> str:
    return "null" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
