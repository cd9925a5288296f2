"""The tables of ``kdtune results`` as data: one row per line of a table, from the Parquet tables of a study.

mIoU is in percent everywhere. A trial that did not complete is never best and never enters a mean.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import groupby

import pyarrow as pa
import pyarrow.compute as pc

from kdtune.answers import search_cost
from kdtune.answers.borders import border
from kdtune.answers.columns import refuse, typed
from kdtune.answers.final_tables import CountsOf, final_table, initialization
from kdtune.answers.planned_grid import PlannedStudy
from kdtune.answers.ranking import Row
from kdtune.answers.search_tables import grid, temperature, weights
from kdtune.answers.terms_table import terms_table
from kdtune.records.schemas import joined

NAMES = ("optimal", "grid", "temperature", "weights", "final", "terms", "initialization", "emissions", "cost", "trials")


@dataclass(frozen=True)
class Tables:
    """The stored tables of a study (or of several), each with every column that the storage promises."""

    trials: pa.Table
    history: pa.Table
    optimal: pa.Table
    final: pa.Table
    emissions: pa.Table
    planned: Mapping[str, PlannedStudy] = field(default_factory=dict)  # study -> what it planned, where that is known
    nodes: pa.Table | None = None  # what each node of each launch used, where that is known
    superseded: pa.Table | None = None  # trials that a changed study no longer has, where there are any
    counts_of: CountsOf | None = None  # reads what trials of a study left beside their weights

    @property
    def studies(self) -> list[str]:
        """The studies that have rows in any of the tables, or a plan."""
        names = [
            n for data in (self.trials, self.optimal, self.final, self.emissions) for n in data["study"].to_pylist()
        ]
        return list(dict.fromkeys([*names, *self.planned]))


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
        apart = _apart(tables)
        parts = [named(_table(name, apart[each], each), each, tables.planned.get(each)) for each in tables.studies]
        return joined(parts or [named(_table(name, tables, ""), "")])
    return _table(name, tables, study)


def _table(name: str, tables: Tables, study: str) -> pa.Table:
    plan = tables.planned.get(study, PlannedStudy(study))
    if name in ("final", "terms"):
        own = _of(tables.trials, study)
        counts_of = tables.counts_of if name == "final" else None
        final = final_table(_of(tables.final, study), own, plan, counts_of)
        return final if name == "final" else terms_table(final, own, plan)
    if name == "cost":
        return _cost(_of(tables.trials, study), tables, study)
    if name == "optimal":
        return _optimal(_of(tables.optimal, study), plan, _of(tables.trials, study))
    if name in _COMPUTED:
        return _COMPUTED[name](_of(tables.trials, study), plan)
    return _of(getattr(tables, name), study)


def named(data: pa.Table, study: str, plan: PlannedStudy | None = None) -> pa.Table:
    """The table with ``study``, ``dataset`` and ``student`` in front, the last two null without a plan."""
    plan = plan or PlannedStudy(study)
    first = {"study": study, "dataset": plan.dataset, "student": plan.student}
    rest = [name for name in data.column_names if name not in first]
    front = typed([first] * data.num_rows, list(first))
    return pa.Table.from_arrays([*front.columns, *(data[name] for name in rest)], names=[*first, *rest])


def _apart(tables: Tables) -> dict[str, Tables]:
    """The tables of each study by itself: every row is looked at once, however many studies there are."""
    names = ("trials", "history", "optimal", "final", "emissions", "nodes", "superseded")
    split = {name: _split(data) for name in names if (data := getattr(tables, name)) is not None}
    return {
        study: replace(tables, **{name: of.get(study, getattr(tables, name).slice(0, 0)) for name, of in split.items()})
        for study in tables.studies
    }


def _split(data: pa.Table) -> dict[str, pa.Table]:
    """The rows of each study."""
    parts: dict[str, list[pa.Table]] = {}
    first = 0
    for study, rows in groupby(data["study"].to_pylist() if "study" in data.column_names else []):
        length = len(list(rows))
        parts.setdefault(study, []).append(data.slice(first, length))
        first += length
    return {study: pa.concat_tables(slices) for study, slices in parts.items()}


def _of(data: pa.Table, study: str | None) -> pa.Table:
    studies = data["study"].to_pylist()
    if study is None or set(studies) <= {study}:
        return data
    return data.filter(pa.array([each == study for each in studies], pa.bool_()))


def _optimal(data: pa.Table, plan: PlannedStudy, trials: pa.Table) -> pa.Table:
    """``optimal.parquet``, and what of each best lies at the border of what was tried."""
    rows: list[Row] = data.to_pylist()
    axes = {name: stage.axes for name, stage in plan.stages.items()}
    for name, stage in plan.stages.items():
        if stage.extends and "stage" not in trials.column_names:
            axes[name] = {}  # over all studies trials are not read, and what was tried beyond the plan is not known
        elif stage.extends:
            own = trials.filter(pc.equal(trials["stage"], name))
            found = {axis: own[axis].drop_null().to_pylist() for axis in stage.axes if axis in own.column_names}
            axes[name] = {axis: (*values, *found.get(axis, ())) for axis, values in stage.axes.items()}
    borders = [{"border": border(row, axes.get(row["stage"], {}))} for row in rows]
    return data.append_column("border", typed(borders, ["border"])["border"])


def _cost(trials: pa.Table, tables: Tables, study: str) -> pa.Table:
    """What the search took by stage, what was idle, and what early stopping spared; see ``search_cost``."""
    given, gone = _billed(trials), _billed(_of(tables.superseded, study)) if tables.superseded is not None else []
    used = _of(tables.nodes, study).to_pylist() if tables.nodes is not None and tables.nodes.num_rows else []
    measured = all(node["measured"] for node in used) if used else None
    rows = [row | {"measured": measured} for row in search_cost.cost_rows(given, used, gone)]
    numbers = ("train_seconds", "energy_kwh", "inference_kwh", "co2_kg", "kwh_not_used", "measured")
    return typed(rows, ["part", "stage", "trials", "trials_stopped", "steps", "steps_not_run", *numbers])


def _billed(trials: pa.Table) -> list[Row]:
    rows = trials.select([name for name in search_cost.TRIAL if name in trials.column_names]).to_pylist()
    return [dict.fromkeys(search_cost.TRIAL) | row for row in rows]


_COMPUTED = {
    "grid": grid,
    "temperature": temperature,
    "weights": weights,
    "initialization": initialization,
}
