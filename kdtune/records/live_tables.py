"""The tables of a launch, which grow by a trial at a time: each trial becomes Arrow once.

Files are still written whole, for a reader must never see half a table. So that a long study does not spend its time
and its storage's on that, the time between two writings grows with what one costs, and so does the number of trials.
"""

import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute

from kdtune.records import energy_tables, rows
from kdtune.records.journal_files import Record
from kdtune.records.rows import Row
from kdtune.records.schemas import joined
from kdtune.records.settled import Settled
from kdtune.records.storage import Storage
from kdtune.study.names import TEACHER
from kdtune.study.spec import StudySpec

EVERY = 10.0  # seconds between two writings, at least
SHARE = 20  # times as long as the last writing took, at least: all of them together take less than 5 % of a launch
PER_TRIAL = 90_000  # bytes written for each trial that has ended, at most: over 10,000 of them, one writing is 40 MB
AT_FIRST = 4_000_000  # bytes beyond that: a small study's tables are written at each of its trials

NOTHING = Settled()

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

    def load(self, stored: pa.Table) -> None:
        """Adds the trials of a table as it was written, but those that were put since."""
        first, fixed = self._table.num_rows, frozenset(self._schema([]).names)
        places = {id_: place for id_, place in _places(stored["trial_id"]).items() if id_ not in self._columns}
        self._places |= {id_: range(first + place.start, first + place.stop) for id_, place in places.items()}
        columns = dict.fromkeys(places, fixed)
        for name in [name for name in stored.column_names if name not in fixed]:
            has = stored["trial_id"].filter(stored[name].is_valid()).unique().to_pylist()
            columns |= {id_: columns[id_] | {name} for id_ in has if id_ in columns}
        self._columns |= {id_: self._names.setdefault(names, names) for id_, names in columns.items()}
        self._table = joined([self._table, stored]).combine_chunks()

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
            self._table = joined([self._table, added]).combine_chunks()
            self._new = {}
        kept = [i for place in self._places.values() for i in place]
        if 2 * len(kept) < self._table.num_rows:
            self._table = self._table.take(pa.array(kept, pa.int64()))
            first = 0
            for trial_id, place in self._places.items():
                self._places[trial_id] = range(first, first + len(place))
                first += len(place)


def _places(trial_ids: pa.ChunkedArray) -> dict[str, range]:
    """Trial -> its rows, which stand together."""
    coded = trial_ids.combine_chunks().dictionary_encode()
    codes, names = coded.indices.to_numpy(), coded.dictionary.to_pylist()
    starts = [0, *(np.flatnonzero(np.diff(codes)) + 1).tolist()] if len(codes) else []
    return {names[codes[a]]: range(a, b) for a, b in zip(starts, [*starts[1:], len(codes)], strict=True)}


class TableWriter:
    """Writes the tables of a study as its trials finish."""

    def __init__(self, storage: Storage, study: StudySpec, past: Settled = NOTHING, nodes: Sequence[Row] = ()) -> None:
        """``past``: settled trials; they are read as Arrow once there is something to write. ``nodes``: as of then."""
        self._storage, self._study = storage, study
        self._past = past
        self._rows: dict[str, Row] = {**past.aside, **past.rows}
        self._teachers = rows.teacher_stages(study)
        self._trials = GrowingTable(rows.trials_table, rows.trials_schema)
        self._history = GrowingTable(rows.history_table, rows.history_schema)
        self._nodes = nodes
        # the plan of the last writing; none: there is news since
        self._written: dict[str, list[str]] | None = past.plan if past.whole else None
        self._ended, self._took = time.monotonic(), 0.0
        self._news, self._bytes, self._size = 0, 0, 0  # trials that ended, bytes written, those of the last writing

    def add(self, record: Record) -> None:
        """A journal as it is now; only finished trials are in tables."""
        row = record["row"] | {"attempt": record["attempt"]}
        if row["stage"] in self._teachers:
            row = row | {"method": TEACHER}  # its terms are those of a student alone
        self._rows[row["trial_id"]] = row
        if row["status"] in rows.FINISHED:
            self._trials.put(row["trial_id"], [row])
            self._history.put(row["trial_id"], record["history"])
            self._written = None
            self._news += 1

    def forget(self, trial_id: str) -> None:
        """A superseded trial is wanted again: its row alone is not enough, its journal will be added."""
        self._rows.pop(trial_id, None)

    def used(self, nodes: Sequence[Row]) -> None:
        """What the nodes of all launches used until now, see ``rows.NODES``."""
        if nodes != self._nodes:
            self._nodes, self._written = nodes, None

    def due(self) -> bool:
        """Whether the last writing is long enough ago, and another one not too much for what is new."""
        fits = self._bytes + self._size <= AT_FIRST + PER_TRIAL * self._news
        return fits and time.monotonic() - self._ended >= max(EVERY, SHARE * self._took)

    def write(self, plan: Mapping[str, Sequence[str]]) -> float | None:
        """Writes all tables unless they are as last written; rows that the plan no longer holds are superseded.

        Returns the seconds that it took, or none if nothing has changed.
        """
        now = self._now(plan)
        if now == self._written:
            return None
        began = time.monotonic()
        self._load()
        current = [id_ for ids in now.values() for id_ in ids]
        tables = self._tables(now, current)
        old = self._without(current)
        if old or self._storage.folder.exists("superseded.parquet"):
            tables["superseded"] = self._trials.table(old)
        self._size = self._storage.write_tables(tables)
        self._bytes += self._size
        self._written, self._ended = now, time.monotonic()
        self._took = self._ended - began
        return self._took

    def _now(self, plan: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
        return {stage: ended for stage, ids in plan.items() if (ended := [id_ for id_ in ids if self._finished(id_)])}

    def _load(self) -> None:
        """The settled trials, as Arrow."""
        if self._past.rows:
            self._trials.load(self._storage.table("trials"))
            self._history.load(self._storage.table("history"))
        if self._past.aside:
            self._trials.load(self._storage.table("superseded"))
        self._past = NOTHING

    def history_of(self, trial_ids: Collection[str]) -> dict[str, list[Row]]:
        """Step and mIoU of the evaluations of settled trials."""
        table = self._storage.table("history").select(["trial_id", "step", "miou"])
        found: dict[str, list[Row]] = {id_: [] for id_ in trial_ids}
        wanted = table.filter(pa.compute.is_in(table["trial_id"], pa.array(trial_ids, pa.string())))
        for entry in wanted.to_pylist():
            found[entry["trial_id"]].append({"step": entry["step"], "miou": entry["miou"]})
        return found

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
        return sorted(id_ for id_ in self._rows if id_ not in planned and self._finished(id_))

    def _finished(self, trial_id: str) -> bool:
        return trial_id in self._rows and self._rows[trial_id]["status"] in rows.FINISHED
