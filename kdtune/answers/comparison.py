"""Measured beside published, column by column."""

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from kdtune.answers.columns import loss_columns, refuse, rounded, typed
from kdtune.answers.ranking import Row
from kdtune.answers.search_tables import swept_losses

# what identifies a line, and what is set beside the paper's
_COMPARED: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "optimal": (("stage",), ("lr", "weight_decay", "temperature", "miou", "miou_std")),
    "grid": (("stage", "lr", "weight_decay"), ("miou",)),
    "temperature": (("temperature",), ("miou_mean", "miou_std", "seeds")),
    "weights": (("stage", "loss", "weight"), ("miou",)),
    "final": (("method",), ("miou_mean", "miou_std", "seeds")),
    "initialization": (("init", "method"), ("miou_mean", "miou_std", "seeds")),
    "emissions": (("model", "phase"), ("miou", "energy_kwh", "co2_kg")),
}

_MEASURED = {
    "miou",
    "miou_mean",
    "energy_kwh",
    "co2_kg",
}  # the rest is set side by side, without a difference


def compare(name: str, measured: pa.Table, published: pa.Table) -> pa.Table:
    """Measured beside published: ``<column>``, ``<column>_published``, ``<column>_difference``.

    The difference is measured minus published. Lines in the paper's order, then those that only the
    measurement has; a line that one side lacks is null there. A trial that did not complete has none.

    Raises:
        UserError: a table that is never published.
    """
    if name not in _COMPARED:
        refuse(f"table '{name}' has nothing published to compare with; there are: {', '.join(_COMPARED)}")
    keys, values = _COMPARED[name]
    if name == "optimal":
        lambdas = [*loss_columns(published), *loss_columns(measured)]
        values = (*values[:3], *dict.fromkeys(lambdas), *values[3:])
    status = [column for column in ("status", "step", "steps_total") if column in measured.column_names]
    ours, paper = _keyed(name, keys, measured), _keyed(name, keys, published)
    pairs = [(row, theirs) for key, rows in paper.items() for theirs in rows for row in ours.get(key, [{}])]
    pairs += [(row, {}) for key, rows in ours.items() if key not in paper for row in rows]
    rows = [_beside(row, theirs, keys, values) for row, theirs in pairs]
    shown = [f"{value}{suffix}" for value in values for suffix in _suffixes(value)]
    return typed(rows, [*keys, *shown, *status])


def _keyed(name: str, keys: Sequence[str], data: pa.Table) -> dict[tuple[Any, ...], list[Row]]:
    rows: list[Row] = data.to_pylist()
    if name == "weights":
        lambdas, stages = loss_columns(data), dict.fromkeys(row["stage"] for row in rows)
        swept = {s: swept_losses(s, [row for row in rows if row["stage"] == s], lambdas) for s in stages}
        rows = [
            row | {"loss": column.removeprefix("lambda_"), "weight": row[column]}
            for row in rows
            for column in swept[row["stage"]]
        ]
    keyed: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        key = tuple(rounded(row[key]) for key in keys)
        keyed.setdefault(key, []).append(row)
    return keyed


def _suffixes(value: str) -> tuple[str, ...]:
    return ("", "_published", "_difference") if value in _MEASURED else ("", "_published")


def _beside(ours: Row, paper: Row, keys: Sequence[str], values: Sequence[str]) -> Row:
    row = {key: (paper or ours)[key] for key in keys}
    row |= {name: ours.get(name) for name in ("status", "step", "steps_total")}
    for value in values:
        mine, theirs = ours.get(value), paper.get(value)
        row |= {value: mine, f"{value}_published": theirs}
        if mine is not None and theirs is not None and ours.get("status") in (None, "completed"):
            row[f"{value}_difference"] = mine - theirs
    return row
