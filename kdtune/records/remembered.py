"""Files of a study that this process has just read or written: asked for again, they cost no request."""

import contextlib
import threading
from collections.abc import Iterator, Sequence

from kdtune.filesystem.folder import Folder

LARGEST = 4_000_000  # bytes of a file that is kept: small beside what a launch holds of the trials in such tables

_kept: dict[str, bytes] | None = None
_at_it = threading.RLock()  # what a thread reads must not replace what another has just written


@contextlib.contextmanager
def remembered() -> Iterator[None]:
    """Keeps small files while the block runs: a launch, which alone writes its study, and what it tells at last.

    All threads share what is kept, for Tune's writes tables that the launch's own reads.
    """
    global _kept
    _kept = {}
    try:
        yield
    finally:
        _kept = None


def read(folder: Folder, name: str, *, anew: bool = False) -> bytes | None:
    """See ``Folder.read``; ``anew``: from the storage, whatever is kept."""
    if _kept is None:
        return folder.read(name)
    with _at_it:
        content = None if anew else (_kept or {}).get(_key(folder, name))
        if content is None:
            content = folder.read(name)
            _keep(folder, name, content)
        return content


def read_many(folder: Folder, names: Sequence[str]) -> dict[str, bytes]:
    """See ``Folder.read_many``."""
    with _at_it:
        contents = folder.read_many(names)
        for name in names:
            _keep(folder, name, contents.get(name))
        return contents


def write(folder: Folder, name: str, content: bytes) -> None:
    """See ``Folder.write``; what is there already is not written again."""
    with _at_it:
        if (_kept or {}).get(_key(folder, name)) == content:
            return
        _keep(folder, name, None)  # it may fail halfway
        folder.write(name, content)
        _keep(folder, name, content)


def _keep(folder: Folder, name: str, content: bytes | None) -> None:
    if _kept is not None:
        _kept.pop(_key(folder, name), None)
        if content is not None and len(content) <= LARGEST:
            _kept[_key(folder, name)] = content


def _key(folder: Folder, name: str) -> str:
    return (folder / name).uri
