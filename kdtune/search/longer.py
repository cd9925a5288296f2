"""The student that is trained as long as the dearest method of its stage (``longer``), once all others have ended.

How many steps that is follows from the rows of the others, at each launch anew. It stands in the trials' configuration.
"""

import statistics
from collections import Counter
from collections.abc import Mapping, Sequence

from kdtune.records.journal_files import Record
from kdtune.records.rows import FINISHED, Row
from kdtune.search.stage_context import Point, StageContext
from kdtune.study.names import LONGER
from kdtune.study.stage import Stage


def longer(context: StageContext, planned: Mapping[str, Point], records: Mapping[str, Record]) -> dict[str, Point]:
    """Id -> point, one for each seed; none until all ``planned`` trials of the stage have ended.

    Seeds that were added later change no number of steps: only the stage's own are looked at.
    """
    stage = context.stage
    assert stage.longer is not None
    own_seeds = stage.seeds[: len(stage.seeds) - stage.added_seeds]
    looked_at = {id_: point for id_, point in planned.items() if point["seed"] in own_seeds}
    rows = {id_: records[id_]["row"] for id_ in looked_at if id_ in records}
    if len(rows) < len(looked_at) or any(row["status"] not in FINISHED for row in rows.values()):
        return {}
    alone = [context.planned({"start": stage.longer, "seed": seed}) for seed in stage.seeds]
    ids = {trial.trial_id for trial in alone}
    student = [row for id_, row in rows.items() if id_ in ids]
    recipe = alone[0].config.recipe
    steps = length(student, [row for id_, row in rows.items() if id_ not in ids], recipe.num_steps)
    points = [_point(context, steps, seed) for seed in stage.seeds]
    return {context.planned(point).trial_id: point for point in points}


def so_far(context: StageContext, past: Mapping[str, Record]) -> dict[str, Point]:
    """Those of an earlier launch, if they are of the student as it is chosen now: they stay until more is known."""
    rows = [record["row"] for record in past.values() if record["row"]["method"] == LONGER]
    points = [_point(context, row["steps_total"], row["seed"]) for row in rows]
    found = {context.planned(point).trial_id: point for point in points}
    return {id_: point for id_, point in found.items() if id_ in past}


def _point(context: StageContext, steps: int, seed: int) -> Point:
    start = context.stage.longer
    assert start is not None
    budget = context.planned({"start": start, "seed": seed}).config.recipe.budget
    without = {"recipe.budget": None} if budget else {}
    return {"start": start, "variant": LONGER, "recipe.num_steps": steps, **without, "seed": seed}


def length(student: Sequence[Row], others: Sequence[Row], least: int) -> int:
    """As many steps of the student as take the seconds of the dearest of the other methods, all on one device.

    The device is that of most of the student's trials. At least as many as the student had: ``least``, where nothing of
    it, or of the others on that device, was measured.
    """
    own = [row for row in student if _measured(row)]
    if not own:
        return least
    (device, _), *_ = Counter(row["device"] for row in own).most_common()
    own = [row for row in own if row["device"] == device]
    seconds: dict[tuple[str, str], list[float]] = {}
    for row in others:
        if _measured(row) and row["device"] == device:
            seconds.setdefault((row["start"], row["config_id"]), []).append(row["train_seconds"])
    dearest = max(map(statistics.fmean, seconds.values()), default=0.0)
    each = statistics.fmean(row["train_seconds"] / row["step"] for row in own)
    return max(int(dearest / each), *(int(row["step"]) for row in own))


def _measured(row: Row) -> bool:
    return bool(row["status"] == "completed" and row["step"] and row["train_seconds"])


def told(stage: Stage, points: Mapping[str, Point]) -> str:
    """What these are, in a line."""
    steps = next(iter(points.values()))["recipe.num_steps"]
    return (
        f"{stage.name}: all others have ended, so {stage.longer} is trained once more, for {steps:,} steps, which take "
        "as long as the dearest of them"
    )
