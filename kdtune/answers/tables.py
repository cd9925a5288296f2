"""The tables of ``kdtune results`` as data: one row per line of a table, from the Parquet tables of a study.

mIoU is in percent everywhere. A trial that did not complete is never best and never enters a mean.
"""

import json
import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

import pyarrow as pa
from pyarrow import json as arrow_json

from kdtune.answers import search_cost, significance
from kdtune.answers.planned_grid import Design, StageDesign
from kdtune.answers.ranking import Row, configurations, ranked
from kdtune.errors import UserError

NAMES = ("optimal", "grid", "temperature", "weights", "final", "initialization", "emissions", "cost", "trials")
METHODS = ("student", "pi", "pi+pa", "pi+ho", "pi+ifv")
STAGES = ("teacher", "student", "distill", "temperature", "weight-pi", "weight-pa", "weight-ho", "weight-ifv")

REFERENCES = tuple(significance.REFERENCES)

_TEXT = {
    "study",
    "stage",
    "loss",
    "method",
    "init",
    "status",
    "model",
    "phase",
    "country",
    "dataset",
    "student",
    "part",
}
_TEXT |= {f"verdict_{reference}" for reference in REFERENCES}
_COUNTS = {"seeds", "step", "steps_total", "images", "trials", "trials_stopped", "steps", "steps_not_run"}
_FLAGS = {"best", "within_one_std", "measured", *(f"paired_{reference}" for reference in REFERENCES)}


@dataclass(frozen=True)
class Tables:
    """The stored tables of a study (or of several), each with every column that the storage promises."""

    trials: pa.Table
    history: pa.Table
    optimal: pa.Table
    final: pa.Table
    emissions: pa.Table
    designs: Mapping[str, Design] = field(default_factory=dict)  # study -> what it planned, where that is known
    nodes: pa.Table | None = None  # what each node of each launch used, where that is known

    @property
    def studies(self) -> list[str]:
        """The studies that have rows in any of the tables, or a design."""
        names = [
            n for data in (self.trials, self.optimal, self.final, self.emissions) for n in data["study"].to_pylist()
        ]
        return list(dict.fromkeys([*names, *self.designs]))


def refuse(message: str) -> NoReturn:
    """Raises UserError with that line."""
    raise UserError(message)


def typed(rows: Iterable[Row], columns: Sequence[str]) -> pa.Table:
    """Rows as a table of exactly these columns, typed by their names; what a row lacks, or no finite number, is null.

    They become Arrow by way of JSON, since every other way from Python's values to Arrow imports pandas where that is
    installed, in half a second.
    """
    schema = pa.schema([(name, column_type(name)) for name in columns])
    lines = [json.dumps({name: _finite(row.get(name)) for name in columns}) for row in rows]
    if not lines:
        return schema.empty_table()
    options = arrow_json.ParseOptions(explicit_schema=schema, unexpected_field_behavior="error")
    text = pa.BufferReader("\n".join(lines).encode())
    return arrow_json.read_json(text, parse_options=options).select(list(columns))


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


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

    A cell of a full grid that no trial has filled yet is a line without numbers and status.

    Args:
        name: one of ``NAMES``.
        tables: what the storage holds.
        study: rows of this study only; None takes all there are, each with its study, and but for ``trials`` with
            that study's dataset and student.

    Raises:
        UserError: an unknown table.
    """
    if name not in NAMES:
        refuse(f"unknown table '{name}'; there are: {', '.join(NAMES)}")
    if name == "trials":
        return _of(tables.trials, study)
    if study is None:
        parts = [named(_table(name, tables, each), each, tables.designs.get(each)) for each in tables.studies]
        return pa.concat_tables(parts or [named(_table(name, tables, ""), "")], promote_options="default")
    return _table(name, tables, study)


def _table(name: str, tables: Tables, study: str) -> pa.Table:
    plan = tables.designs.get(study, Design(study))
    if name == "final":
        return _final(_of(tables.final, study), _of(tables.trials, study), plan)
    if name == "cost":
        return _cost(_of(tables.trials, study), tables.nodes, study)
    if name in _COMPUTED:
        return _COMPUTED[name](_of(tables.trials, study), plan)
    return _of(getattr(tables, name), study)


def named(data: pa.Table, study: str, design: Design | None = None) -> pa.Table:
    """The table with ``study``, ``dataset`` and ``student`` in front, the last two null without a design."""
    design = design or Design(study)
    first = {"study": study, "dataset": design.dataset, "student": design.student}
    rest = [name for name in data.column_names if name not in first]
    front = typed([first] * data.num_rows, list(first))
    return pa.Table.from_arrays([*front.columns, *(data[name] for name in rest)], names=[*first, *rest])


def gain_columns(reference: str) -> list[str]:
    """The columns of ``final`` that tell of a method against a reference, the words last."""
    of = reference
    numbers = [f"gain_{of}", f"gain_{of}_low", f"gain_{of}_high", f"p_{of}", f"p_{of}_holm"]
    return [*numbers, f"paired_{of}", f"verdict_{of}"]


def loss_columns(data: pa.Table) -> list[str]:
    """The ``lambda_<loss>`` columns, in their order."""
    return [name for name in data.column_names if name.startswith("lambda_")]


def _of(data: pa.Table, study: str | None) -> pa.Table:
    studies = data["study"].to_pylist()
    if study is None or set(studies) <= {study}:
        return data
    return data.filter(pa.array([each == study for each in studies], pa.bool_()))


def _rows(trials: pa.Table) -> list[Row]:
    """What the tables need of the trials: times, texts and lists would take most of the time to convert."""
    wanted = ("stage", "start", "config_id", "method", "init", "seed", "status", "miou", "step", "steps_total")
    columns = [*wanted, "lr", "weight_decay", "temperature", *loss_columns(trials)]
    rows: list[Row] = trials.select(columns).to_pylist()
    return rows


def _place(value: str, order: Sequence[str]) -> int:
    return order.index(value) if value in order else len(order)


def _sweeps(data: pa.Table, columns: Sequence[str], by_name: Callable[[str], bool], plan: Design) -> list[list[Row]]:
    """The configurations of every stage that sweeps one of the columns, ranked, one list per stage.

    A stage sweeps where its name says so (it may have one trial yet), or where a column has two values for
    the same start: between two starts (in ``final``, say) hyperparameters differ without being swept. Planned
    cells without a trial are among them, once any such stage has one.
    """
    values: dict[tuple[str, str], set[tuple[Any, ...]]] = {}
    by_stage: dict[str, list[Row]] = {}
    for trial in _rows(data):
        by_stage.setdefault(trial["stage"], []).append(trial)
        values.setdefault((trial["stage"], trial["start"]), set()).add(tuple(trial[name] for name in columns))
    swept = {stage for (stage, _), points in values.items() if len(points) > 1} - {"teacher"}
    found = [stage for stage in by_stage if by_name(stage) or stage in swept]
    ahead = [stage for stage in plan.stages if plan.stages[stage].cells(columns)] if found else []
    stages = sorted(dict.fromkeys([*found, *ahead]), key=lambda stage: _place(stage, STAGES))
    rows = {stage: configurations(by_stage.get(stage, []), _planned_seeds(plan, stage)) for stage in stages}
    return [ranked([*rows[s], *_missing(rows[s], plan.stages.get(s), columns, data.column_names)]) for s in stages]


def _planned_seeds(plan: Design, stage: str) -> Collection[int]:
    # a given teacher is evaluated by a trial of the launch's own, in the place of the stage that would train it
    return plan.stages[stage].seeds if stage in plan.stages and stage != "teacher" else ()


def _missing(rows: Sequence[Row], stage: StageDesign | None, columns: Sequence[str], names: Sequence[str]) -> list[Row]:
    """Lines of the planned cells that none of these configurations fills; the table's other ``names`` are null.

    A column that the stage does not sweep has the value that it has in all of the configurations.
    """
    cells = stage.cells(columns) if stage is not None else []
    if stage is None or not cells:
        return []
    swept = list(cells[0])
    there = {tuple(_rounded(row[name]) for name in swept) for row in rows}
    empty: Row = dict.fromkeys(names) | {"miou_mean": None, "miou_std": None, "seeds": 0, "stage": stage.name}
    for name in columns:
        held = {row[name] for row in rows}
        empty[name] = held.pop() if len(held) == 1 else None if rows else stage.fixed.get(name)
    return [empty | cell for cell in cells if tuple(_rounded(cell[name]) for name in swept) not in there]


def _rounded(value: Any) -> Any:
    """A number to six digits, so that 5e-4 of a file is 5e-4 of a table; all else as it is."""
    return float(f"{value:.6g}") if isinstance(value, float) else value


def _sorted(rows: list[Row], columns: Sequence[str], *, reverse: bool = False) -> list[Row]:
    return sorted(
        rows, key=lambda row: [(row[name] is not None, row[name] or 0.0) for name in columns], reverse=reverse
    )


def _grid(trials: pa.Table, plan: Design) -> pa.Table:
    axes = ["weight_decay", "lr"]
    stages = _sweeps(trials, axes, {"student", "distill"}.__contains__, plan)
    rows = [row for stage in stages for row in _sorted(stage, axes, reverse=True)]  # the paper's order: falling
    return typed(rows, ["stage", "lr", "weight_decay", "miou", "status", "step", "steps_total", "best"])


def _temperature(trials: pa.Table, plan: Design) -> pa.Table:
    stages = _sweeps(trials, ["temperature"], "temperature".__eq__, plan)
    rows = [row for stage in stages for row in _sorted(stage, ["temperature"])]
    scores = ["miou_mean", "miou_std", "seeds", "best", "within_one_std", "status"]
    return typed(rows, ["stage", "temperature", *scores])


def _weights(trials: pa.Table, plan: Design) -> pa.Table:
    lambdas = loss_columns(trials)
    stages = _sweeps(trials, lambdas, lambda stage: stage.startswith("weight-"), plan)
    rows = [row for stage in stages for row in _sorted(stage, lambdas)]
    scores = ["miou", "miou_std", "seeds", "status", "step", "steps_total", "best"]
    return typed(rows, ["stage", "method", *lambdas, *scores])


def _final(final: pa.Table, trials: pa.Table, plan: Design) -> pa.Table:
    """``final.parquet``, the methods that have no mean (yet), and each method's gains; see ``significance``."""
    rows: list[Row] = [row | {"status": "completed"} for row in final.to_pylist()]
    by_stage: dict[str, list[Row]] = {}
    for trial in _rows(trials):
        by_stage.setdefault(trial["stage"], []).append(trial)
    begun = configurations(by_stage.get("final", []), _planned_seeds(plan, "final"))
    if rows or begun:
        ahead = _methods_ahead(plan, "final", trials)
        empty = {"study": plan.study, "seeds": 0, "best": False, "within_one_std": False}
        lacking = {method: empty | {"method": method, "status": None} for method in ahead}
        lacking |= {row["method"]: empty | {key: row[key] for key in ("method", "seeds", "status")} for row in begun}
        there = {row["method"] for row in rows}
        rows += [row for method, row in lacking.items() if method not in there]
    for gain in significance.gains(trials, len(_planned_seeds(plan, "final"))):
        values = (gain.difference, gain.low, gain.high, gain.p, gain.p_holm, gain.paired, gain.verdict)
        row = next(row for row in rows if row["method"] == gain.method)
        row.update(zip(gain_columns(gain.reference), values, strict=True))
    gains = [name for reference in REFERENCES for name in gain_columns(reference)]
    rows.sort(key=lambda row: _place(row["method"], METHODS))
    return typed(rows, [*final.column_names, "status", *gains])


def _methods_ahead(plan: Design, stage: str, trials: pa.Table) -> list[str]:
    """The methods that a stage starts from, as far as what it starts from has run."""
    starts = plan.stages[stage].starts if stage in plan.stages else ()
    pairs = zip(trials["stage"].to_pylist(), trials["method"].to_pylist(), strict=True)
    return list(dict.fromkeys(method for stage, method in pairs if stage in starts))


def _initialization(trials: pa.Table, plan: Design) -> pa.Table:
    """Random weights beside the same methods of ``final`` (other weights) and the teacher (init null)."""
    rows: dict[str, list[Row]] = {"teacher": [], "final": [], "initialization": []}
    for trial in _rows(trials):
        if trial["stage"] in rows:
            rows[trial["stage"]].append(trial)
    ablated, final = (configurations(rows[name], _planned_seeds(plan, name)) for name in ("initialization", "final"))
    methods, inits = {row["method"] for row in ablated}, {row["init"] for row in ablated}
    others = [row for row in final if row["method"] in methods and row["init"] not in inits]
    if len(inits) == 1:
        empty = dict.fromkeys(("miou_mean", "miou_std", "status")) | {"init": ablated[0]["init"], "seeds": 0}
        ahead = _methods_ahead(plan, "initialization", trials)
        ablated += [empty | {"method": method} for method in ahead if method not in methods]
    teachers = [row | {"init": None, "method": "teacher", "best": False} for row in configurations(rows["teacher"])]
    by_init: dict[str, list[Row]] = {}
    for row in [*ablated, *others]:
        by_init.setdefault(row["init"], []).append(row)
    students = [row for group in by_init.values() for row in ranked(group)]
    students.sort(key=lambda row: (row["init"] not in inits, _place(row["method"], METHODS)))
    columns = ["init", "method", "miou_mean", "miou_std", "seeds", "best", "status"]
    return typed([*teachers, *students] if ablated else [], columns)


def _cost(trials: pa.Table, nodes: pa.Table | None, study: str) -> pa.Table:
    """What the search took by stage, what was idle, and what early stopping spared; see ``kdtune.answers.search_cost``."""
    given = trials.select([name for name in search_cost.TRIAL if name in trials.column_names]).to_pylist()
    used = _of(nodes, study).to_pylist() if nodes is not None and nodes.num_rows else []
    measured = all(node["measured"] for node in used) if used else None
    rows = [
        row | {"measured": measured}
        for row in search_cost.bill([dict.fromkeys(search_cost.TRIAL) | row for row in given], used)
    ]
    numbers = ("train_seconds", "energy_kwh", "inference_kwh", "co2_kg", "kwh_not_used", "measured")
    return typed(rows, ["part", "stage", "trials", "trials_stopped", "steps", "steps_not_run", *numbers])


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
    status = [column for column in ("status", "step", "steps_total") if column in measured.column_names]
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
        key = tuple(_rounded(row[key]) for key in keys)
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
