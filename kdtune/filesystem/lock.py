"""One launch per study: a lock file that names its holder and is kept alive by it.

The holder rewrites the file every ``BEAT`` seconds. Of a holder on this machine it is known at once whether it lives;
one of another is believed dead when its file has stayed the same while ``LEASE`` seconds of our own monotonic clock
were spent looking at it. No time of day is ever compared, so clocks that disagree do no harm.

A folder makes the lock exclusively. An object store has no such request in pyarrow, so there a launch that found no
lock writes its own, waits for ``SETTLE`` seconds and has the study if its token still stands: of launches that looked
at the same moment, the last to write. What remains are writes that take longer than that, at the start or when a beat
is overtaken by a takeover. Then two launches hold the study until the next beat of the one whose token is gone: it
notices, ``lost`` is set, and its driver ends, its workers with it, before the next table. (If each sees
the other's token, both end.) Nothing is lost by that: a trial computes the same wherever it runs, its journal is
fenced, and tables are made from journals.
"""

import json
import os
import platform
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import psutil

from kdtune.errors import UserError
from kdtune.filesystem import json_text
from kdtune.filesystem.folder import Folder
from kdtune.filesystem.patience import waiting

NAME = "lock.json"
BEAT = 5.0  # seconds between signs of life
LEASE = 30.0  # seconds without one, after which a lock of another machine is taken over
SETTLE = 3.0  # seconds in which a write to an object store has arrived

Holder = dict[str, object]

# who holds a lock that is damaged: if it lives, it writes the lock anew with its next beat
UNKNOWN: Holder = {"host": "a host that the damaged lock does not tell", "pid": "?", "since": "?", "token": None}


@dataclass(frozen=True)
class Held:
    """A lock that is ours: its token stands in the file, ``lost`` is set when another launch has taken it over."""

    token: str
    lost: threading.Event = field(default_factory=threading.Event)
    _then: list[Callable[[], None]] = field(default_factory=list)

    def when_lost(self, action: Callable[[], None]) -> None:
        """Has it done once the lock is lost, at once if it is; perhaps twice."""
        self._then.append(action)
        if self.lost.is_set():
            action()

    def _lose(self) -> None:
        self.lost.set()
        for action in self._then:
            action()


def read_holder(content: bytes) -> Holder:
    """Who a lock file names; ``UNKNOWN`` if it is damaged."""
    try:
        found = json_text.parsed(content)
    except ValueError:
        return UNKNOWN
    whole = isinstance(found, dict) and {"host", "pid", "created", "token", "since"} <= found.keys()
    return found if whole else UNKNOWN


def may_be_of(content: bytes, token: object) -> bool:
    """Whether a lock file names this token, or is damaged: then its holder mends it with the next beat."""
    return read_holder(content)["token"] in (token, UNKNOWN["token"])


def _me() -> Holder:
    process = psutil.Process()
    return {
        "host": platform.node(),
        "machine": _machine(),
        "pid": process.pid,
        "created": _created(process),
        "token": uuid.uuid4().hex,
        "since": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _machine() -> str:
    """Where process ids mean the same: this boot and this container. Two containers may share a host's name."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}/{os.stat('/proc/self/ns/pid').st_ino}"
    except OSError:  # not Linux
        return platform.node()


def _created(process: psutil.Process) -> float:
    """Seconds from the machine's start to the process's: setting the clock changes both times of day, not these."""
    return round(process.create_time() - psutil.boot_time(), 1)


def alive_here(holder: Holder) -> bool | None:
    """Whether the holder's process lives; none if it is another machine's."""
    if (holder["host"], holder.get("machine")) != (platform.node(), _machine()):
        return None
    try:
        process = psutil.Process(int(str(holder["pid"])))
        # a killed process whose parent does not ask for its end stays listed, for good in a container without init
        return bool(_created(process) == holder["created"] and process.status() != psutil.STATUS_ZOMBIE)
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
    keeper = threading.Thread(target=_keep, args=(folder, me, beat, done, held), daemon=True)
    keeper.start()
    try:
        yield held
    finally:
        done.set()
        keeper.join()
        _release(folder, me, held)


def _take(folder: Folder, me: Holder, lease: float, beat: float) -> None:
    for _ in range(3):
        if folder.create(NAME, _text(me, 0)) and _settled(folder, me):
            return
        content = folder.read(NAME)
        if content is None:
            continue  # its holder has just ended
        holder = read_holder(content)
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


def _settled(folder: Folder, me: Holder) -> bool:
    """Whether a lock that was just written is the one that stays."""
    if folder.local is None:
        time.sleep(SETTLE)
        content = folder.read(NAME)
        return content is not None and _is_of(content, me)
    return True


def _beats(folder: Folder, content: bytes, lease: float, beat: float) -> bool:
    """Watches a lock of another machine for as long as its lease.

    Time in which the storage did not answer us does not count: its holder could not write then, either.
    """
    pause = min(beat / 5, lease / 5)
    watched, looked = 0.0, time.monotonic()
    while watched < lease:
        time.sleep(pause)
        now = folder.read(NAME)
        if now != content:
            return now is not None
        watched += min(time.monotonic() - looked, beat)
        looked = time.monotonic()
    return False


def _discard(folder: Folder, content: bytes) -> None:
    """Removes a dead lock, unless another launch has just replaced it."""
    if folder.read(NAME) == content:
        folder.remove(NAME)


def _keep(folder: Folder, me: Holder, beat: float, done: threading.Event, held: Held) -> None:
    count = 0
    with waiting(0):  # a beat that was tried again for long would be written over the lock of who has taken over
        while not done.wait(beat):
            try:
                if not _ours(folder, me):
                    held._lose()
                    return
                count += 1
                folder.write(NAME, _text(me, count))
            except OSError:
                continue  # storage is away for a moment; the lease allows for that


def _release(folder: Folder, me: Holder, held: Held) -> None:
    """Frees the study. Storage that is away, or full, does not turn the end of a launch into a failure."""
    try:
        with waiting(BEAT):
            if not held.lost.is_set() and _ours(folder, me):
                folder.remove(NAME)
    except OSError:
        pass  # the next launch sees that this process is dead, or waits for the lease


def _ours(folder: Folder, me: Holder) -> bool:
    """Whether nobody has taken the lock over, which would leave a whole one."""
    content = folder.read(NAME)
    return content is None or may_be_of(content, me["token"])


def _is_of(content: bytes, me: Holder) -> bool:
    return read_holder(content)["token"] == me["token"]


def _text(me: Holder, count: int) -> bytes:
    return json.dumps({**me, "beat": count}).encode()
