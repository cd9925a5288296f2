"""One launch per study: a lock file that names its holder and is kept alive by it.

The holder rewrites the file every ``BEAT`` seconds. Of a holder on this host it is known at once whether it lives; one
of another host is believed dead when its file has not changed for ``LEASE`` seconds of our own clock, so clocks that
disagree do no harm.
"""

import json
import platform
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime

import psutil

from kdtune.base import UserError
from kdtune.files import Folder

NAME = "lock.json"
BEAT = 5.0  # seconds between signs of life
LEASE = 30.0  # seconds without one, after which a lock of another host is taken over

Holder = dict[str, object]


@dataclass(frozen=True)
class Held:
    """A lock that is ours: its token stands in the file, ``lost`` is set when another launch has taken it over."""

    token: str
    lost: threading.Event = field(default_factory=threading.Event)


def _me() -> Holder:
    process = psutil.Process()
    return {
        "host": platform.node(),
        "pid": process.pid,
        "created": process.create_time(),
        "token": uuid.uuid4().hex,
        "since": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def alive_here(holder: Holder) -> bool | None:
    """Whether the holder's process lives; none if it is another host's."""
    if holder["host"] != platform.node():
        return None
    try:
        process = psutil.Process(int(str(holder["pid"])))
        # a killed process whose parent does not ask for its end stays listed, for good in a container without init
        return bool(process.create_time() == holder["created"] and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


@contextmanager
def locked(folder: Folder, *, lease: float = LEASE, beat: float = BEAT) -> Iterator[Held]:
    """Holds the study for as long as the block runs.

    Raises:
        UserError: another launch holds it; names that one.
    """
    me = _me()
    _take(folder, me, lease, beat)
    held, done = Held(str(me["token"])), threading.Event()
    keeper = threading.Thread(target=_keep, args=(folder, me, beat, done, held.lost), daemon=True)
    keeper.start()
    try:
        yield held
    finally:
        done.set()
        keeper.join()
        if not held.lost.is_set() and _ours(folder, me):
            folder.remove(NAME)


def _take(folder: Folder, me: Holder, lease: float, beat: float) -> None:
    for _ in range(3):
        if folder.create(NAME, _text(me, 0)):
            return
        content = folder.read(NAME)
        if content is None:
            continue  # its holder has just ended
        holder = json.loads(content)
        alive = alive_here(holder)
        if alive is None:
            alive = _beats(folder, content, lease, beat)
        if alive:
            raise UserError(
                f"{folder.uri}: this study is being launched by process {holder['pid']} on {holder['host']} since "
                f"{holder['since']}; wait for it, or stop it first"
            )
        _discard(folder, content)
    raise UserError(f"{folder.uri}: other launches of this study keep taking its lock; try again")


def _beats(folder: Folder, content: bytes, lease: float, beat: float) -> bool:
    """Watches a lock of another host for as long as its lease."""
    end = time.monotonic() + lease
    while time.monotonic() < end:
        time.sleep(min(beat / 5, lease / 5))
        now = folder.read(NAME)
        if now != content:
            return now is not None
    return False


def _discard(folder: Folder, content: bytes) -> None:
    """Removes a dead lock, unless another launch has just replaced it."""
    if folder.read(NAME) == content:
        folder.remove(NAME)


def _keep(folder: Folder, me: Holder, beat: float, done: threading.Event, lost: threading.Event) -> None:
    count = 0
    while not done.wait(beat):
        try:
            if not _ours(folder, me):
                lost.set()
                return
            count += 1
            folder.write(NAME, _text(me, count))
        except OSError:
            continue  # storage is away for a moment; the lease allows for that


def _ours(folder: Folder, me: Holder) -> bool:
    """Whether nobody has taken the lock over."""
    content = folder.read(NAME)
    return content is None or bool(json.loads(content)["token"] == me["token"])


def _text(me: Holder, count: int) -> bytes:
    return json.dumps({**me, "beat": count}).encode()


def holder(folder: Folder) -> Holder | None:
    """Who holds the study, or none; a dead process of this host holds nothing."""
    content = folder.read(NAME)
    found: Holder | None = json.loads(content) if content else None
    return None if found is None or alive_here(found) is False else found
