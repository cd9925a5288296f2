"""The further trials of a stage with ``extend``: which there are follows from its rows, at each launch anew."""

from collections.abc import Mapping, Sequence

from kdtune.records.journal_files import Record
from kdtune.records.rows import FINISHED, Row, best_config
from kdtune.search.stage_context import Point, StageContext
from kdtune.study.stage import Stage
from kdtune.study.widening import Entry, beyond


def further(context: StageContext, records: Mapping[str, Record]) -> dict[str, Point]:
    """Id -> point, step by step: each is beyond the best of all before it, as far as these have ended.

    Where all have diverged, the lowest value counts as the best: a smaller weight, or rate, may not diverge.
    """
    stage = context.stage
    entries = stage.one_axis if stage.extend else []
    ids = {id_: entry for entry in entries for id_ in _trials(context, stage, entry)}
    found: dict[str, Point] = {}
    for _ in range(stage.extend):
        rows = [records[id_]["row"] for id_ in ids if id_ in records]
        if len(rows) < len(ids) or any(row["status"] not in FINISHED for row in rows):
            break
        border = _border(rows, entries, ids, len(stage.seeds))
        new = None if border is None else beyond(entries, border)
        if new is None:
            break
        entries = [*entries, new]
        points = _trials(context, stage, new)
        found |= points
        ids |= dict.fromkeys(points, new)
    return found


def _border(rows: Sequence[Row], entries: Sequence[Entry], ids: Mapping[str, Entry], seeds: int) -> Entry | None:
    best = best_config(rows, seeds)
    if best:
        return ids[best[0]["trial_id"]]
    if not entries or any(row["status"] != "diverged" for row in rows):
        return None
    path = next(iter(entries[0]))
    return min(entries, key=lambda entry: entry[path])


def told(stage: Stage, points: Mapping[str, Point], past: Mapping[str, Record]) -> str:
    """Why these are tried, in a line; ``past``: the stage's trials before them."""
    point = next(iter(points.values()))
    values = ", ".join(f"{path} {point[path]:g}" for path in stage.one_axis[0])
    diverged = all(record["row"]["status"] == "diverged" for record in past.values())
    why = "all of it has diverged" if diverged else "the best of it lies at the border of what was tried"
    return f"{stage.name}: {why}, so {values} is tried, too"


def _trials(context: StageContext, stage: Stage, entry: Entry) -> dict[str, Point]:
    points = points_at(stage, next(iter(context.starts)), entry)
    return {context.planned(point).trial_id: point for point in points}


def points_at(stage: Stage, start: str, entry: Entry) -> list[Point]:
    """Those at a value of its axis: one for each seed."""
    fixed = {path: values[0] for path, values in stage.grid.items()}
    return [{"start": start, **stage.live({**fixed, **entry}), "seed": seed} for seed in stage.seeds]
