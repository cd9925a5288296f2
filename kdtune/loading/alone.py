"""One process of a node at a time: what all need is made by one, and the others wait for it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from kdtune import signs

SIGN_EVERY = 1.0  # seconds


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """No other process is in such a block for the same path. To wait for one is no hang: it is watched itself.

    Raises:
        OSError: the folder of the path cannot be written.
    """
    lock = FileLock(f"{path}.lock", mode=0o666)  # of any user: the cache may belong to a whole node
    while not lock.is_locked:
        try:
            lock.acquire(timeout=SIGN_EVERY)
        except Timeout:
            signs.alive()
    try:
        yield
    finally:
        lock.release()
