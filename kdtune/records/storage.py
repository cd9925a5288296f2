"""``<storage>/<study>/``: the journal of trials, which is the truth, and the Parquet tables made from it.

The journal holds one JSON file per attempt at a trial, written by whoever holds the trial (its worker; the driver once
the scheduler stopped it), always whole. The highest attempt is the trial's record: a process that everyone believes
dead and that still writes, writes to a file that nobody reads any more. Tables are derived from the journal and can be
written again at any time.
"""

import hashlib
import io
import json
import logging
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
import yaml

from kdtune.base import SegNet, UserError
from kdtune.filesystem.folder import Folder
from kdtune.filesystem.patience import NO_ROOM
from kdtune.records import rows
from kdtune.records.rows import Row
from kdtune.records.stored_study import StoredStudy
from kdtune.study.file import dump
from kdtune.study.spec import StudySpec
from kdtune.training.weights import WeightsRecord, weights_bytes

_log = logging.getLogger("kdtune")

WEIGHTS = "student.safetensors"

AT_ONCE = 1000  # journals whose contents are held in memory while they are read
JOURNAL_BYTES = 65_536  # more than most journals have
KEPT_STATES = 2  # of a running trial: where the last one is found damaged, it goes on from the one before

WRITTEN = {"journal", "checkpoints", "logs", "energy"}  # folders

Record = dict[str, Any]  # a trial's journal: row, history, states (newest first), attempt


@dataclass(frozen=True)
class Storage(StoredStudy):
    """The folder of one study, for those who also write it."""

    def check_writable(self) -> None:
        """Writes and removes a file as large as a journal, there and in each of its folders.

        Raises:
            UserError: it cannot be written.
        """
        try:
            for folder in _written(self.folder):
                folder.write(".writable", bytes(JOURNAL_BYTES))
                folder.remove(".writable")
        except OSError as error:
            raise self.unusable(error, folder) from error

    def unusable(self, error: OSError, folder: Folder | None = None) -> UserError:
        """What a user reads when the storage, or this folder of it, refuses a write; some errors say it already."""
        if isinstance(error, UserError):
            return error
        cure = "free some space, or " if error.errno in NO_ROOM else ""
        return UserError(
            f"{(folder or self.folder).uri}: cannot write there: {error.strerror or error}; {cure}give another folder "
            "with --storage or KDTUNE_STORAGE; nothing finished is lost"
        )

    def refused(self, error: OSError) -> bool:
        """Whether it was this storage that raised the error, and not a screen, a socket or a file of somebody else."""
        return isinstance(error, UserError) or self.folder.holds(error.filename)

    # journal

    def record(self, trial_id: str) -> Record | None:
        """A trial's journal, or none if no worker ever began it."""
        journal, attempts = self.folder / "journal", 0
        while journal.exists(_name(trial_id, attempts + 1)):  # not by a listing, which grows with the study
            attempts += 1
        return self._latest({_name(trial_id, attempt): attempt for attempt in range(1, attempts + 1)}, {})

    def records(self, only: Collection[str] | None = None) -> dict[str, Record]:
        """The journals by trial id: all, or ``only`` those of these trials that have one."""
        return {record["row"]["trial_id"]: record for record in self.each_record(only)}

    def each_record(self, only: Collection[str] | None = None) -> Iterator[Record]:
        """The journals one after the other: of thousands not all need be in memory at once."""
        journal = self.folder / "journal"
        by_trial: dict[str, dict[str, int]] = {}
        for name, attempt in _attempts(journal.names()):
            trial_id = name.rsplit(".", 2)[0]
            if only is None or trial_id in only:
                by_trial.setdefault(trial_id, {})[name] = attempt
        trials = list(by_trial.values())
        for first in range(0, len(trials), AT_ONCE):
            batch = trials[first : first + AT_ONCE]
            contents = journal.read_many([max(names, key=lambda name: names[name]) for names in batch])
            found = (self._latest(names, contents) for names in batch)
            yield from (record for record in found if record is not None)

    def _latest(self, attempts: Mapping[str, int], contents: Mapping[str, bytes]) -> Record | None:
        """The journal of the highest attempt that can be read; ``contents``: of files that were read already."""
        for name in sorted(attempts, key=lambda name: attempts[name], reverse=True):
            content = contents.get(name) or (self.folder / "journal").read(name)
            try:
                if content is not None:
                    return _whole(json.loads(content))
            except (ValueError, KeyError, TypeError):
                _log.warning("%s/journal/%s: damaged, and skipped", self.folder.uri, name)
        return None

    def claim(self, record: Record) -> None:
        """Makes this the trial's next attempt: from here on nobody reads what the one before still writes."""
        record["attempt"] = record["attempt"] + 1
        self.write_record(record)

    def withdraw(self, record: Record) -> None:
        """Takes a claim back: the trial did not begin."""
        (self.folder / "journal").remove(_name(record["row"]["trial_id"], record["attempt"]))

    def overtaken(self, record: Record) -> bool:
        """Whether another process has claimed the trial since."""
        return (self.folder / "journal").exists(_name(record["row"]["trial_id"], record["attempt"] + 1))

    def write_record(self, record: Record) -> None:
        """Replaces the journal of this attempt."""
        name = _name(record["row"]["trial_id"], record["attempt"])
        (self.folder / "journal").write(name, json.dumps(record, allow_nan=False).encode())

    def trial_ids(self) -> list[str]:
        """The trials that have a journal."""
        return sorted({name.rsplit(".", 2)[0] for name, _ in _attempts((self.folder / "journal").names())})

    # what trials printed

    def write_log(self, trial_id: str, attempt: int, text: str) -> None:
        """Replaces what an attempt at a trial printed."""
        (self.folder / "logs").write(f"{trial_id}.{attempt}.log", text.encode())

    def logs(self, trial_id: str) -> list[tuple[int, str]]:
        """What each attempt at a trial printed, those that printed anything, in their order."""
        folder, mine = self.folder / "logs", re.compile(rf"{re.escape(trial_id)}\.(\d+)\.log")
        found = [(int(match[1]), name) for name in folder.names() if (match := mine.fullmatch(name))]
        return [(attempt, (folder.read(name) or b"").decode(errors="replace")) for attempt, name in sorted(found)]

    # checkpoints

    def checkpoint_uri(self, trial_id: str) -> str:
        """The weights that a finished trial left."""
        return (self.folder / "checkpoints" / trial_id / WEIGHTS).uri

    def write_state(self, trial_id: str, attempt: int, step: int, state: Mapping[str, Any]) -> Record:
        """Saves what a trial needs to go on; returns how the journal refers to it."""
        buffer = io.BytesIO()
        torch.save(dict(state), buffer)
        content = buffer.getvalue()
        name = f"state-{step}.{attempt}.pt"
        (self.folder / "checkpoints" / trial_id).write(name, content)
        return {"file": name, "step": step, "sha256": hashlib.sha256(content).hexdigest()}

    def read_state(self, trial_id: str, state: Record) -> dict[str, Any] | None:
        """A state that a journal refers to; none where it is missing or damaged."""
        content = (self.folder / "checkpoints" / trial_id).read(state["file"])
        if content is None or hashlib.sha256(content).hexdigest() != state["sha256"]:
            return None
        found: dict[str, Any] = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        return found

    def remove_state(self, trial_id: str, state: Record) -> None:
        """Removes one state."""
        (self.folder / "checkpoints" / trial_id).remove(state["file"])

    def remove_states(self, trial_id: str) -> None:
        """Removes all states of a trial, those that no journal names and half-written ones too."""
        folder = self.folder / "checkpoints" / trial_id
        for name in folder.names(unfinished=True):
            if name.startswith("state-"):
                folder.remove(name)

    def write_weights(self, trial_id: str, network: SegNet, record: WeightsRecord | None = None) -> None:
        """The trained student as safetensors, with the record of what it is."""
        (self.folder / "checkpoints" / trial_id).write(WEIGHTS, weights_bytes(network, record))

    # study and plan

    def write_study(self, study: StudySpec, versions: Mapping[str, str | None]) -> None:
        """``study.yaml``: the resolved study, with the versions that ran it."""
        text = dump(study) + yaml.safe_dump({"versions": dict(versions)})
        self.folder.write("study.yaml", text.encode())

    def plan(self) -> dict[str, list[str]]:
        """Stage -> the ids of its trials in the order of the plan, as far as stages have been planned."""
        content = self.folder.read("plan.json")
        found: dict[str, list[str]] = _parsed(self.folder, "plan.json", content) or {}
        return found

    def write_plan(self, plan: Mapping[str, Sequence[str]]) -> None:
        """Replaces the plan."""
        self.folder.write("plan.json", json.dumps(plan).encode())

    def data(self) -> dict[str, dict[str, dict[str, Any]]]:
        """A dataset's config as JSON -> split -> the content that the study's trials use, and who noted it when."""
        content = self.folder.read("data.json")
        try:
            found: dict[str, dict[str, dict[str, Any]]] = json.loads(content) if content is not None else {}
        except ValueError:
            raise UserError(
                f"{self.folder.uri}/data.json: damaged, so it is not known on which data the trials were trained; if "
                "it is still the same, remove the file: the next launch writes it anew"
            ) from None
        return found

    def write_data(self, data: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> None:
        """Replaces what ``data`` gives."""
        self.folder.write("data.json", json.dumps(data, indent=1).encode())

    def energy(self) -> dict[str, list[Row]]:
        """What the nodes of each launch used, by the launch; see ``rows.NODES``."""
        folder = self.folder / "energy"
        found = folder.read_many([name for name in folder.names() if name.endswith(".json")])
        parsed = {name: _parsed(self.folder, f"energy/{name}", content) for name, content in found.items()}
        return {name.removesuffix(".json"): nodes for name, nodes in parsed.items() if nodes is not None}

    def write_energy(self, launch: str, nodes: Sequence[Row]) -> None:
        """Replaces what the nodes of a launch used."""
        (self.folder / "energy").write(f"{launch}.json", json.dumps(nodes).encode())

    # tables

    def write_tables(self, tables: Mapping[str, pa.Table]) -> None:
        """Replaces tables, each whole; see ``kdtune.records.live_tables``."""
        for name, table in tables.items():
            buffer = io.BytesIO()
            pq.write_table(table, buffer)
            self.folder.write(f"{name}.parquet", buffer.getvalue())

    def finished(self) -> dict[str, Row]:
        """What ``trials`` as it was last written says of how its trials ended, by id; times as a journal has them."""
        columns = ["trial_id", "status", "miou", "step", "steps_total", "train_seconds", "finished_at"]
        content = self.folder.read("trials.parquet")
        found = pq.read_table(pa.BufferReader(content), columns=columns).to_pylist() if content else []
        return {row["trial_id"]: row | {"finished_at": row["finished_at"].timestamp()} for row in found}


def _parsed(folder: Folder, name: str, content: bytes | None) -> Any:
    """What a file holds that is made anew, or that only adds to results; none if it is not there or is damaged."""
    try:
        return json.loads(content) if content is not None else None
    except ValueError:
        _log.warning("%s/%s: damaged, and skipped", folder.uri, name)
        return None


def _written(folder: Folder) -> Iterator[Folder]:
    """A study's folder, then those in it that its launches write into, as far as they are there."""
    yield folder
    yield from (folder / name for name in sorted(WRITTEN & {*folder.folders(), *folder.names()}))


def _whole(record: Any) -> Record:
    """The journal, if nothing of it is missing.

    Raises:
        KeyError, TypeError: something is.
    """
    for key in ("history", "states", "attempt"):
        record[key]
    for key in ("trial_id", "stage", "status", "step", "config"):
        record["row"][key]
    found: Record = record
    return found


def _name(trial_id: str, attempt: int) -> str:
    return f"{trial_id}.{attempt}.json"


def _attempts(names: Sequence[str]) -> list[tuple[str, int]]:
    """The journals among these files, each with its attempt."""
    parts = ((name, name.rsplit(".", 2)) for name in names)
    return [(name, int(found[1])) for name, found in parts if found[-1] == "json" and found[1].isdecimal()]


def new_row(study: str, stage: str, trial_id: str, start: str, facts: Row) -> Row:
    """The row of a trial that has not run yet."""
    empty = dict.fromkeys(rows.trials_schema().names)
    return empty | {"study": study, "stage": stage, "trial_id": trial_id, "start": start, "status": "running"} | facts
