"""The trials that are settled: what the tables of the last launch hold of them is all that there is to know.

Their journals are kept, and not read again. A trial that has a higher attempt than its row tells of is not settled, and
neither is any whose table is not as it was written.
"""

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute

from kdtune.errors import UserError
from kdtune.records import remembered, rows
from kdtune.records.rows import Row
from kdtune.records.stored_study import TABLES, Digests, StoredStudy

TIMES = ("started_at", "finished_at")


@dataclass(frozen=True)
class Settled:
    """What tables say of trials that have ended."""

    rows: Mapping[str, Row] = field(default_factory=dict)  # of ``trials``, as a journal has them
    aside: Mapping[str, Row] = field(
        default_factory=dict
    )  # of ``superseded``; their histories are in the journal alone
    whole: bool = False  # whether every table is as it was written

    @property
    def plan(self) -> dict[str, list[str]]:
        """Stage -> its trials, in the order in which they were written."""
        found: dict[str, list[str]] = {}
        for id_, row in self.rows.items():
            found.setdefault(row["stage"], []).append(id_)
        return found

    def holds(self, trial_id: str, attempt: int) -> bool:
        """Whether this is the attempt that is settled."""
        row = self.rows.get(trial_id) or self.aside.get(trial_id)
        return row is not None and row.get("attempt") == attempt


def settled(where: StoredStudy) -> Settled:
    """The settled trials of a study; none where ``trials`` is missing or damaged, which is said."""
    try:
        known = where.digests()
        if "trials.parquet" not in known:
            return Settled()  # never launched, or by a version that noted no digest
        names = ("trials", "superseded")  # of each the digest is noted before it is written
        tables = [where.table_if_there(name, known) if f"{name}.parquet" in known else None for name in names]
        found, aside = ({} if table is None else _rows(table) for table in tables)
    except UserError as error:
        logging.getLogger("kdtune").warning("%s", error)
        return Settled()
    return Settled(found, aside, _whole(where, known))


def _whole(where: StoredStudy, known: Digests) -> bool:
    """Whether the other tables have their digests, too; one that was being written when all ended has not."""
    names = [f"{name}.parquet" for name in TABLES if name not in ("trials", "history")]
    contents = remembered.read_many(where.folder, names)
    found = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
    large = "history.parquet"  # a launch reads nothing else of it
    return len(found) == len(names) and all(
        digest == (known.get(name) or [""])[0] for name, digest in {**found, large: where.folder.sha256(large)}.items()
    )


def _rows(table: pa.Table) -> dict[str, Row]:
    """As a journal has them: seconds since 1970, and no hyperparameter that the trial has not."""
    own = set(rows.trials_schema().names)
    seconds = {name: pa.compute.divide(table[name].cast(pa.int64()), pa.scalar(1e6)) for name in TIMES}
    for name, column in seconds.items():
        table = table.set_column(table.schema.get_field_index(name), name, column)
    more = [name for name in table.column_names if name not in own]
    found: dict[str, Row] = {}
    for row in table.to_pylist():
        found[row["trial_id"]] = _without_null(row, more)
    return found


def _without_null(row: dict[str, Any], names: list[str]) -> Row:
    for name in names:
        if row[name] is None:
            del row[name]
    return row
