"""Signs of life of this process: each step, batch and image read is one, and so is a try at a storage that is away.

Who watches tells by them work from a hang. A process that hangs or is stopped can tell nothing itself, so a trial's
worker shares its signs in memory that has a file's number, which another process of its node can read. A sign costs
about a microsecond.
"""

import contextlib
import faulthandler
import math
import mmap
import os
import signal
import statistics
import struct
import threading
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

SIZE = 4096  # bytes that are shared: numbers first, then the name of a file
STEPS = 50  # of whose seconds the median is the usual one
STACK = getattr(signal, "SIGUSR2", None)  # asks a process that shares its signs for its stacks

_HEAD = struct.Struct("<QQd?")  # signs, step, usual seconds, excused


@dataclass(frozen=True)
class Sign:
    """How far a process is."""

    count: int  # of signs: as long as it grows, the process is at work
    step: int  # the last step of this attempt; 0 before its first
    usual: float  # seconds between two steps; nan where there were no two
    excused: bool  # it waits for somebody who has limits of his own
    file: str  # that it reads right now, the one it began first; empty: none


class Abandoned(Exception):
    """Nobody waits any more for what this thread does."""


class _Signs:
    """Those of this process."""

    def __init__(self) -> None:
        self.count = self.step = self.excuses = 0
        self.usual = math.nan
        self.files: dict[int, str] = {}  # thread -> file that it reads
        self.lock = threading.Lock()
        self.shared: mmap.mmap | None = None
        self.numbers: tuple[int, int] | None = None  # of the files that others read: signs, stacks
        self.abandoned: int | None = None  # a thread
        self.begin()

    def begin(self) -> None:
        """Nothing has been done yet."""
        self.step, self.usual = 0, math.nan
        self.seconds: deque[float] = deque(maxlen=STEPS)
        self.stepped_at: float | None = None

    def publish(self) -> None:
        """Puts the numbers where others read them."""
        if self.shared is not None:
            _HEAD.pack_into(self.shared, 0, self.count, self.step, self.usual, self.excuses > 0)

    def publish_file(self) -> None:
        """Puts the file's name there; with the lock held."""
        if self.shared is not None:
            name = os.fsencode(next(iter(self.files.values()), ""))[: SIZE - _HEAD.size]
            self.shared[_HEAD.size :] = name.ljust(SIZE - _HEAD.size, b"\0")


_mine = _Signs()


def alive() -> None:
    """This process is at work.

    Raises:
        Abandoned: nobody waits for this thread any more.
    """
    _mine.count += 1
    _mine.publish()
    if _mine.abandoned == threading.get_ident():
        raise Abandoned


def stepped(step: int) -> None:
    """A training step is done."""
    now = time.monotonic()
    if _mine.stepped_at is not None:
        _mine.seconds.append(now - _mine.stepped_at)
        _mine.usual = statistics.median(_mine.seconds)
    _mine.step, _mine.stepped_at = step, now
    alive()


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """This file is read meanwhile; that it has been read is a sign."""
    me = threading.get_ident()
    with _mine.lock:
        _mine.files[me] = os.fspath(path)
        _mine.publish_file()
    try:
        yield
    finally:
        with _mine.lock:
            _mine.files.pop(me, None)
            _mine.publish_file()
        _mine.count += 1
        _mine.publish()


@contextlib.contextmanager
def excused() -> Iterator[None]:
    """The block waits for somebody who has limits of his own: the driver, a server of objects."""
    with _mine.lock:
        _mine.excuses += 1
    _mine.publish()
    try:
        yield
    finally:
        with _mine.lock:
            _mine.excuses -= 1
        _mine.count += 1
        _mine.publish()


def current() -> Sign:
    """The signs of this process until now."""
    with _mine.lock:
        file = next(iter(_mine.files.values()), "")
    return Sign(_mine.count, _mine.step, _mine.usual, _mine.excuses > 0, file)


def abandon(thread: int | None) -> None:
    """The next sign of this thread ends it, with ``Abandoned``; of none any more."""
    _mine.abandoned = thread


def share() -> tuple[int, int] | None:
    """A trial begins in this process: the numbers of the files by which others see its signs and ask for its stacks.

    None where the system has no such files: only Linux has.
    """
    if _mine.numbers is None and hasattr(os, "memfd_create") and STACK is not None:
        number, stacks = os.memfd_create("kdtune-signs"), os.memfd_create("kdtune-stacks")
        os.truncate(number, SIZE)
        _mine.shared = mmap.mmap(number, SIZE)
        faulthandler.register(STACK, file=stacks, all_threads=True)  # from C: Python itself may be held up
        _mine.numbers = number, stacks
    _mine.begin()
    alive()
    return _mine.numbers


def read(process: int, number: int) -> Sign:
    """The signs that another process of this machine shares.

    Raises:
        OSError: it has ended.
    """
    content = Path(f"/proc/{process}/fd/{number}").read_bytes()
    count, step, usual, is_excused = _HEAD.unpack_from(content)
    return Sign(count, step, usual, is_excused, os.fsdecode(content[_HEAD.size :].rstrip(b"\0")))
