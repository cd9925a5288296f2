"""``launch.json``: who runs a study, where, since when; what its last launch came to."""

import contextlib
import json
import logging
import os
import platform
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, datetime
from typing import Any

from pydantic import TypeAdapter

import kdtune
from kdtune.filesystem import json_text
from kdtune.filesystem.folder import Folder
from kdtune.text import without_credentials

LAUNCH = "launch.json"


@dataclass(frozen=True)
class Launched:
    """``launch.json``. It holds no token, and no credentials of a URI."""

    started_at: str  # UTC, ISO 8601
    stages: Sequence[str] = ()  # only these; all, if empty
    host: str | None = None  # none: submitted, and no driver of it has begun
    pid: int | None = None
    address: str | None = None  # of the Ray cluster, as the driver or the submitting machine knew it
    dashboard: str | None = None
    submission_id: str | None = None
    command: str | None = None  # that launches it again
    asked_at: str | None = None  # with --again: when it was first asked for; launches that were cut off may lie between
    kdtune_version: str = kdtune.__version__
    ended_at: str | None = None
    outcome: str | None = None  # "finished", or why it ended before

    @property
    def again(self) -> str | None:
        """The command, if it is a launch of kdtune's: a shell that is given it does nothing else, whoever wrote it."""
        try:
            words = shlex.split(self.command or "")
        except ValueError:
            return None
        return shlex.join(words) if words[:2] == ["kdtune", "launch"] else None

    @property
    def repeats(self) -> str | None:
        """When a launch that was cut off was asked for the same; none if this is the first to be asked."""
        return None if self.asked_at == self.started_at else self.asked_at


def now() -> str:
    """The time as launch.json and launch.log have it."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def here(stages: Sequence[str], address: str | None, command: str | None, *, again: bool = False) -> Launched:
    """This process as a launch; ``again``: it names trials that run anew."""
    began = now()
    return Launched(
        started_at=began,
        stages=list(stages),
        host=platform.node(),
        pid=os.getpid(),
        address=address,
        submission_id=own_submission_id(),
        command=command,
        asked_at=began if again else None,
    )


def own_job() -> Mapping[str, Any]:
    """What Ray hands a process that was submitted as a job: its metadata and environment; nothing to another."""
    found: Mapping[str, Any] = json.loads(os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR") or "{}")
    return found


def own_submission_id() -> str | None:
    """The id under which this process was submitted as a Ray job, or none."""
    found = own_job().get("metadata", {}).get("job_submission_id")
    return str(found) if found else None


def read_launch(folder: Folder) -> Launched | None:
    """The latest launch of a study, or none."""
    content = folder.read(LAUNCH)
    if content is None:
        return None
    known = {field.name for field in fields(Launched)}
    try:
        told = {key: value for key, value in json_text.parsed(content).items() if key in known}
        launched = TypeAdapter(Launched).validate_python(told)
        for moment in (launched.started_at, launched.asked_at):
            datetime.fromisoformat(moment or launched.started_at)
        return launched
    except (ValueError, AttributeError):  # the next launch writes it anew
        logging.getLogger("kdtune").warning("%s/%s: damaged, and skipped", folder.uri, LAUNCH)
        return None


def write_launch(folder: Folder, launched: Launched) -> None:
    """Replaces ``launch.json``."""
    facts = {
        key: without_credentials(value) if isinstance(value, str) else value for key, value in asdict(launched).items()
    }
    folder.write(LAUNCH, json.dumps(facts, indent=1).encode())


def asked(folder: Folder, launched: Launched) -> Launched:
    """The launch with what the one before it knew better.

    Of one that was submitted: from where the cluster is reached, and how. Of one that repeats the command of a launch
    that did not come to its end: since when trials are to run anew. Others have nothing to ask the storage for.
    """
    if launched.submission_id is None and launched.asked_at is None:
        return launched
    before = None
    with contextlib.suppress(OSError, ValueError, TypeError):
        before = read_launch(folder)
    if before is None:
        return launched
    if launched.submission_id and before.submission_id == launched.submission_id:
        since = before.repeats or launched.asked_at
        return replace(launched, address=before.address, command=before.command, asked_at=since)
    command = without_credentials(launched.command or "")
    repeats = bool(command) and before.command == command and before.outcome != "finished"
    return replace(launched, asked_at=before.asked_at or launched.asked_at) if repeats else launched
