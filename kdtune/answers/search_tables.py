"""What was searched: the tables ``grid``, ``temperature`` and ``weights``, planned cells without a trial among them."""

from collections.abc import Callable, Collection, Sequence
from typing import Any

import pyarrow as pa

from kdtune.answers.columns import loss_columns, rounded, typed
from kdtune.answers.planned_grid import PlannedStage, PlannedStudy
from kdtune.answers.ranking import Row, configurations, ranked

STAGES = ("teacher", "student", "distill", "temperature", "weight-pi", "weight-pa", "weight-ho", "weight-ifv")


def trial_rows(trials: pa.Table) -> list[Row]:
    """What the tables need of the trials: times, texts and lists would take most of the time to convert."""
    wanted = ("stage", "start", "config_id", "method", "init", "seed", "status", "miou", "step", "steps_total")
    columns = [*wanted, "lr", "weight_decay", "temperature", *loss_columns(trials)]
    rows: list[Row] = trials.select(columns).to_pylist()
    return rows


def place_in(value: str, order: Sequence[str]) -> int:
    """Where a value stands in an order; behind it if it is none of it."""
    return order.index(value) if value in order else len(order)


def _sweeps(
    data: pa.Table, columns: Sequence[str], by_name: Callable[[str], bool], plan: PlannedStudy
) -> list[list[Row]]:
    """The configurations of every stage that sweeps one of the columns, ranked, one list per stage.

    A stage sweeps where its name says so (it may have one trial yet), or where a column has two values for
    the same start: between two starts (in ``final``, say) hyperparameters differ without being swept. Planned
    cells without a trial are among them, once any such stage has one.
    """
    values: dict[tuple[str, str], set[tuple[Any, ...]]] = {}
    by_stage: dict[str, list[Row]] = {}
    for trial in trial_rows(data):
        by_stage.setdefault(trial["stage"], []).append(trial)
        values.setdefault((trial["stage"], trial["start"]), set()).add(tuple(trial[name] for name in columns))
    swept = {stage for (stage, _), points in values.items() if len(points) > 1} - {"teacher"}
    found = [stage for stage in by_stage if by_name(stage) or stage in swept]
    ahead = [stage for stage in plan.stages if plan.stages[stage].cells(columns)] if found else []
    stages = sorted(dict.fromkeys([*found, *ahead]), key=lambda stage: place_in(stage, STAGES))
    rows = {stage: configurations(by_stage.get(stage, []), planned_seeds(plan, stage)) for stage in stages}
    return [ranked([*rows[s], *_missing(rows[s], plan.stages.get(s), columns, data.column_names)]) for s in stages]


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
    cells = stage.cells(columns) if stage is not None else []
    if stage is None or not cells:
        return []
    swept = list(cells[0])
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
    return typed(rows, ["stage", "lr", "weight_decay", "miou", "status", "step", "steps_total", "best"])


def temperature(trials: pa.Table, plan: PlannedStudy) -> pa.Table:
    """A line per temperature of each stage that sweeps it, its scores over the seeds, or what a single run reached."""
    stages = _sweeps(trials, ["temperature"], "temperature".__eq__, plan)
    rows = [row for stage in stages for row in _sorted(stage, ["temperature"])]
    scores = ["miou_mean", "miou_std", "seeds", "best", "within_one_std", "status", "miou", "step", "steps_total"]
    return typed(rows, ["stage", "temperature", *scores])


def weights(trials: pa.Table, plan: PlannedStudy) -> pa.Table:
    """A line per loss weight of each stage that sweeps some."""
    lambdas = loss_columns(trials)
    stages = _sweeps(trials, lambdas, lambda stage: stage.startswith("weight-"), plan)
    rows = [row for stage in stages for row in _sorted(stage, lambdas)]
    scores = ["miou", "miou_std", "seeds", "status", "step", "steps_total", "best"]
    return typed(rows, ["stage", "method", *lambdas, *scores])


def swept_losses(stage: str, rows: Sequence[Row], lambdas: Sequence[str]) -> list[str]:
    """The ``lambda_<loss>`` columns that a stage sweeps: the one it is named after, else those that vary."""
    own = "lambda_" + stage.removeprefix("weight-").replace("-", "_")
    varied = [name for name in lambdas if len({row[name] for row in rows}) > 1]
    return [own] if own in lambdas else varied or [name for name in lambdas if rows[0][name] is not None][-1:]
