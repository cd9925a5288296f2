"""A file is read if it is one: a pipe in its place would be waited for, a device would never end."""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path

from kdtune.errors import UserError

KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


@contextmanager
def regular(path: Path) -> Iterator[BufferedReader]:
    """A file, open to be read.

    Raises:
        FileNotFoundError: there is none.
        UserError: it is something else than a file.
    """
    number = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    try:
        refuse_other(path, os.fstat(number).st_mode)
        with os.fdopen(number, "rb", closefd=False) as file:
            yield file
    finally:
        os.close(number)


def read_regular(path: Path) -> bytes:
    """The content of a file; raises what ``regular`` does."""
    with regular(path) as file:
        return file.read()


def refuse_endless(path: Path, mode: int) -> None:
    """Raises UserError if it is a device or a socket. A pipe may be filled; where it is not, that is seen and told."""
    if not stat.S_ISFIFO(mode):
        refuse_other(path, mode)


def refuse_other(path: Path, mode: int) -> None:
    """Raises UserError, unless it is a file."""
    if not stat.S_ISREG(mode):
        kind = next((name for is_kind, name in KINDS if is_kind(mode)), "something else")
        raise UserError(f"{path}: is {kind}, not a file")
