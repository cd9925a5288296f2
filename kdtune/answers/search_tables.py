"""What was searched: the tables ``grid``, ``temperature`` and ``weights``, planned cells without a trial among them."""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import pyarrow as pa

from kdtune.answers.columns import loss_columns, rounded, typed
from kdtune.answers.planned_grid import PlannedStage, PlannedStudy
from kdtune.answers.ranking import Row, configurations, ranked
from kdtune.records.further import COLUMN, further_columns, told, varied
from kdtune.records.schemas import is_parameter

STAGES = ("teacher", "student", "distill", "temperature", "weight-pi", "weight-pa", "weight-ho", "weight-ifv")


def trial_rows(trials: pa.Table, further: Collection[str] = ()) -> list[Row]:
    """What the tables need of the trials: times, texts and lists would take most of the time to convert.

    ``further``: columns of parameters, those of them that there are.
    """
    wanted = ("stage", "start", "config_id", "method", "init", "seed", "status", "miou", "step", "steps_total")
    columns = [*wanted, "lr", "weight_decay", "temperature", *loss_columns(trials)]
    columns += [name for name in trials.column_names if name in further]
    rows: list[Row] = trials.select(columns).to_pylist()
    return rows


def place_in(value: str, order: Sequence[str]) -> int:
    """Where a value stands in an order; behind it if it is none of it."""
    return order.index(value) if value in order else len(order)


def _sweeps(
    data: pa.Table, columns: Sequence[str], by_name: Callable[[str], bool], plan: PlannedStudy, *, others: bool = False
) -> list[list[Row]]:
    """The configurations of every stage that sweeps one of the columns, ranked, one list per stage.

    Each has in words what else its stage varied, see ``further``. ``others``: a stage that varied only such
    parameters is one, too.

    A stage sweeps where its name says so (it may have one trial yet), or where a column has two values for
    the same start: between two starts (in ``final``, say) hyperparameters differ without being swept. Planned
    cells without a trial are among them, once any such stage has one.
    """
    values: dict[tuple[str, str], set[tuple[Any, ...]]] = {}
    by_stage: dict[str, list[Row]] = {}
    differing = further_columns(data)
    trials = trial_rows(data, {*differing, *(name for stage in plan.stages.values() for name in stage.further)})
    further = {stage: names for (_, stage), names in varied(trials, differing).items()}
    for trial in trials:
        by_stage.setdefault(trial["stage"], []).append(trial)
        values.setdefault((trial["stage"], trial["start"]), set()).add(tuple(trial[name] for name in columns))
    swept = {stage for (stage, _), points in values.items() if len(points) > 1} - {"teacher"}
    swept |= {*further} - {"teacher"} if others else set()
    found = [stage for stage in by_stage if by_name(stage) or stage in swept]
    ahead = [name for name, stage in plan.stages.items() if _plans(stage, columns, others=others)] if found else []
    stages = sorted(dict.fromkeys([*found, *ahead]), key=lambda stage: place_in(stage, STAGES))
    rows = {stage: configurations(by_stage.get(stage, []), planned_seeds(plan, stage)) for stage in stages}
    every = [ranked([*rows[s], *_missing(rows[s], plan.stages.get(s), columns, data.column_names)]) for s in stages]
    return [
        [row | {COLUMN: told(row, _differing(stage, further, plan))} for row in each]
        for stage, each in zip(stages, every, strict=True)
    ]


def _plans(stage: PlannedStage, columns: Sequence[str], *, others: bool) -> bool:
    """Whether a stage sweeps one of the columns; ``others``: or a further parameter."""
    return bool(stage.cells(columns) or (others and stage.cells(stage.further)))


def _differing(stage: str, further: Mapping[str, Sequence[str]], plan: PlannedStudy) -> list[str]:
    """The further parameters that a stage varied, or is to vary."""
    ahead = plan.stages[stage].further if stage in plan.stages else ()
    return list(dict.fromkeys([*further.get(stage, ()), *ahead]))


def planned_seeds(plan: PlannedStudy, stage: str) -> Collection[int]:
    """The seeds that a stage is to run."""
    # a given teacher is evaluated by a trial of the launch's own, in the place of the stage that would train it
    return plan.stages[stage].seeds if stage in plan.stages and stage != "teacher" else ()


def _missing(
    rows: Sequence[Row], stage: PlannedStage | None, columns: Sequence[str], names: Sequence[str]
) -> list[Row]:
    """Lines of the planned cells that none of these configurations fills; the table's other ``names`` are null.

    A column that the stage does not sweep has the value that it has in all of the configurations.
    """
    cells = stage.cells([*columns, *stage.further]) if stage is not None else []
    if stage is None or not cells:
        return []
    # trials from before a text had a column do not tell which of its values they have
    swept = [name for name in cells[0] if not rows or any(row.get(name) is not None for row in rows)]
    there = {tuple(rounded(row[name]) for name in swept) for row in rows}
    empty: Row = dict.fromkeys(names) | {"miou_mean": None, "miou_std": None, "seeds": 0, "stage": stage.name}
    for name in columns:
        held = {row[name] for row in rows}
        empty[name] = held.pop() if len(held) == 1 else None if rows else stage.fixed.get(name)
    return [empty | cell for cell in cells if tuple(rounded(cell[name]) for name in swept) not in there]


def _sorted(rows: list[Row], columns: Sequence[str], *, reverse: bool = False) -> list[Row]:
    return sorted(
        rows, key=lambda row: [(row[name] is not None, row[name] or 0.0) for name in columns], reverse=reverse
    )


def grid(trials: pa.Table, plan: PlannedStudy) -> pa.Table:
    """A line per learning rate and weight decay of each stage that sweeps them; see ``tables.table``."""
    axes = ["weight_decay", "lr"]
    stages = _sweeps(trials, axes, {"student", "distill"}.__contains__, plan)
    rows = [row for stage in stages for row in _sorted(stage, axes, reverse=True)]  # the paper's order: falling
    return typed(
        rows, ["stage", "lr", "weight_decay", *_in_words(rows), "miou", "status", "step", "steps_total", "best"]
    )


def temperature(trials: pa.Table, plan: PlannedStudy) -> pa.Table:
    """A line per temperature of each stage that sweeps it, its scores over the seeds, or what a single run reached."""
    stages = _sweeps(trials, ["temperature"], "temperature".__eq__, plan)
    rows = [row for stage in stages for row in _sorted(stage, ["temperature"])]
    scores = ["miou_mean", "miou_std", "seeds", "best", "within_one_std", "status", "miou", "step", "steps_total"]
    return typed(rows, ["stage", "temperature", *_in_words(rows), *scores])


def weights(trials: pa.Table, plan: PlannedStudy) -> pa.Table:
    """A line per loss weight, or further parameter of a term, of each stage that sweeps some."""
    lambdas = loss_columns(trials)
    stages = _sweeps(trials, lambdas, lambda stage: stage.startswith("weight-"), plan, others=True)
    rows = [row for stage in stages for row in _sorted(stage, lambdas)]
    scores = ["miou", "miou_std", "seeds", "status", "step", "steps_total", "best"]
    return typed(rows, ["stage", "method", *lambdas, *_in_words(rows), *scores])


def fills(table: str, stage: PlannedStage) -> bool:
    """Whether a stage may come to lines of one of these tables."""
    if table == "grid":
        return stage.drawn or stage.name in ("student", "distill") or not {"lr", "weight_decay"}.isdisjoint(stage.axes)
    if table == "temperature":
        return stage.drawn or stage.name == "temperature" or "temperature" in stage.axes
    weighed = any(name.startswith("lambda_") or is_parameter(name) for name in stage.axes)
    return stage.drawn or stage.name.startswith("weight-") or weighed


def _in_words(rows: Sequence[Row]) -> list[str]:
    """The column of further parameters, where a stage varied some."""
    return [COLUMN] if any(row[COLUMN] is not None for row in rows) else []


def swept_losses(stage: str, rows: Sequence[Row], lambdas: Sequence[str]) -> list[str]:
    """The ``lambda_<loss>`` columns that a stage sweeps: the one it is named after, else those that vary."""
    own = "lambda_" + stage.removeprefix("weight-").replace("-", "_")
    varied = [name for name in lambdas if len({row[name] for row in rows}) > 1]
    return [own] if own in lambdas else varied or [name for name in lambdas if rows[0][name] is not None][-1:]
