"""What a teacher made of the crops of one seed, kept on a node's disk in blocks of steps, for every trial that asks.

``KDTUNE_CACHE/teacher/<key>/<map>/<block>.bin``: a block holds one map (logits, or a term's digest) of ``STEPS`` steps,
a checksum for each. It is written beside and renamed, and mapped into memory by its readers, so that the system's page
cache is the window. Nobody owns the store: who needs a block that is not there claims it, by a lock that ends with its
process.
"""

import contextlib
import fcntl
import json
import os
import shutil
import time
import uuid
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Self

import numpy as np

from kdtune.loading.cache import cache_folder

FORMAT = 1  # of a block
STEPS = 32  # of a block
HEAD = 4096  # bytes before a block's first step
SILENT = 60.0  # seconds without a step after which a claim counts as dead
SPARE, SPARE_SHARE = 2e9, 0.1  # what stays free of the disk in any case: so many bytes, and such a share of it
RECOUNT = 0.02  # of the limit: so much is added before it is counted again what others have added


def store_folder() -> Path:
    """Where a node keeps its blocks.

    Raises:
        UserError: others could change what lies there.
    """
    return cache_folder() / "teacher"


def default_limit(folder: Path) -> float:
    """The bytes that the store may take where nobody says: as many as it leaves free."""
    return (_disk(folder)[1] + _size(folder)) / 2


def _free(folder: Path) -> float:
    """The bytes that the disk has to spare."""
    total, free = _disk(folder)
    return free - max(SPARE, SPARE_SHARE * total)


def _disk(folder: Path) -> tuple[int, int]:
    """Its bytes in all, and those that are free."""
    usage = shutil.disk_usage(next(path for path in (folder, *folder.parents) if path.exists()))
    return usage.total, usage.free


@dataclass(frozen=True)
class Block:
    """One map of some steps, as it lies on disk."""

    path: Path
    values: np.ndarray  # (steps, ...), mapped
    checksums: Sequence[int]
    seconds: float  # that one step took

    def __len__(self) -> int:
        return len(self.values)

    def step(self, i: int) -> np.ndarray | None:
        """A copy of the i-th step's map; none if it is damaged."""
        found = np.array(self.values[i])
        return found if zlib.crc32(found.data) == self.checksums[i] else None

    @classmethod
    def read(cls, path: Path) -> Self | None:
        """The block of a file; none if it is not there, or no whole block."""
        try:
            with path.open("rb") as file:
                head = json.loads(file.read(HEAD))
                shape, dtype = tuple(head["shape"]), np.dtype(head["dtype"])
                if head["format"] != FORMAT or os.fstat(file.fileno()).st_size != HEAD + dtype.itemsize * prod(shape):
                    return None
                values = np.memmap(file, dtype=dtype, mode="r", offset=HEAD, shape=shape)
            return cls(path, values, head["checksums"], head["seconds"])
        except (OSError, ValueError, KeyError, TypeError):
            return None


def prod(shape: Sequence[int]) -> int:
    """The number of values."""
    return int(np.prod(shape, dtype=np.int64))


def write(path: Path, maps: Sequence[np.ndarray], seconds: float) -> None:
    """Writes a block whole, or not at all.

    Raises:
        OSError: no room, or no right to write.
    """
    shape, dtype = (len(maps), *maps[0].shape), maps[0].dtype
    checksums = [zlib.crc32(np.ascontiguousarray(each).data) for each in maps]
    head = {"format": FORMAT, "shape": shape, "dtype": dtype.name, "checksums": checksums, "seconds": seconds}
    partial = path.with_name(f".{path.name}-{uuid.uuid4().hex[:8]}")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with partial.open("wb") as file:
            file.write(json.dumps(head).encode().ljust(HEAD))
            for each in maps:
                file.write(np.ascontiguousarray(each).data)
        partial.rename(path)
    finally:
        partial.unlink(missing_ok=True)


class Store:
    """The blocks of one key, in use as long as this is open."""

    def __init__(self, key: str, limit: float | None = None) -> None:
        """Opens it; the folder is made where there is none.

        ``limit``: bytes that all keys together may take; none: ``default_limit``.

        Raises:
            OSError: the cache cannot be written.
            UserError: others could change what lies there.
        """
        self.folder = store_folder() / key
        self._limit = default_limit(self.folder.parent) if limit is None else limit
        self._held, self._added = 0.0, float("inf")  # bytes of all keys when last counted, and added here since
        self._in_use = self._used()
        os.utime(self.folder)  # the order in which keys are given up

    def _used(self) -> IO[str]:
        """The file whose lock says that the key is in use; once more where another process was just removing it."""
        while True:
            (self.folder / "claims").mkdir(parents=True, exist_ok=True)
            path = self.folder / "in-use"
            file = path.open("w")
            fcntl.flock(file, fcntl.LOCK_SH)
            with contextlib.suppress(OSError):
                if os.path.samestat(path.stat(), os.fstat(file.fileno())):
                    return file
            file.close()

    def close(self) -> None:
        """It may be removed from now on."""
        self._in_use.close()

    def file(self, name: str, block: int) -> Path:
        """Where a map's block lies."""
        return self.folder / name / f"{block}.bin"

    def blocks(self, names: Sequence[str], block: int, steps: int) -> dict[str, Block] | None:
        """The block of each map, if all are there and have so many steps."""
        found = {}
        for name in names:
            each = Block.read(self.file(name, block))
            if each is None or len(each) < steps:
                return None
            found[name] = each
        return found

    @contextlib.contextmanager
    def claim(self, block: int) -> Iterator["Claim | None"]:
        """The right to compute a block; none if another process has it.

        Raises:
            OSError: the folder cannot be written.
        """
        path = self.folder / "claims" / str(block)
        with path.open("a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield None
                return
            for left in self.folder.glob(f"*/.{block}.bin-*"):  # by a process that was killed: we hold the lock
                left.unlink(missing_ok=True)
            claim = Claim(path)
            claim.alive()
            yield claim

    def silent(self, block: int) -> bool:
        """Whether who claimed a block has shown no sign of life for long: it hangs, or is stopped."""
        try:
            return time.time() - (self.folder / "claims" / str(block)).stat().st_mtime > SILENT
        except OSError:
            return False

    def has_room(self, needed: float) -> bool:
        """Whether so many bytes may be added; keys that nobody uses are given up for it, the oldest first."""
        while not self._fits(needed):
            if not self._give_up_one():
                return False
        self._added += needed
        return True

    def _fits(self, needed: float) -> bool:
        if self._added > RECOUNT * self._limit or self._held + self._added + needed > self._limit:
            self._held, self._added = _size(self.folder.parent), 0.0
        return _free(self.folder) >= needed and self._held + needed <= self._limit

    def _give_up_one(self) -> bool:
        others = [path for path in self.folder.parent.iterdir() if path.is_dir() and path != self.folder]
        return any(_removed(path) for path in sorted(others, key=_age))


@dataclass(frozen=True)
class Claim:
    """The right to compute a block."""

    path: Path

    def alive(self) -> None:
        """Shows the others that this process is at it."""
        with contextlib.suppress(OSError):
            os.utime(self.path)


def _age(folder: Path) -> float:
    try:
        return folder.stat().st_mtime
    except OSError:
        return 0.0


def _removed(folder: Path) -> bool:
    """Removes a key that nobody uses."""
    try:
        with (folder / "in-use").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder)
    except OSError:
        return False
    return True


def _size(folder: Path) -> int:
    """Bytes of all files below."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                total += os.stat(os.path.join(place, name)).st_size
    return total
