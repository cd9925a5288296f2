"""``<storage>/<study>/``: the journal of trials, which is the truth, and the Parquet tables made from it.

Tables are derived from the journal and can be written again at any time. A trial whose row is in a table that is as it
was written is settled: its journal is kept, and not read again.
"""

import hashlib
import io
import json
import logging
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from pydantic import ConfigDict, TypeAdapter, create_model

from kdtune.base import UserError
from kdtune.filesystem.folder import Folder
from kdtune.filesystem.patience import NO_ROOM
from kdtune.records import remembered, rows
from kdtune.records.journal_files import Journals, superseded_part
from kdtune.records.journal_files import Record as Record
from kdtune.records.rows import Row
from kdtune.records.stored_study import DIGESTS, IMAGE_COUNTS
from kdtune.study.file import dump
from kdtune.study.spec import StudySpec
from kdtune.training.image_counts import ImageCounts

if TYPE_CHECKING:
    from kdtune.base import SegNet
    from kdtune.training.weights import WeightsRecord

_log = logging.getLogger("kdtune")

WEIGHTS = "student.safetensors"

JOURNAL_BYTES = 65_536  # more than most journals have
KEPT_STATES = 2  # of a running trial: where the last one is found damaged, it goes on from the one before
MICROSECONDS = 10**6  # of a second: the unit of a table's times
KEPT_DIGESTS = 3  # of a table and of those before it, which a reader may still see
PLAN = TypeAdapter(dict[str, list[str]])
NODES = TypeAdapter(list[Row])
_KINDS: dict[pa.DataType, type] = {pa.string(): str, pa.float64(): float, pa.bool_(): bool}
_NODE: dict[str, Any] = {field.name: (_KINDS[field.type] | None, None) for field in rows.NODES}
_NODE |= dict.fromkeys(("energy_kwh", "co2_kg"), (float, ...))
NODE = create_model("Node", __config__=ConfigDict(strict=True), **_NODE)  # a table would say so too, and import pandas
DATA = TypeAdapter(dict[str, dict[str, dict[str, Any]]])
T = TypeVar("T")

WRITTEN = {"journal", "checkpoints", "logs", "energy"}  # folders


@dataclass(frozen=True)
class Storage(Journals):
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

    def sweep(self, unfinished: Iterable[str]) -> None:
        """Removes what killed processes left behind: half-written files, and parts of journals that have a successor.

        ``unfinished``: the trials whose states may be among them.
        """
        newest = {id_: max(files.values()) for id_, files in self.attempts().items()}
        places = [self.folder / name for name in ("journal", "logs", "energy")]
        places += [self.folder / "checkpoints" / id_ for id_ in unfinished]
        for place in (self.folder, *places):
            for name in place.names(unfinished=True):
                half = name.endswith(".partial") and f".{os.getpid()}-" not in name  # this process may be writing
                if half or superseded_part(name, newest):
                    place.remove(name)

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

    def write_state(
        self, trial_id: str, attempt: int, step: int, state: Mapping[str, Any], kept: Sequence[Record] = ()
    ) -> Record:
        """Saves what a trial needs to go on; returns how the journal refers to it.

        It takes the place of a state of this attempt that is not ``kept``: nothing has to be removed.
        """
        import torch  # here, because who reads a study can do without it

        buffer = io.BytesIO()
        torch.save(dict(state), buffer)
        content = buffer.getvalue()
        taken = {each["file"] for each in kept}
        name = next(name for name in _states(attempt) if name not in taken)
        (self.folder / "checkpoints" / trial_id).write(name, content)
        return {"file": name, "step": step, "sha256": hashlib.sha256(content).hexdigest()}

    def read_state(self, trial_id: str, state: Record) -> dict[str, Any] | None:
        """A state that a journal refers to; none where it is missing or damaged."""
        content = (self.folder / "checkpoints" / trial_id).read(state["file"])
        if content is None or hashlib.sha256(content).hexdigest() != state["sha256"]:
            return None
        import torch

        found: dict[str, Any] = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        return found

    def remove_state(self, trial_id: str, attempt: int, state: Record) -> None:
        """Removes the state of an earlier attempt; those of this one are written over."""
        if state["file"] not in _states(attempt):
            (self.folder / "checkpoints" / trial_id).remove(state["file"])

    def remove_states(self, trial_id: str) -> None:
        """Removes all states of a trial, those that no journal names too, and what was half written."""
        folder = self.folder / "checkpoints" / trial_id
        for name in folder.names(unfinished=True):
            if name.startswith("state-") or name.endswith(".partial"):
                folder.remove(name)

    def write_weights(self, trial_id: str, network: "SegNet", record: "WeightsRecord | None" = None) -> str | None:
        """The trained student as safetensors, with the record of what it is; returns the digest in it."""
        from kdtune.training.weights import weights_bytes
        from kdtune.training.weights_digest import noted_digest

        content = weights_bytes(network, record)
        (self.folder / "checkpoints" / trial_id).write(WEIGHTS, content)
        return noted_digest(content)

    def write_image_counts(self, trial_id: str, counts: ImageCounts) -> str:
        """The confusion matrices of a trial's last evaluation beside its weights; returns the file's SHA-256."""
        content = _as_parquet(counts.table())
        (self.folder / "checkpoints" / trial_id).write(IMAGE_COUNTS, content)
        return hashlib.sha256(content).hexdigest()

    # study and plan

    def write_study(self, study: StudySpec, versions: Mapping[str, str | None], left_out: Sequence[str] = ()) -> None:
        """``study.yaml``: the resolved study, with the versions that ran it, and the stages that were left out."""
        beside = {"versions": dict(versions), **({"left_out": [*left_out]} if left_out else {})}
        text = dump(study) + yaml.safe_dump(beside)
        remembered.write(self.folder, "study.yaml", text.encode())

    def plan(self) -> dict[str, list[str]]:
        """Stage -> the ids of its trials in the order of the plan, as far as stages have been planned."""
        content = self.folder.read("plan.json")
        return _parsed(self.folder, "plan.json", content, PLAN.validate_json) or {}

    def write_plan(self, plan: Mapping[str, Sequence[str]]) -> None:
        """Replaces the plan."""
        self.folder.write("plan.json", json.dumps(plan).encode())

    def data(self) -> dict[str, dict[str, dict[str, Any]]]:
        """A dataset's config as JSON -> split -> the content that the study's trials use, and who noted it when."""
        content = self.folder.read("data.json")
        try:
            return DATA.validate_json(content) if content is not None else {}
        except ValueError:
            raise UserError(
                f"{self.folder.uri}/data.json: damaged, so it is not known on which data the trials were trained; if "
                "it is still the same, remove the file: the next launch writes it anew"
            ) from None

    def write_data(self, data: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> None:
        """Replaces what ``data`` gives."""
        self.folder.write("data.json", json.dumps(data, indent=1).encode())

    def energy(self) -> dict[str, list[Row]]:
        """What the nodes of each launch used, by the launch; see ``rows.NODES``."""
        folder = self.folder / "energy"
        found = folder.read_many([name for name in folder.names() if name.endswith(".json")])
        parsed = {name: _parsed(self.folder, f"energy/{name}", content, _nodes) for name, content in found.items()}
        return {name.removesuffix(".json"): nodes for name, nodes in parsed.items() if nodes is not None}

    def write_energy(self, launch: str, nodes: Sequence[Row]) -> None:
        """Replaces what the nodes of a launch used."""
        (self.folder / "energy").write(f"{launch}.json", json.dumps(nodes).encode())

    # tables

    def write_tables(self, tables: Mapping[str, pa.Table]) -> int:
        """Replaces tables, each whole; returns their bytes. See ``kdtune.records.live_tables``."""
        contents = {f"{name}.parquet": _as_parquet(table) for name, table in tables.items()}
        digests = self.digests()
        for name, content in contents.items():  # before the tables: one that is as it was is not damaged
            digests[name] = [hashlib.sha256(content).hexdigest(), *digests.get(name, [])][:KEPT_DIGESTS]
        remembered.write(self.folder, DIGESTS, json.dumps(digests, indent=1).encode())
        for name, content in contents.items():
            remembered.write(self.folder, name, content)
        return sum(map(len, contents.values()))

    def finished(self) -> dict[str, Row]:
        """What ``trials`` as it was last written says of how its trials ended, by id; times as a journal has them."""
        names = ["trial_id", "stage", "start", "config_id", "seed", "method", "status", "miou", "step", "steps_total"]
        names += ["train_seconds", "images_per_second", "finished_at", "energy_kwh", "attempt"]
        table = self.table_if_there("trials", columns=names)
        if table is None:
            return {}
        at = table.schema.get_field_index("finished_at")  # as numbers: pyarrow imports pandas for a timestamp
        found = table.set_column(at, "finished_at", table["finished_at"].cast(pa.int64())).to_pylist()
        for row in found:
            row["finished_at"] = row["finished_at"] / MICROSECONDS if row["finished_at"] is not None else None
        return {row["trial_id"]: row for row in found}


def _as_parquet(table: pa.Table) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    return buffer.getvalue()


def _states(attempt: int) -> list[str]:
    """The files in which an attempt keeps its states: one more than are kept, for the one that is being written."""
    return [f"state-{attempt}-{i}.pt" for i in range(KEPT_STATES + 1)]


def _parsed(folder: Folder, name: str, content: bytes | None, parse: Callable[[bytes], T]) -> T | None:
    """What a file holds that is made anew, or that only adds to results; none if it is not there or is damaged."""
    try:
        return parse(content) if content is not None else None
    except ValueError:
        _log.warning("%s/%s: damaged, and skipped", folder.uri, name)
        return None


def _nodes(content: bytes) -> list[Row]:
    """What the nodes of a launch used.

    Raises:
        ValueError: it is something else.
    """
    return [NODE.model_validate(node).model_dump(exclude_unset=True) for node in NODES.validate_json(content)]


def _written(folder: Folder) -> Iterator[Folder]:
    """A study's folder, then those in it that its launches write into; an object store has the same rights for all."""
    yield folder
    if folder.local is not None:
        yield from (folder / name for name in sorted(WRITTEN & {*folder.folders(), *folder.names()}))


def new_row(study: str, stage: str, trial_id: str, start: str, facts: Row) -> Row:
    """The row of a trial that has not run yet."""
    empty = dict.fromkeys(rows.trials_schema().names)
    return empty | {"study": study, "stage": stage, "trial_id": trial_id, "start": start, "status": "running"} | facts
