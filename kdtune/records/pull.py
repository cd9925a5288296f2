"""Results copied from a storage to a folder of this machine, so that ``kdtune results`` reads them there."""

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from kdtune.base import UserError
from kdtune.filesystem.folder import Folder, absolute
from kdtune.records.storage import WEIGHTS

STUDY = "study.yaml"
SHOWN = (".parquet", ".svg", ".png")  # tables and figures


@dataclass(frozen=True)
class File:
    """A file to copy: the folder that it lies in, its name, and where it goes below the destination."""

    source: Folder
    name: str
    below: tuple[str, ...]
    size: int
    changed: float  # seconds since 1970

    @property
    def shown(self) -> str:
        """Its path below the destination."""
        return "/".join((*self.below, self.name))


@dataclass(frozen=True)
class Pulled:
    """What came of it."""

    studies: tuple[str, ...]
    copied: int
    present: int  # there already
    megabytes: float  # that were copied


def pull(uri: str, dest: str, *, study: str | None, checkpoints: bool, say: Callable[[str], None]) -> Pulled:
    """Copies the tables and figures of a study, or of all of a storage; with ``checkpoints`` the trained weights, too.

    A file that is there already, of the same size and time, is not copied again. All names are looked at first: what
    somebody else wrote into a bucket must not decide where files of this machine go.

    Raises:
        UserError: no study there, or a name that could lead out of ``dest``.
    """
    target = Path(absolute(dest))
    studies = _studies(Folder(absolute(uri)), study)
    files = [file for name, folder in studies.items() for file in _files(name, folder, checkpoints=checkpoints)]
    copied, size = 0, 0
    for file in files:
        path = target.joinpath(*file.below, file.name)
        if path.is_file() and _same(path.stat(), file):
            continue
        content = file.source.read(file.name)
        if content is None:
            continue  # its study went on meanwhile
        say(file.shown)
        Folder(str(path.parent)).write(file.name, content)
        os.utime(path, (file.changed, file.changed))
        copied, size = copied + 1, size + len(content)
    return Pulled(tuple(studies), copied, len(files) - copied, size / 1e6)


def _same(found: os.stat_result, file: File) -> bool:
    return found.st_size == file.size and abs(found.st_mtime - file.changed) < 0.01


def _studies(root: Folder, wanted: str | None) -> dict[str, Folder]:
    """Study -> its folder: all of a storage, or the one that the URI names."""
    if root.exists(STUDY):
        found = {root.split()[1]: root}
    else:
        names = [name for name in _safe(root, root.folders()) if wanted in (None, name)]
        found = {name: root / name for name in names if (root / name).exists(STUDY)}
    found = {name: folder for name, folder in found.items() if wanted in (None, name)}
    if not found:
        which = f"study '{wanted}'" if wanted else "study"
        raise UserError(f"{root.uri}: no {which} there; URI is a storage, or one study's folder in it")
    return found


def _files(study: str, folder: Folder, *, checkpoints: bool) -> Iterator[File]:
    """What a reader of results needs, and nothing of a launch: no lock, no requests, no states."""
    facts = folder.facts()
    for name in _safe(folder, facts):
        size, changed = facts[name]
        if name.endswith(SHOWN) or name in (STUDY, "plan.json"):
            yield File(folder, name, (study,), size, changed)
    weights = folder / "checkpoints"
    for trial in _safe(weights, weights.folders()) if checkpoints else ():
        found = (weights / trial).facts().get(WEIGHTS)
        if found is not None:
            yield File(weights / trial, WEIGHTS, (study, "checkpoints", trial), *found)


def _safe(folder: Folder, names: Iterable[str]) -> list[str]:
    """The names, none of which leads anywhere else when it is put behind a folder's."""
    for name in names:
        if name in ("", ".", "..") or any(character in name for character in "/\\:\0"):
            raise UserError(f"{folder.uri}: a name there is {name!r}, which could lead elsewhere; nothing is copied")
    return sorted(names)
