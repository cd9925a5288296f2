"""The tables of ``kdtune results`` as data: one row per line of a table, from the Parquet tables of a study.

mIoU is in percent everywhere. A trial that did not complete is never best and never enters a mean.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import pyarrow as pa
import pyarrow.compute as pc

from kdtune.standings import Row, configurations, ranked

NAMES = ("optimal", "grid", "temperature", "weights", "final", "initialization", "emissions", "trials")
METHODS = ("student", "pi", "pi+pa", "pi+ho", "pi+ifv")
STAGES = ("teacher", "student", "distill", "temperature", "weight-pi", "weight-pa", "weight-ho", "weight-ifv")

_TEXT = {"study", "stage", "loss", "method", "init", "status", "model", "phase", "country"}
_COUNTS = {"seeds", "step", "steps_total", "images"}
_FLAGS = {"best", "within_one_std", "measured"}


@dataclass(frozen=True)
class Tables:
    """The stored tables of a study (or of several), each with every column that the storage promises."""

    trials: pa.Table
    history: pa.Table
    optimal: pa.Table
    final: pa.Table
    emissions: pa.Table
    nodes: pa.Table | None = None  # what each node of each launch used


def refuse(message: str) -> NoReturn:
    """Raises UserError with that line."""
    from kdtune.base import UserError  # here, because base imports torch, which takes seconds

    raise UserError(message)


def typed(rows: Iterable[Row], columns: Sequence[str]) -> pa.Table:
    """Rows as a table of exactly these columns, typed by their names; what a row lacks is null."""
    rows = list(rows)
    arrays = [pa.array([row.get(name) for row in rows], column_type(name)) for name in columns]
    return pa.Table.from_arrays(arrays, names=list(columns))


def column_type(name: str) -> pa.DataType:
    """Arrow type of a column of these tables; what is neither text, count nor flag is a 64-bit float."""
    name = name.removesuffix("_published").removesuffix("_difference")
    if name in _TEXT:
        return pa.string()
    if name in _COUNTS:
        return pa.int64()
    return pa.bool_() if name in _FLAGS else pa.float64()


def table(name: str, tables: Tables, study: str | None) -> pa.Table:
    """The data of one table of ``kdtune results``, one row per line.

    Args:
        name: one of ``NAMES``.
        tables: what the storage holds.
        study: rows of this study only; None takes all there are, which only stored tables can show.

    Raises:
        UserError: an unknown table, or all studies in a table that is of one study.
    """
    if name not in NAMES:
        refuse(f"unknown table '{name}'; there are: {', '.join(NAMES)}")
    if name == "final":
        return _in_order(_of(tables.final, study), "method", METHODS)
    if name not in _COMPUTED:
        return _of(getattr(tables, name), study)
    if study is None:
        refuse(f"table '{name}' is of one study; over all studies there are: optimal, final, emissions, trials")
    return _COMPUTED[name](_of(tables.trials, study))


def loss_columns(data: pa.Table) -> list[str]:
    """The ``lambda_<loss>`` columns, in their order."""
    return [name for name in data.column_names if name.startswith("lambda_")]


def _of(data: pa.Table, study: str | None) -> pa.Table:
    return data if study is None else data.filter(pc.equal(data["study"], study))


def _in_order(data: pa.Table, column: str, order: Sequence[str]) -> pa.Table:
    """Rows sorted by the place of a value in ``order``, unknown values last, otherwise as they were."""
    values = data[column].to_pylist()
    places = sorted(range(len(values)), key=lambda at: _place(values[at], order))
    return data.take(pa.array(places, pa.int64()))


def _place(value: str, order: Sequence[str]) -> int:
    return order.index(value) if value in order else len(order)


def _sweeps(data: pa.Table, columns: Sequence[str], named: Callable[[str], bool]) -> list[list[Row]]:
    """The configurations of every stage that sweeps one of the columns, ranked, one list per stage.

    A stage sweeps where its name says so (it may have one trial yet), or where a column has two values for
    the same start: between two starts (in ``final``, say) hyperparameters differ without being swept.
    """
    values: dict[tuple[str, str], set[tuple[Any, ...]]] = {}
    by_stage: dict[str, list[Row]] = {}
    for trial in data.to_pylist():
        by_stage.setdefault(trial["stage"], []).append(trial)
        values.setdefault((trial["stage"], trial["start"]), set()).add(tuple(trial[name] for name in columns))
    swept = {stage for (stage, _), points in values.items() if len(points) > 1} - {"teacher"}
    stages = [stage for stage in by_stage if named(stage) or stage in swept]
    stages.sort(key=lambda stage: _place(stage, STAGES))
    return [ranked(configurations(by_stage[stage])) for stage in stages]


def _sorted(rows: list[Row], columns: Sequence[str], *, reverse: bool = False) -> list[Row]:
    return sorted(
        rows, key=lambda row: [(row[name] is not None, row[name] or 0.0) for name in columns], reverse=reverse
    )


def _grid(trials: pa.Table) -> pa.Table:
    axes = ["weight_decay", "lr"]
    stages = _sweeps(trials, axes, {"student", "distill"}.__contains__)
    rows = [row for stage in stages for row in _sorted(stage, axes, reverse=True)]  # the paper's order: falling
    return typed(rows, ["stage", "lr", "weight_decay", "miou", "status", "step", "steps_total", "best"])


def _temperature(trials: pa.Table) -> pa.Table:
    stages = _sweeps(trials, ["temperature"], "temperature".__eq__)
    rows = [row for stage in stages for row in _sorted(stage, ["temperature"])]
    scores = ["miou_mean", "miou_std", "seeds", "best", "within_one_std", "status"]
    return typed(rows, ["stage", "temperature", *scores])


def _weights(trials: pa.Table) -> pa.Table:
    lambdas = loss_columns(trials)
    stages = _sweeps(trials, lambdas, lambda stage: stage.startswith("weight-"))
    rows = [row for stage in stages for row in _sorted(stage, lambdas)]
    scores = ["miou", "miou_std", "seeds", "status", "step", "steps_total", "best"]
    return typed(rows, ["stage", "method", *lambdas, *scores])


def _initialization(trials: pa.Table) -> pa.Table:
    """Random weights beside the same methods of ``final`` (other weights) and the teacher (init null)."""
    rows: dict[str, list[Row]] = {"teacher": [], "final": [], "initialization": []}
    for trial in trials.to_pylist():
        if trial["stage"] in rows:
            rows[trial["stage"]].append(trial)
    ablated = configurations(rows["initialization"])
    methods, inits = {row["method"] for row in ablated}, {row["init"] for row in ablated}
    others = [row for row in configurations(rows["final"]) if row["method"] in methods and row["init"] not in inits]
    teachers = [row | {"init": None, "method": "teacher", "best": False} for row in configurations(rows["teacher"])]
    by_init: dict[str, list[Row]] = {}
    for row in [*ablated, *others]:
        by_init.setdefault(row["init"], []).append(row)
    students = [row for group in by_init.values() for row in ranked(group)]
    students.sort(key=lambda row: (row["init"] not in inits, _place(row["method"], METHODS)))
    columns = ["init", "method", "miou_mean", "miou_std", "seeds", "best", "status"]
    return typed([*teachers, *students] if ablated else [], columns)


_COMPUTED = {
    "grid": _grid,
    "temperature": _temperature,
    "weights": _weights,
    "initialization": _initialization,
}

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
    status = ["status"] if "status" in measured.column_names else []
    ours, paper = _keyed(name, keys, measured), _keyed(name, keys, published)
    pairs = [(row, theirs) for key, rows in paper.items() for theirs in rows for row in ours.get(key, [{}])]
    pairs += [(row, {}) for key, rows in ours.items() if key not in paper for row in rows]
    rows = [_beside(row, theirs, keys, values) for row, theirs in pairs]
    shown = [f"{value}{suffix}" for value in values for suffix in _suffixes(value)]
    return typed(rows, [*keys, *shown, *status])


def swept_losses(stage: str, rows: Sequence[Row], lambdas: Sequence[str]) -> list[str]:
    """The ``lambda_<loss>`` columns that a stage sweeps: the one it is named after, else those that vary."""
    own = "lambda_" + stage.removeprefix("weight-").replace("-", "_")
    varied = [name for name in lambdas if len({row[name] for row in rows}) > 1]
    return [own] if own in lambdas else varied or [name for name in lambdas if rows[0][name] is not None][-1:]


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
        key = tuple(float(f"{row[key]:.6g}") if isinstance(row[key], float) else row[key] for key in keys)
        keyed.setdefault(key, []).append(row)
    return keyed


def _suffixes(value: str) -> tuple[str, ...]:
    return ("", "_published", "_difference") if value in _MEASURED else ("", "_published")


def _beside(ours: Row, paper: Row, keys: Sequence[str], values: Sequence[str]) -> Row:
    row = {key: (paper or ours)[key] for key in keys} | {"status": ours.get("status")}
    for value in values:
        mine, theirs = ours.get(value), paper.get(value)
        row |= {value: mine, f"{value}_published": theirs}
        if mine is not None and theirs is not None and ours.get("status") in (None, "completed"):
            row[f"{value}_difference"] = mine - theirs
    return row
