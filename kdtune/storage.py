"""``<storage>/<study>/``: the journal of trials, which is the truth, and the Parquet tables made from it.

The journal holds one JSON file per trial, written by whoever holds the trial (its worker; the driver once the
scheduler stopped it), always whole. Tables are derived from it and can be written again at any time.
"""

import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
import yaml

from kdtune import rows
from kdtune.base import SegNet, UserError
from kdtune.files import Folder
from kdtune.rows import Row
from kdtune.spec import StudySpec
from kdtune.study_file import dump
from kdtune.weights import WeightsRecord, weights_bytes

TABLES = ("trials", "history", "optimal", "final", "emissions")
WEIGHTS = "student.safetensors"

Record = dict[str, Any]  # a trial's journal: row, history, state


@dataclass(frozen=True)
class Storage:
    """The folder of one study."""

    root: str  # URI of the storage
    study: str

    @property
    def folder(self) -> Folder:
        """``<storage>/<study>``."""
        return Folder(self.root) / self.study

    def check_writable(self) -> None:
        """Writes and removes a small file.

        Raises:
            UserError: it cannot be written.
        """
        try:
            self.folder.write(".writable", b"")
            self.folder.remove(".writable")
        except OSError as error:
            raise self.unusable(error) from error

    def unusable(self, error: OSError) -> UserError:
        """What a user reads when the storage refuses a write."""
        if isinstance(error, UserError):
            return error  # says it already
        return UserError(
            f"{self.folder.uri}: cannot write there: {error.strerror or error}; free some space, or give another "
            "folder with --storage or KDTUNE_STORAGE; nothing finished is lost"
        )

    # journal

    def record(self, trial_id: str) -> Record | None:
        """A trial's journal, or none if it never got to its first checkpoint."""
        content = (self.folder / "journal").read(f"{trial_id}.json")
        return json.loads(content) if content else None

    def records(self) -> dict[str, Record]:
        """All journals by trial id."""
        found = {}
        journal = self.folder / "journal"
        for name in journal.names():
            content = journal.read(name) if name.endswith(".json") else None
            if content:
                found[name.removesuffix(".json")] = json.loads(content)
        return found

    def write_record(self, record: Record) -> None:
        """Replaces a trial's journal."""
        name = f"{record['row']['trial_id']}.json"
        (self.folder / "journal").write(name, json.dumps(record, allow_nan=False).encode())

    # checkpoints

    def checkpoint_uri(self, trial_id: str) -> str:
        """The weights that a finished trial left."""
        return (self.folder / "checkpoints" / trial_id / WEIGHTS).uri

    def write_state(self, trial_id: str, step: int, state: Mapping[str, Any]) -> Record:
        """Saves what a trial needs to go on; returns how the journal refers to it."""
        buffer = io.BytesIO()
        torch.save(dict(state), buffer)
        content = buffer.getvalue()
        name = f"state-{step}.pt"
        (self.folder / "checkpoints" / trial_id).write(name, content)
        return {"file": name, "step": step, "sha256": hashlib.sha256(content).hexdigest()}

    def read_state(self, record: Record) -> dict[str, Any] | None:
        """The state that a journal refers to; none where it is missing or damaged (the trial then starts anew)."""
        state = record.get("state")
        if not state:
            return None
        content = (self.folder / "checkpoints" / record["row"]["trial_id"]).read(state["file"])
        if content is None or hashlib.sha256(content).hexdigest() != state["sha256"]:
            return None
        found: dict[str, Any] = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        return found

    def remove_states(self, trial_id: str, keep: str | None = None) -> None:
        """Removes a trial's saved states but ``keep``."""
        folder = self.folder / "checkpoints" / trial_id
        for name in folder.names():
            if name.startswith("state-") and name != keep:
                folder.remove(name)

    def write_weights(self, trial_id: str, network: SegNet, record: WeightsRecord | None = None) -> None:
        """The trained student as safetensors, with the record of what it is."""
        (self.folder / "checkpoints" / trial_id).write(WEIGHTS, weights_bytes(network, record))

    # study and plan

    def write_study(self, study: StudySpec, versions: Mapping[str, str | None]) -> None:
        """``study.yaml``: the resolved study, with the versions that ran it."""
        text = dump(study) + yaml.safe_dump({"versions": dict(versions)})
        self.folder.write("study.yaml", text.encode())

    def read_study(self) -> dict[str, Any] | None:
        """The study of the last launch, without its versions."""
        content = self.folder.read("study.yaml")
        if content is None:
            return None
        data: dict[str, Any] = yaml.safe_load(content)
        data.pop("versions", None)
        return data

    def plan(self) -> dict[str, list[str]]:
        """Stage -> the ids of its trials in the order of the plan, as far as stages have been planned."""
        content = self.folder.read("plan.json")
        found: dict[str, list[str]] = json.loads(content) if content else {}
        return found

    def write_plan(self, plan: Mapping[str, Sequence[str]]) -> None:
        """Replaces the plan."""
        self.folder.write("plan.json", json.dumps(plan).encode())

    # tables

    def write_tables(self, study: StudySpec, plan: Mapping[str, Sequence[str]], records: Mapping[str, Record]) -> None:
        """All tables from the journals of finished trials; rows that the plan no longer holds are superseded."""
        finished = {id_: r for id_, r in records.items() if r["row"]["status"] in rows.FINISHED}
        stages = {s: [finished[id_]["row"] for id_ in ids if id_ in finished] for s, ids in plan.items()}
        current = [row for trials in stages.values() for row in trials]
        planned = {row["trial_id"] for row in current}
        old = [record["row"] for id_, record in finished.items() if id_ not in planned]
        history = [entry for row in current for entry in finished[row["trial_id"]]["history"]]
        self._write("trials", rows.trials_table(current))
        self._write("history", rows.history_table(history))
        self._write("optimal", rows.optimal_table(study, stages))
        self._write("final", rows.final_table(study, stages.get("final", [])))
        self._write("emissions", rows.EMISSIONS.empty_table())
        if old or self.folder.read("superseded.parquet") is not None:
            self._write("superseded", rows.trials_table(old))

    def _write(self, name: str, table: pa.Table) -> None:
        buffer = io.BytesIO()
        pq.write_table(table, buffer)
        self.folder.write(f"{name}.parquet", buffer.getvalue())

    def table(self, name: str) -> pa.Table:
        """A table as it was last written.

        Raises:
            UserError: the study has not been launched with this storage.
        """
        content = self.folder.read(f"{name}.parquet")
        if content is None:
            raise UserError(
                f"{self.folder.uri}: no results of study '{self.study}' there; "
                f"run `kdtune launch {self.study}` first, or name its storage with --storage"
            )
        return pq.read_table(pa.BufferReader(content))


def new_row(study: str, stage: str, trial_id: str, start: str, facts: Row) -> Row:
    """The row of a trial that has not run yet."""
    empty = dict.fromkeys(rows.trials_schema().names)
    return empty | {"study": study, "stage": stage, "trial_id": trial_id, "start": start, "status": "running"} | facts
