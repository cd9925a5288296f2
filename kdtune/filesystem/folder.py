"""A folder anywhere pyarrow opens a file system: whole files in, whole files out.

A storage that is away for a moment is waited for (see ``patience``), wherever it is. A network file system that is
mounted "hard" makes its caller wait in the kernel instead: nothing can be done here but to leave the lock to its lease.
"""

import contextlib
import hashlib
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from io import BufferedReader, BytesIO
from pathlib import Path
from typing import TypeVar

from pyarrow import fs

from kdtune import signs
from kdtune.errors import UserError
from kdtune.filesystem import object_stores
from kdtune.filesystem.patience import AWAY, StorageError, expect, patiently
from kdtune.filesystem.regular import regular

T = TypeVar("T")

READERS = 16  # files read at once


@dataclass(frozen=True)
class Folder:
    """A folder by its URI: a local path, ``s3://...``, ``gs://...``. Cheap to make, to pickle and to send."""

    uri: str

    def __post_init__(self) -> None:
        object_stores.refuse_credentials(self.uri)

    def __truediv__(self, name: str) -> "Folder":
        name = _plain(name)
        base, options = self._parts
        return Folder(f"{base.rstrip('/')}/{name}{options}")

    @property
    def _parts(self) -> tuple[str, str]:
        """The path, and what follows it: ``s3://bucket/path``, ``?endpoint_override=...``."""
        base, question, options = self.uri.partition("?") if "://" in self.uri else (self.uri, "", "")
        return base, question + options

    def split(self) -> tuple["Folder", str]:
        """The folder that this one (or a file of this name) lies in, and its own name."""
        base, options = self._parts
        parent, slash, name = base.rpartition("/")
        return Folder((parent or slash or ".") + options), name

    @property
    def local(self) -> Path | None:
        """The path, if this machine holds it.

        Raises:
            UserError: no such kind of URI.
        """
        scheme = object_stores.scheme_of(self.uri)
        if not scheme:
            return Path(self.uri).expanduser().absolute()
        if scheme in object_stores.PLACES:
            return None
        system, path = object_stores.opened(self.uri)
        return Path(path) if isinstance(system, fs.LocalFileSystem) else None

    def holds(self, path: str | None) -> bool:
        """Whether a path of this machine lies in it."""
        return path is not None and self.local is not None and Path(path).is_relative_to(self.local)

    def expected(self) -> None:
        """Another process has reached it: should it not answer, this one waits for it from the start."""
        expect(object_stores.root_of(self.uri))

    def _at(self, local: Callable[[Path], T], remote: Callable[[fs.FileSystem, str], T]) -> T:
        """Does one or the other, again while the storage is away.

        Raises:
            StorageError: an object store refuses, or any storage does not answer for too long.
            OSError: what a disk refuses.
        """

        def once() -> T:
            path = self.local
            if path is not None:
                return local(path)
            try:
                with signs.excused():  # requests have limits of their own
                    return object_stores.ask(self.uri, remote)
            except OSError as error:
                raise object_stores.told(self.uri, error) from None

        try:
            return patiently(object_stores.root_of(self.uri), once)
        except OSError as error:
            if error.filename is None:  # whose error it is must be seen above, too
                error.filename = str(self.local or self.uri)
            if isinstance(error, StorageError) or error.errno not in AWAY:
                raise
            told = f"{self.uri}: does not answer: {error.strerror}; see that it is mounted, then try again"
            raise StorageError(error.errno, told) from None

    def read(self, name: str) -> bytes | None:
        """The content of a file, or none if it is not there."""
        return self._taken(name, lambda file: file.read())

    def sha256(self, name: str) -> str | None:
        """Of a file's content, or none if it is not there; a large one on a disk takes no memory for that."""
        return self._taken(name, lambda file: hashlib.file_digest(file, "sha256").hexdigest())

    def _taken(self, name: str, take: Callable[[BufferedReader | BytesIO], T]) -> T | None:
        name = _plain(name)

        def local(path: Path) -> T | None:
            try:
                with regular(path / name) as file:
                    return take(file)
            except FileNotFoundError:
                return None

        def remote(system: fs.FileSystem, path: str) -> T | None:
            content = object_stores.read(system, f"{path}/{name}")
            return None if content is None else take(BytesIO(content))

        return self._at(local, remote)

    def read_many(self, names: Sequence[str]) -> dict[str, bytes]:
        """The contents of those of these files that are there, read at once: each need not wait for the last."""
        with ThreadPoolExecutor(READERS) as pool:
            contents = pool.map(self.read, names)
            return {name: content for name, content in zip(names, contents, strict=True) if content is not None}

    def write(self, name: str, content: bytes) -> None:
        """Replaces a file whole or not at all: a reader sees the old one or the new one.

        Raises:
            OSError: no room, no right, no connection.
        """
        name = _plain(name)

        def local(path: Path) -> None:
            path.mkdir(parents=True, exist_ok=True)
            partial = path / f"{name}.{_writer()}.partial"
            try:
                _put(partial, content)
                partial.replace(path / name)
            except OSError:
                partial.unlink(missing_ok=True)
                raise

        self._at(local, lambda system, path: object_stores.write(system, f"{path}/{name}", content))

    def create(self, name: str, content: bytes) -> bool:
        """Writes a file that is not there yet; false if it is.

        Exclusive on a local or shared folder. An object store has no such request: of two at once both may be told
        that they made it, and the later stays.
        """
        name = _plain(name)

        def local(path: Path) -> bool:
            path.mkdir(parents=True, exist_ok=True)
            partial = path / f"{name}.{_writer()}.partial"
            try:
                _put(partial, content)
                os.link(partial, path / name)  # appears with its content, unlike open(..., "x")
            except FileExistsError:
                return partial.samefile(path / name)  # a server may have made it and lost its answer
            finally:
                partial.unlink(missing_ok=True)
            return True

        def remote(system: fs.FileSystem, path: str) -> bool:
            there = object_stores.read(system, f"{path}/{name}")
            if there is None:
                object_stores.write(system, f"{path}/{name}", content)
            return there is None or there == content

        return self._at(local, remote)

    def names(self, unfinished: bool = False) -> list[str]:
        """The names of all files directly in the folder, sorted; none if it is not there.

        ``unfinished``: those, too, that a process was killed in writing.
        """
        names = [info.base_name for info in self._list() if info.is_file]
        return [name for name in names if unfinished or not name.endswith(".partial")]

    def size(self) -> int:
        """Bytes of all files directly in the folder."""
        return sum(info.size for info in self._list() if info.is_file)

    def facts(self) -> dict[str, tuple[int, float]]:
        """By name, the size [bytes] and time of change [seconds since 1970] of all files directly in the folder."""
        return {info.base_name: (info.size, (info.mtime_ns or 0) / 1e9) for info in self._list() if info.is_file}

    def exists(self, name: str) -> bool:
        """Whether there is a file of that name."""
        name = _plain(name)

        return self._at(
            lambda path: (path / name).is_file(), lambda system, path: object_stores.exists(system, f"{path}/{name}")
        )

    def folders(self) -> list[str]:
        """The names of the folders directly in it, sorted."""
        if object_stores.scheme_of(self.uri) in ("gs", "gcs"):  # pyarrow knows a folder there by what lies in it only
            return self._at(lambda path: [], object_stores.folders)
        return [info.base_name for info in self._list() if info.type == fs.FileType.Directory]

    def _list(self) -> list[fs.FileInfo]:
        return self._at(lambda path: _listed(fs.LocalFileSystem(), str(path)), _listed)

    def remove(self, name: str) -> None:
        """Removes a file; nothing happens if it is not there.

        On an object store pyarrow leaves an empty object "folder/" then, so that the folder does not go with its last
        file; no method here shows it.
        """
        name = _plain(name)

        def remote(system: fs.FileSystem, path: str) -> None:
            with contextlib.suppress(FileNotFoundError):
                system.delete_file(f"{path}/{name}")

        self._at(lambda path: (path / name).unlink(missing_ok=True), remote)


def _plain(name: str) -> str:
    """The name, if it names something directly in a folder: what storage or a user says must not lead elsewhere.

    Raises:
        UserError: it does not.
    """
    if not name or name in (".", "..") or any(sign in name for sign in "/\\\0"):
        raise UserError(f"{name!r} is no name of a file")
    return name


def _listed(system: fs.FileSystem, path: str) -> list[fs.FileInfo]:
    try:
        found = system.get_file_info(fs.FileSelector(path, allow_not_found=True))
    except FileNotFoundError:  # it came or went between pyarrow's look and its listing
        return []
    return sorted(found, key=lambda info: info.base_name)


def _writer() -> str:
    """No two writers at once share it."""
    return f"{os.getpid()}-{threading.get_ident()}"


def _put(path: Path, content: bytes) -> None:
    """On the disk, not only on its way there: after a power cut a file that was renamed could be an empty one."""
    path.unlink(missing_ok=True)  # what lies there may be a link that somebody planted
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def absolute(uri: str) -> str:
    """A local path as workers in other folders must write it; a URI as it is.

    Raises:
        UserError: it holds credentials, is a path that is no text, or a URI but for its slashes.
    """
    object_stores.refuse_credentials(uri)
    object_stores.refuse_misspelt(uri)
    try:
        uri.encode()
    except UnicodeEncodeError:
        shown = os.fsencode(uri).decode(errors="backslashreplace")
        raise UserError(f"{shown}: this path is not text in UTF-8: rename it, or make a link to it") from None
    return uri if "://" in uri else str(Path(uri).expanduser().absolute())


def leads_out(folder: Folder, *names: str) -> Path | None:
    """Where a path below a folder leads, if links take it out of the folder; none in an object store."""
    if folder.local is None:
        return None
    try:
        found = folder.local.joinpath(*names).resolve()
    except (OSError, RuntimeError):  # links that lead in a circle
        return folder.local.joinpath(*names)
    return None if found.is_relative_to(folder.local.resolve()) else found


def read_file(uri: str) -> bytes | None:
    """The content of one file, or none if it is not there (or is a folder)."""
    folder, name = Folder(uri).split()
    if folder.local is not None and (folder.local / name).is_dir():
        return None
    return folder.read(name)
