"""Storage that is away for a moment: what is worth another try, for how long, and what is said meanwhile."""

import contextlib
import errno
import logging
import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import TypeVar

from kdtune import signs
from kdtune.errors import UserError

PATIENCE = 120.0  # seconds for which a storage that was reached before is tried again; KDTUNE_STORAGE_PATIENCE
FIRST = 10.0  # seconds for one that this process has never reached: its name is wrong more often than it is away
PAUSE, LONGEST_PAUSE = 0.2, 5.0  # seconds between two tries: the first, and the longest that they grow to

# What may pass: a disk or server that does not answer. Not among them what waiting cannot mend, such as a full disk.
AWAY = frozenset(
    getattr(errno, name)
    for name in (
        "EIO", "ESTALE", "ETIMEDOUT", "EREMOTEIO", "EAGAIN", "EHOSTDOWN", "EHOSTUNREACH", "ENETDOWN", "ENETUNREACH",
        "ECONNREFUSED", "ECONNRESET", "ECONNABORTED", "ENOTCONN",
    )
    if hasattr(errno, name)
)  # fmt: skip

NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT})  # what free space mends

T = TypeVar("T")
_log = logging.getLogger("kdtune")
_jitter = random.Random()  # of its own: the global generator is the training's
_span: ContextVar[float | None] = ContextVar("span", default=None)
_guard = threading.Lock()
_reached: set[str] = set()
_away: dict[str, float] = {}  # storage -> since when, on the monotonic clock


class StorageError(UserError, OSError):
    """What a storage refused, or that it does not answer, in one line. ``errno`` tells the kind, as for a disk."""

    def __str__(self) -> str:
        return str(self.strerror)


def patience() -> float:
    """Seconds for which a storage that is away is tried again.

    Raises:
        UserError: KDTUNE_STORAGE_PATIENCE is no number of seconds.
    """
    given = os.environ.get("KDTUNE_STORAGE_PATIENCE", "")
    try:
        seconds = float(given or PATIENCE)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < float("inf"):
        raise UserError(f"KDTUNE_STORAGE_PATIENCE={given}: give a number of seconds, 0 or more")
    return seconds


@contextlib.contextmanager
def waiting(seconds: float) -> Iterator[None]:
    """Another patience for this block of this thread; 0: a single try."""
    token = _span.set(seconds)
    try:
        yield
    finally:
        _span.reset(token)


def expect(storage: str) -> None:
    """Another process has reached this storage: if it does not answer now, it is away, not misspelt."""
    _reached.add(storage)


def patiently(storage: str, action: Callable[[], T]) -> T:
    """The result of ``action``, tried again while the storage is away; the tries grow apart.

    One try of a server that hangs takes as long as its time-outs allow (see ``object_stores``), so that the last one
    may end that much after the span.

    Raises:
        OSError: of another kind than ``AWAY``, at once; or still away when the span is over.
    """
    chosen = _span.get()
    end: float | None = None
    pause = PAUSE
    while True:
        try:
            result = action()
        except OSError as error:
            now = time.monotonic()
            if error.errno not in AWAY:
                _answered(storage)
                raise
            if end is None:
                span = patience() if chosen is None else chosen
                span = span if storage in _reached else min(span, FIRST)
                end = now + span
                if span or storage in _reached:
                    _missing(storage, error)
            if now >= end:
                raise
            signs.alive()
            time.sleep(min(pause * _jitter.uniform(0.5, 1.0), end - now))
            pause = min(2 * pause, LONGEST_PAUSE)
        else:
            _answered(storage)
            return result


def _missing(storage: str, error: OSError) -> None:
    with _guard:
        if storage in _away:
            return
        _away[storage] = time.monotonic()
    _log.warning("storage is away, trying again: %s", str(error).partition("; ")[0])


def _answered(storage: str) -> None:
    _reached.add(storage)
    if storage not in _away:
        return
    with _guard:
        since = _away.pop(storage, None)
    if since is not None:
        _log.warning("storage is back after %.0f s", time.monotonic() - since)
