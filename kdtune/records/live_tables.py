"""The tables of a launch, which grow by a trial at a time: each trial becomes Arrow once.

Files are still written whole, for a reader must never see half a table. So that a long study does not spend its time on
that, the time between two writings grows with what one costs.
"""

import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

import pyarrow as pa

from kdtune.records import energy_tables, rows
from kdtune.records.rows import Row
from kdtune.records.storage import Record, Storage
from kdtune.study.spec import TEACHER, StudySpec

EVERY = 10.0  # seconds between two writings, at least
SHARE = 20  # times as long as the last writing took, at least: all of them together take less than 5 % of a launch

Columns = frozenset[str]


class GrowingTable:
    """Rows of many trials in Arrow, added trial by trial, read in any order of the trials."""

    def __init__(self, convert: Callable[[Sequence[Row]], pa.Table], schema: Callable[[Iterable[Columns]], pa.Schema]):
        self._convert, self._schema = convert, schema
        self._table = convert([])
        self._places: dict[str, range] = {}  # trial -> its rows in the table; of a replaced one, the new
        self._columns: dict[str, Columns] = {}  # trial -> the names that its rows have
        self._names: dict[Columns, Columns] = {}  # one object for all trials of the same names
        self._new: dict[str, Sequence[Row]] = {}

    def put(self, trial_id: str, trial_rows: Sequence[Row]) -> None:
        """Adds a trial, or replaces its rows."""
        self._new[trial_id] = trial_rows
        names = frozenset().union(*trial_rows)
        self._columns[trial_id] = self._names.setdefault(names, names)

    def table(self, trial_ids: Iterable[str]) -> pa.Table:
        """The rows of these trials in this order, with the columns that they alone would have."""
        self._settle()
        wanted = list(trial_ids)
        schema = self._schema({self._columns[trial_id] for trial_id in wanted})
        order = [i for trial_id in wanted for i in self._places[trial_id]]
        found = self._table.select(schema.names)
        return found if order == list(range(found.num_rows)) else found.take(pa.array(order, pa.int64()))

    def _settle(self) -> None:
        """Converts what is new, and drops replaced rows once they are the greater part."""
        if self._new:
            first = self._table.num_rows
            added = self._convert([row for trial_rows in self._new.values() for row in trial_rows])
            for trial_id, trial_rows in self._new.items():
                self._places[trial_id] = range(first, first + len(trial_rows))
                first += len(trial_rows)
            self._table = pa.concat_tables([self._table, added], promote_options="default").combine_chunks()
            self._new = {}
        kept = [i for place in self._places.values() for i in place]
        if 2 * len(kept) < self._table.num_rows:
            self._table = self._table.take(pa.array(kept, pa.int64()))
            first = 0
            for trial_id, place in self._places.items():
                self._places[trial_id] = range(first, first + len(place))
                first += len(place)


class TableWriter:
    """Writes the tables of a study as its trials finish."""

    def __init__(self, storage: Storage, study: StudySpec) -> None:
        self._storage, self._study = storage, study
        self._rows: dict[str, Row] = {}
        self._teachers = rows.teacher_stages(study)
        self._trials = GrowingTable(rows.trials_table, rows.trials_schema)
        self._history = GrowingTable(rows.history_table, rows.history_schema)
        self._nodes: Sequence[Row] = ()
        self._written: dict[str, list[str]] | None = None  # the plan of the last writing; none: there is news since
        self._ended, self._took = time.monotonic(), 0.0

    def add(self, record: Record) -> None:
        """A journal as it is now; only finished trials are in tables."""
        row = record["row"]
        if row["stage"] in self._teachers:
            row = row | {"method": TEACHER}  # its terms are those of a student alone
        self._rows[row["trial_id"]] = row
        if row["status"] in rows.FINISHED:
            self._trials.put(row["trial_id"], [row])
            self._history.put(row["trial_id"], record["history"])
            self._written = None

    def used(self, nodes: Sequence[Row]) -> None:
        """What the nodes of all launches used until now, see ``rows.NODES``."""
        if nodes != self._nodes:
            self._nodes, self._written = nodes, None

    def due(self) -> bool:
        """Whether the last writing is long enough ago."""
        return time.monotonic() - self._ended >= max(EVERY, SHARE * self._took)

    def write(self, plan: Mapping[str, Sequence[str]]) -> float | None:
        """Writes all tables unless they are as last written; rows that the plan no longer holds are superseded.

        Returns the seconds that it took, or none if nothing has changed.
        """
        now = {stage: [id_ for id_ in ids if self._finished(id_)] for stage, ids in plan.items()}
        if now == self._written:
            return None
        began = time.monotonic()
        current = [id_ for ids in now.values() for id_ in ids]
        self._storage.write_tables(self._tables(now, current))
        old = self._without(current)
        if old or self._storage.folder.read("superseded.parquet") is not None:
            self._storage.write_tables({"superseded": self._trials.table(old)})
        self._written, self._ended = now, time.monotonic()
        self._took = self._ended - began
        return self._took

    def _tables(self, plan: Mapping[str, Sequence[str]], current: Collection[str]) -> dict[str, pa.Table]:
        stages = {stage: [self._rows[id_] for id_ in ids] for stage, ids in plan.items()}
        return {
            "trials": self._trials.table(current),
            "history": self._history.table(current),
            "optimal": rows.optimal_table(self._study, stages),
            "final": rows.final_table(self._study, stages.get("final", [])),
            "emissions": energy_tables.emissions_table(self._study, stages, self._nodes),
            "nodes": energy_tables.nodes_table(self._nodes),
        }

    def _without(self, current: Collection[str]) -> list[str]:
        planned = set(current)
        return [id_ for id_ in self._rows if id_ not in planned and self._finished(id_)]

    def _finished(self, trial_id: str) -> bool:
        return trial_id in self._rows and self._rows[trial_id]["status"] in rows.FINISHED
