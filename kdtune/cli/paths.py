"""Errors of the system that a path is to blame for which the user gave, and not a bug."""

import errno
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

# what a path can raise when it is not what it should be, whoever names it
KINDS = (NotADirectoryError, IsADirectoryError, PermissionError, FileExistsError)
# what a disk or its settings refuse: no program is wrong for that
REFUSED = frozenset({
    errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.ENAMETOOLONG, errno.ELOOP, errno.EIO, errno.ESTALE, errno.EFBIG,
    errno.ENXIO, errno.ENODEV, errno.ETXTBSY, errno.EBUSY,
})  # fmt: skip
# a program may look for a file of its own that is not there: these are the user's only with a path that the user gave
PERHAPS = frozenset({errno.ENOENT, errno.EINVAL, errno.ENOTEMPTY})
VARIABLES = ("HOME", "TMPDIR", "RAY_TMPDIR", "TORCH_HOME", "XDG_CACHE_HOME")  # and all of kdtune's own


def told(error: OSError, words: Sequence[str]) -> str | None:
    """The line for an error, which names the path; none of a bug. ``words``: those of the command line."""
    name = os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else None
    usual = isinstance(error, KINDS) or error.errno in REFUSED
    if not usual and (name is None or error.errno not in PERHAPS or not _is_given(name, words)):
        return None
    if name is not None and isinstance(error, NotADirectoryError | FileExistsError):
        file = next((path for path in (Path(name), *Path(name).parents) if path.is_file()), None)
        if file is not None:
            return f"{file}: is a file, not a folder"
    return ": ".join(filter(None, [name, error.strerror])) or str(error)


def _is_given(name: str, words: Sequence[str]) -> bool:
    """Whether a path is one that the user gave, or leads to it, or lies in one that is not there."""
    path = Path(os.path.abspath(name))
    return any(
        path == given or path in given.parents or (given in path.parents and not given.exists())
        for given in _given(words)
    )


def _given(words: Sequence[str]) -> Iterator[Path]:
    set_ = [value for name, value in os.environ.items() if name.startswith("KDTUNE_") or name in VARIABLES]
    for word in (*words, *(word.partition("=")[2] for word in words), *set_):
        if word and "\0" not in word:
            yield Path(os.path.abspath(os.path.expanduser(word)))
