"""A folder anywhere pyarrow opens a file system: whole files in, whole files out."""

import os
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
from pyarrow import fs

from kdtune.base import UserError

READERS = 16  # files read at once


@dataclass(frozen=True)
class Folder:
    """A folder by its URI: a local path, ``s3://...``, ``gs://...``. Cheap to make, to pickle and to send."""

    uri: str

    def __truediv__(self, name: str) -> "Folder":
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

    def _open(self) -> tuple[fs.FileSystem, str]:
        try:
            if "://" not in self.uri:
                return fs.LocalFileSystem(), str(Path(self.uri).expanduser().absolute())
            found: tuple[fs.FileSystem, str] = fs.FileSystem.from_uri(self.uri)
            return found
        except (pa.ArrowInvalid, ValueError) as error:
            raise UserError(f"{self.uri}: not a folder that can be opened: {error}") from None

    @property
    def local(self) -> Path | None:
        """The path, if this machine holds it."""
        system, path = self._open()
        return Path(path) if isinstance(system, fs.LocalFileSystem) else None

    def read(self, name: str) -> bytes | None:
        """The content of a file, or none if it is not there."""
        system, path = self._open()
        try:
            with system.open_input_stream(f"{path}/{name}") as stream:
                content: bytes = stream.read()
                return content
        except FileNotFoundError:
            return None

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
        system, path = self._open()
        target = f"{path}/{name}"
        if not isinstance(system, fs.LocalFileSystem):
            with system.open_output_stream(target) as stream:  # an object store shows an object when it is complete
                stream.write(content)
            return
        Path(target).parent.mkdir(parents=True, exist_ok=True)
        partial = f"{target}.{os.getpid()}-{threading.get_ident()}.partial"
        try:
            Path(partial).write_bytes(content)
            os.replace(partial, target)
        except OSError:
            Path(partial).unlink(missing_ok=True)
            raise

    def create(self, name: str, content: bytes) -> bool:
        """Writes a file that is not there yet; false if it is. Exclusive on a local or shared folder."""
        system, path = self._open()
        if not isinstance(system, fs.LocalFileSystem):
            if self.read(name) is not None:
                return False
            self.write(name, content)
            return True
        Path(path).mkdir(parents=True, exist_ok=True)
        partial = Path(f"{path}/{name}.{os.getpid()}-{threading.get_ident()}.partial")
        partial.write_bytes(content)
        try:
            os.link(partial, f"{path}/{name}")  # appears with its content, unlike open(..., "x")
        except FileExistsError:
            return False
        finally:
            partial.unlink()
        return True

    def names(self, unfinished: bool = False) -> list[str]:
        """The names of all files directly in the folder, sorted; none if it is not there.

        ``unfinished``: those, too, that a process was killed in writing.
        """
        system, path = self._open()
        found = system.get_file_info(fs.FileSelector(path, allow_not_found=True))
        names = sorted(info.base_name for info in found if info.is_file)
        return [name for name in names if unfinished or not name.endswith(".partial")]

    def size(self) -> int:
        """Bytes of all files directly in the folder."""
        system, path = self._open()
        found = system.get_file_info(fs.FileSelector(path, allow_not_found=True))
        return sum(info.size for info in found if info.is_file)

    def exists(self, name: str) -> bool:
        """Whether there is a file of that name."""
        system, path = self._open()
        return bool(system.get_file_info(f"{path}/{name}").is_file)

    def facts(self) -> dict[str, tuple[int, float]]:
        """By name, the size [bytes] and time of change [seconds since 1970] of all files directly in the folder."""
        system, path = self._open()
        found = system.get_file_info(fs.FileSelector(path, allow_not_found=True))
        return {info.base_name: (info.size, (info.mtime_ns or 0) / 1e9) for info in found if info.is_file}

    def folders(self) -> list[str]:
        """The names of the folders directly in it, sorted."""
        system, path = self._open()
        found = system.get_file_info(fs.FileSelector(path, allow_not_found=True))
        return sorted(info.base_name for info in found if info.type == fs.FileType.Directory)

    def remove(self, name: str) -> None:
        """Removes a file; nothing happens if it is not there."""
        system, path = self._open()
        try:
            system.delete_file(f"{path}/{name}")
        except FileNotFoundError:
            pass


def absolute(uri: str) -> str:
    """A local path as workers in other folders must write it; a URI as it is."""
    return uri if "://" in uri else str(Path(uri).expanduser().absolute())


def read_file(uri: str) -> bytes | None:
    """The content of one file, or none if it is not there (or is a folder)."""
    folder, name = Folder(uri).split()
    if folder.local is not None and (folder.local / name).is_dir():
        return None
    return folder.read(name)
