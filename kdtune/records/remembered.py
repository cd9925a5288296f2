"""Files of a study that this process has just read or written: asked for again, they cost no request."""

import contextlib
from collections.abc import Iterator, Sequence
from contextvars import ContextVar

from kdtune.filesystem.folder import Folder

LARGEST = 4_000_000  # bytes of a file that is kept: small beside what a launch holds of the trials in such tables

_kept: ContextVar[dict[str, bytes] | None] = ContextVar("kept", default=None)


@contextlib.contextmanager
def remembered() -> Iterator[None]:
    """Keeps small files while the block runs: a launch, which alone writes its study, and what it tells at last.

    Threads that begin in the block do not share what is kept.
    """
    token = _kept.set({})
    try:
        yield
    finally:
        _kept.reset(token)


def read(folder: Folder, name: str, *, anew: bool = False) -> bytes | None:
    """See ``Folder.read``; ``anew``: from the storage, whatever is kept."""
    kept = _kept.get()
    content = None if anew or kept is None else kept.get(_key(folder, name))
    if content is None:
        content = folder.read(name)
        _keep(folder, name, content)
    return content


def read_many(folder: Folder, names: Sequence[str]) -> dict[str, bytes]:
    """See ``Folder.read_many``."""
    contents = folder.read_many(names)
    for name in names:
        _keep(folder, name, contents.get(name))
    return contents


def write(folder: Folder, name: str, content: bytes) -> None:
    """See ``Folder.write``; what is there already is not written again."""
    if (_kept.get() or {}).get(_key(folder, name)) == content:
        return
    _keep(folder, name, None)  # it may fail halfway
    folder.write(name, content)
    _keep(folder, name, content)


def _keep(folder: Folder, name: str, content: bytes | None) -> None:
    kept = _kept.get()
    if kept is not None:
        kept.pop(_key(folder, name), None)
        if content is not None and len(content) <= LARGEST:
            kept[_key(folder, name)] = content


def _key(folder: Folder, name: str) -> str:
    return (folder / name).uri
