"""All studies of a storage, a line each, told by their files alone: no torch, no journal, a few requests a study."""

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any, Literal

from kdtune.errors import UserError
from kdtune.filesystem import json_text
from kdtune.filesystem.folder import Folder
from kdtune.filesystem.lock import LEASE, alive_here, read_holder
from kdtune.filesystem.lock import NAME as LOCK
from kdtune.losses.marks import DAGGER, FOOTNOTE, marked
from kdtune.records.at_once import at_once
from kdtune.records.stored_study import StoredStudy
from kdtune.study.names import STUDY_NAME
from kdtune.text import printable

State = Literal["running", "silent", "submitted", "finished", "ended", "unknown"]
LAUNCH, PLAN, TRIALS = "launch.json", "plan.json", "trials.parquet"
FILES = frozenset({LOCK, LAUNCH, PLAN, TRIALS, "study.yaml"})  # a folder with one of them is a study
TEACHER = "teacher"  # the method of trials that make a study's teacher: they are not what it looks for

Facts = Mapping[str, tuple[int, float]]


@dataclass(frozen=True)
class Listed:
    """A study of a storage."""

    study: str
    state: State = "unknown"  # silent: its lock is another machine's, and old; ended: not finished, and nothing runs
    finished: int = 0  # trials, in whatever way they ended, as of the last writing of its tables
    planned: int = 0  # trials so far
    more: bool = False  # later stages are not planned yet
    best: float | None = None  # mIoU [percent] of the best completed trial of a student
    best_stage: str | None = None
    best_method: str | None = None
    seen_at: str | None = None  # last sign of life, UTC: of the lock, else of the last launch
    note: str = ""  # what of it cannot be read


def listed(root: str) -> list[Listed]:
    """The studies of a storage, by their names. What cannot be read of one is told in its line.

    Raises:
        UserError: there is none, or the storage does not answer.
    """
    names = [name for name in Folder(root).folders() if re.fullmatch(STUDY_NAME, name)]
    found = [study for study in at_once(partial(_listed, root), names) if study is not None]
    if not found:
        raise UserError(f"{root}: no study there; name the storage of your studies with --storage")
    return found


def _listed(root: str, name: str) -> Listed | None:
    """One study; none if the folder is none."""
    where, damaged = StoredStudy(root, name), list[str]()
    try:
        facts = where.folder.facts()
        if not facts.keys() & FILES:
            return None
        launch, plan = (_parsed(where.folder, file, facts, damaged) for file in (LAUNCH, PLAN))
        trials = _trials(where, facts, damaged)
        stages = [len(ids) for ids in plan.values() if isinstance(ids, list)]
        more = not stages or not all(stages)
        state, seen = _state(where.folder, facts, launch, done=not more and len(trials) >= sum(stages))
    except (UserError, OSError) as error:
        return Listed(name, note=f"cannot be read: {error}")
    best = max((row for row in trials if _counts(row)), key=lambda row: row["miou"], default={})
    return Listed(
        name,
        state,
        finished=len(trials),
        planned=max(sum(stages), len(trials)),
        more=more,
        best=best.get("miou"),
        best_stage=best.get("stage"),
        best_method=best.get("method"),
        seen_at=seen,
        note=", ".join(f"{file} is damaged" for file in damaged),
    )


def _parsed(folder: Folder, name: str, facts: Facts, damaged: list[str]) -> dict[str, Any]:
    """What a JSON file holds; nothing of one that is not there, or is damaged."""
    content = folder.read(name) if name in facts else None
    try:
        found = json_text.parsed(content) if content is not None else {}
    except ValueError:
        found = None
    if not isinstance(found, dict):
        damaged.append(name)
    return found if isinstance(found, dict) else {}


def _trials(where: StoredStudy, facts: Facts, damaged: list[str]) -> list[dict[str, Any]]:
    if TRIALS not in facts:
        return []
    try:
        rows: list[dict[str, Any]] = where.table("trials").select(["stage", "method", "status", "miou"]).to_pylist()
        return rows
    except (UserError, KeyError) as error:
        if isinstance(error, OSError):
            raise
        damaged.append(TRIALS)
        return []


def _counts(row: Mapping[str, Any]) -> bool:
    return row["status"] == "completed" and row["miou"] is not None and row["method"] != TEACHER


def _state(folder: Folder, facts: Facts, launch: Mapping[str, Any], *, done: bool) -> tuple[State, str | None]:
    """The state as ``kdtune status`` tells it, and the last sign of life."""
    seen: str | None
    content = folder.read(LOCK) if LOCK in facts else None
    if content is not None:
        seen = _utc(facts[LOCK][1])
        alive = alive_here(read_holder(content))
        if alive is None:
            return "running" if time.time() - facts[LOCK][1] < LEASE else "silent", seen
        if alive:
            return "running", seen
    else:
        told = launch.get("ended_at") or launch.get("started_at")
        seen = str(told) if told else _utc(facts[TRIALS][1]) if TRIALS in facts else None
    if done:
        return "finished", seen
    waits = launch and launch.get("outcome") is None and launch.get("host") is None
    return "submitted" if waits else "ended", seen


def _utc(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def lines(found: Sequence[Listed]) -> list[str]:
    """The list as text."""
    heads = ["study", "state", "trials", "best run", "of", "last sign of life, UTC"]
    cells = [
        [
            each.study,
            each.state,
            f"{each.finished}/{each.planned}{'+' * each.more}",
            "-" if each.best is None else f"{each.best:.2f}",
            "-" if each.best is None else f"{each.best_stage}, {marked(each.best_method or '')}",
            (each.seen_at or "-")[:19].replace("T", " "),
        ]
        for each in found
    ]
    widths = [max(map(len, column)) for column in zip(heads, *cells, strict=True)]
    told = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in [heads, *cells]]
    more = ["+: later stages are not planned yet"] if any(each.more for each in found) else []
    more += [FOOTNOTE] if any(DAGGER in line for line in told) else []
    notes = [f"note: {each.study}: {each.note}" for each in found if each.note]
    return [printable(line) for line in (*map(str.rstrip, told), *more, *notes)]
