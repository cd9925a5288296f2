"""What a page still shows of a large study: a sample of its curves, and of a long table the best lines."""

from collections.abc import Mapping, Sequence
from typing import TypeVar

import pyarrow as pa
import pyarrow.compute as pc

from kdtune.answers.ranking import Row

CURVES, OF_A_STAGE = 500, 40  # learning curves of a page, and how many of each stage it has room for in any case
POINTS = 1_000  # of a curve: more than a figure has pixels across
LINES = 1_000  # of a table
MARKERS = 2_000  # of a figure: more of them become an image
CELLS = 400  # of a heat map that are drawn one by one

T = TypeVar("T")


def evenly(items: Sequence[T], most: int) -> list[T]:
    """At most so many of the items, at equal distances, the first and the last among them."""
    if len(items) <= most:
        return list(items)
    return [items[i * (len(items) - 1) // (most - 1)] for i in range(most)]


def drawn_trials(stages: Mapping[str, Sequence[Row]]) -> dict[str, list[Row]]:
    """Of each stage the trials whose curves are drawn: all, unless the page would have more than ``CURVES``.

    Then a stage has its best, its median, and others at equal distances by mIoU, of each status its share.
    """
    if sum(map(len, stages.values())) <= CURVES:
        return {stage: list(rows) for stage, rows in stages.items()}
    most = max(OF_A_STAGE, CURVES // len(stages))
    return {stage: _sample(rows, most) for stage, rows in stages.items()}


def _sample(rows: Sequence[Row], most: int) -> list[Row]:
    if len(rows) <= most:
        return list(rows)
    by_status: dict[str, list[Row]] = {}
    for row in sorted(rows, key=lambda row: (row["miou"] is not None, row["miou"] or 0.0)):
        by_status.setdefault(row["status"], []).append(row)
    completed = by_status.get("completed", [])
    best = max((row for row in completed if row["miou"] is not None), key=lambda row: row["miou"], default=None)
    chosen = [[best] if best else [], completed[len(completed) // 2 :][:1]]
    chosen += [evenly(those, max(2, most * len(those) // len(rows))) for those in by_status.values()]
    kept = {row["trial_id"] for those in chosen for row in those}
    return [row for row in rows if row["trial_id"] in kept]


def best_lines(data: pa.Table) -> tuple[pa.Table, str]:
    """At most ``LINES`` lines of a table, those of the highest mIoU if it has that; and what the page says of it."""
    if data.num_rows <= LINES:
        return data, ""
    words = f"{LINES:,} of these {data.num_rows:,} lines are shown"
    by = next((name for name in ("miou", "miou_mean") if name in data.column_names), None)
    if by is None:
        return data.slice(0, LINES), f"The first {words}."
    order = pc.sort_indices(data, sort_keys=[(by, "descending")])[:LINES]  # nulls last
    kept = data.take(pa.array(sorted(order.to_pylist()), pa.int64()))
    return kept, f"The {words} that have the highest mIoU; kdtune results prints them all."
