"""The journal of a study: one JSON file per attempt at a trial, always whole, each with the digest of what it says.

It is written by whoever holds the trial (its worker; the driver once the scheduler stopped it). The highest attempt is
the trial's record: a process that everyone believes dead and that still writes, writes to a file that nobody reads any
more. While a trial runs, evaluations that are some time ago lie in files beside it, so that each evaluation writes what
is new and not all that was before.
"""

import hashlib
import json
import logging
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from kdtune.filesystem import json_text
from kdtune.records.stored_study import StoredStudy
from kdtune.study.names import trial_id as id_of

_log = logging.getLogger("kdtune")

AT_ONCE = 1000  # journals whose contents are held in memory while they are read
PART = 8  # evaluations in each file beside the journal of a trial that runs

Record = dict[str, Any]  # a trial's journal: row, history, states (newest first), attempt

_DIGEST = re.compile(rb'\{"sha256": "([0-9a-f]{64})", ')  # how a file begins; earlier versions wrote none


def encoded(content: Mapping[str, Any]) -> bytes:
    """As JSON whose first entry is the SHA-256 of the rest."""
    rest = json.dumps(content, allow_nan=False)[1:].encode()
    return f'{{"sha256": "{hashlib.sha256(rest).hexdigest()}", '.encode() + rest


def decoded(content: bytes) -> Any:
    """What ``encoded`` was given.

    Raises:
        ValueError: it is damaged.
    """
    told = _DIGEST.match(content)
    if told and hashlib.sha256(content[told.end() :]).hexdigest() != told[1].decode():
        raise ValueError("not what was written")
    found = json_text.parsed(content)
    if told:
        del found["sha256"]
    return found


class Journals(StoredStudy):
    """The folder of one study, for those who follow its trials."""

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
        by_trial = self.attempts()
        yield from self.each_of([names for id_, names in by_trial.items() if only is None or id_ in only])

    def attempts(self) -> dict[str, dict[str, int]]:
        """The trials that have a journal -> the names of its files -> which attempt each is."""
        by_trial: dict[str, dict[str, int]] = {}
        for name, attempt in _attempts((self.folder / "journal").names()):
            by_trial.setdefault(name.rsplit(".", 2)[0], {})[name] = attempt
        return by_trial

    def each_of(self, trials: Sequence[Mapping[str, int]]) -> Iterator[Record]:
        """The journals of trials, each given by its files as ``attempts`` has them."""
        for first in range(0, len(trials), AT_ONCE):
            batch = trials[first : first + AT_ONCE]
            contents = (self.folder / "journal").read_many([max(names, key=lambda n: names[n]) for names in batch])
            found = (self._latest(names, contents) for names in batch)
            yield from (record for record in found if record is not None)

    def _latest(self, attempts: Mapping[str, int], contents: Mapping[str, bytes]) -> Record | None:
        """The journal of the highest attempt that can be read; ``contents``: of files that were read already."""
        for name in sorted(attempts, key=lambda name: attempts[name], reverse=True):
            content = contents.get(name) or (self.folder / "journal").read(name)
            try:
                if content is not None:
                    return self._joined(_whole(name.rsplit(".", 2)[0], decoded(content)))
            except (ValueError, KeyError, TypeError):
                _log.warning("%s/journal/%s: damaged, and skipped", self.folder.uri, name)
        return None

    def _joined(self, record: Record) -> Record:
        """The record with the evaluations that lie beside it.

        Raises:
            KeyError, ValueError: some are missing, or damaged.
        """
        names = [*_parts(record)]
        found = (self.folder / "journal").read_many(names) if names else {}
        before = [entry for name in names for entry in decoded(found[name])["history"]]
        return record | {"history": before + record["history"]}

    def claim(self, record: Record) -> None:
        """Makes this the trial's next attempt: from here on nobody reads what the one before still writes."""
        record["attempt"] = record["attempt"] + 1
        record.pop("parts", None)  # those are the attempt's before
        self.write_record(record)

    def withdraw(self, record: Record) -> None:
        """Takes a claim back: the trial did not begin."""
        (self.folder / "journal").remove(_name(record["row"]["trial_id"], record["attempt"]))

    def overtaken(self, record: Record) -> bool:
        """Whether another process has claimed the trial since."""
        return (self.folder / "journal").exists(_name(record["row"]["trial_id"], record["attempt"] + 1))

    def write_record(self, record: Record, changed: int | None = None) -> None:
        """Replaces the journal of this attempt. Of a trial that has ended it is one file again.

        ``changed``: the evaluation from which on it is to be written anew; none: what has been added.
        """
        journal, history = self.folder / "journal", record["history"]
        beside, full = [*_parts(record)], 0
        if record["row"]["status"] == "running":
            full = len(history) // PART
            for n in range(min(len(beside), len(beside) if changed is None else changed // PART), full):
                journal.write(_part(record, n), encoded({"history": history[n * PART : (n + 1) * PART]}))
            if full:
                record["parts"] = full
        else:
            record.pop("parts", None)
        name = _name(record["row"]["trial_id"], record["attempt"])
        journal.write(name, encoded(record | {"history": history[full * PART :]}))
        for part in beside if not full else ():
            journal.remove(part)

    def trial_ids(self) -> list[str]:
        """The trials that have a journal."""
        return sorted(self.attempts())


def _whole(trial_id: str, record: Any) -> Record:
    """The journal of a trial, if nothing of it is missing and its configuration is the one that the id stands for.

    Raises:
        KeyError, TypeError, ValueError: it is not so.
    """
    for key in ("history", "states", "attempt"):
        record[key]
    for key in ("trial_id", "stage", "status", "step", "config"):
        record["row"][key]
    check_id(record["row"])
    if record["row"]["trial_id"] != trial_id:
        raise ValueError("the journal of another trial")
    found: Record = record
    return found


def check_id(row: Mapping[str, Any]) -> None:
    """Whether a trial's configuration is the one that its id stands for: it decides what a launch runs.

    Raises:
        KeyError, TypeError, ValueError: it is not.
    """
    if row["trial_id"] != id_of(row["stage"], json_text.parsed(row["config"])):
        raise ValueError("not the configuration of that id")


def _name(trial_id: str, attempt: int) -> str:
    return f"{trial_id}.{attempt}.json"


def _part(record: Record, number: int) -> str:
    return f"{record['row']['trial_id']}.{record['attempt']}.{number}.part"


def _parts(record: Record) -> Iterator[str]:
    """The files beside a journal, in their order."""
    return (_part(record, n) for n in range(record.get("parts", 0)))


def superseded_part(name: str, newest: Mapping[str, int]) -> bool:
    """Whether it is a part of a journal that is not its trial's ``newest`` attempt."""
    found = re.fullmatch(r"(.+)\.(\d+)\.\d+\.part", name)
    return found is not None and int(found[2]) < newest.get(found[1], 0)


def _attempts(names: Sequence[str]) -> list[tuple[str, int]]:
    """The journals among these files, each with its attempt."""
    parts = ((name, name.rsplit(".", 2)) for name in names)
    return [(name, int(found[1])) for name, found in parts if found[-1] == "json" and found[1].isdecimal()]
