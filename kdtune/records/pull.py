"""Results copied from a storage to a folder of this machine, so that ``kdtune results`` reads them there."""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from kdtune.base import UserError
from kdtune.filesystem.folder import Folder, absolute, leads_out
from kdtune.records.at_once import at_once
from kdtune.records.rows import Row, best_config
from kdtune.records.storage import WEIGHTS
from kdtune.records.stored_study import DIGESTS, IMAGE_COUNTS, StoredStudy
from kdtune.study.names import FINAL, TEACHER

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


def pull(
    uri: str, dest: str, *, study: str | None, checkpoints: bool, say: Callable[[str], None], best: bool = False
) -> Pulled:
    """Copies what tables need of a study, or of all of a storage, and figures; with ``checkpoints`` the weights, too.

    ``best``: of these only what the best configuration of each stage and method has left.

    A file that is there already, of the same size and time, is not copied again. All names are looked at first: what
    somebody else wrote there must not decide where files of this machine go, nor which of them are copied.

    Raises:
        UserError: no study there, a name that could lead out of ``dest``, or a link that leads out of its study.
    """
    target = Path(absolute(dest))
    there = absolute(uri)
    studies = _studies(Folder(there.rstrip("/") if "://" in there else there), study)
    kept = {name: _best(folder) for name, folder in studies.items()} if best else None
    files = _files(studies, checkpoints=checkpoints, kept=kept)
    for file in files:
        _refuse_link(studies[file.below[0]], *file.below[1:], file.name)
    copied, size = 0, 0
    for file, written in zip(files, at_once(partial(_copied, target), files), strict=True):
        if written is not None:
            say(file.shown)
            copied, size = copied + 1, size + written
    return Pulled(tuple(studies), copied, len(files) - copied, size / 1e6)


def _copied(target: Path, file: File) -> int | None:
    """The bytes of a file that was copied; none of one that is there already, or has gone meanwhile."""
    path = target.joinpath(*file.below, file.name)
    if path.is_file() and _same(path.stat(), file):
        return None
    content = file.source.read(file.name)
    if content is None:
        return None  # its study went on
    Folder(str(path.parent)).write(file.name, content)
    os.utime(path, (file.changed, file.changed))
    return len(content)


def _same(found: os.stat_result, file: File) -> bool:
    return found.st_size == file.size and abs(found.st_mtime - file.changed) < 0.01


def _studies(root: Folder, wanted: str | None) -> dict[str, Folder]:
    """Study -> its folder: all of a storage, or the one that the URI names."""
    if root.exists(STUDY):
        found = {root.split()[1]: root}
    else:
        names = [name for name in _safe(root, root.folders()) if wanted in (None, name)]
        there = at_once(lambda name: (root / name).exists(STUDY), names)
        found = {name: root / name for name, is_study in zip(names, there, strict=True) if is_study}
        for name in found:
            _refuse_link(root, name)
    found = {name: folder for name, folder in found.items() if wanted in (None, name)}
    if not found:
        which = f"study '{wanted}'" if wanted else "study"
        raise UserError(f"{root.uri}: no {which} there; URI is a storage, or one study's folder in it")
    return found


def _best(folder: Folder) -> set[str]:
    """The trials of the best configuration of each stage and method that has run all of its seeds."""
    where, name = folder.split()
    stored = StoredStudy(where.uri, name)
    wanted = ["stage", "method", "start", "config_id", "seed", "trial_id", "status", "miou"]
    table = stored.table_if_there("trials", columns=wanted)
    seeds = _seeds_of(stored.read_study() or {})
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in table.to_pylist() if table is not None else []:  # none before its first trial has ended
        groups.setdefault((row["stage"], row["method"]), []).append(row)
    found = (best_config(rows, seeds.get(stage, 1)) for (stage, _), rows in groups.items())
    return {row["trial_id"] for rows in found for row in rows}


def _seeds_of(study: Mapping[str, Any]) -> dict[str, int]:
    """How many seeds each stage has, as far as its file says; a given teacher is evaluated once."""
    stages = study.get("stages")
    known = [stage for stage in stages if isinstance(stage, dict)] if isinstance(stages, list) else []
    named = {str(stage.get("name")): stage.get("seeds") for stage in known}
    return {name: len(seeds) for name, seeds in named.items() if isinstance(seeds, list) and name != TEACHER}


def _files(
    studies: Mapping[str, Folder], *, checkpoints: bool, kept: Mapping[str, set[str]] | None = None
) -> list[File]:
    """All that is to be copied, study after study: first its tables, then what its trials left.

    ``kept``: the trials whose weights are wanted; none: all.
    """
    found: dict[str, list[File]] = {study: [] for study in studies}
    for study, files in zip(studies, at_once(lambda item: _tables(*item), list(studies.items())), strict=True):
        found[study] += files
    trials = at_once(
        lambda folder: _safe(folder, folder.folders()), [each / "checkpoints" for each in studies.values()]
    )
    places = [
        (study, trial)
        for study, names in zip(studies, trials, strict=True)
        for trial in names
        if checkpoints or trial.startswith(f"{FINAL}-")
    ]

    def wanted(study: str, trial: str) -> Sequence[str]:
        return (IMAGE_COUNTS, WEIGHTS) if checkpoints and (kept is None or trial in kept[study]) else (IMAGE_COUNTS,)

    of_trials = at_once(lambda place: _of_trial(studies[place[0]], *place, wanted(*place)), places)
    for (study, _), files in zip(places, of_trials, strict=True):
        found[study] += files
    return [file for files in found.values() for file in files]


def _tables(study: str, folder: Folder) -> list[File]:
    """What a reader of results needs, and nothing of a launch: no lock, no requests, no states."""
    facts = folder.facts()
    names = [name for name in _safe(folder, facts) if name.endswith(SHOWN) or name in (STUDY, DIGESTS, "plan.json")]
    return [File(folder, name, (study,), *facts[name]) for name in names]


def _of_trial(folder: Folder, study: str, trial: str, wanted: Sequence[str]) -> list[File]:
    """Those of the ``wanted`` files that a trial left."""
    place = folder / "checkpoints" / trial
    facts = place.facts()
    return [File(place, name, (study, "checkpoints", trial), *facts[name]) for name in wanted if name in facts]


def _refuse_link(folder: Folder, *names: str) -> None:
    """A link in results that others made could name any file of this machine's user."""
    to = leads_out(folder, *names)
    if to is not None:
        raise UserError(f"{'/'.join((folder.uri, *names))}: is a link to {to}, which lies elsewhere; nothing is copied")


def _safe(folder: Folder, names: Iterable[str]) -> list[str]:
    """The names, none of which leads anywhere else when it is put behind a folder's."""
    for name in names:
        if name in ("", ".", "..") or any(character in name for character in "/\\:\0"):
            raise UserError(f"{folder.uri}: a name there is {name!r}, which could lead elsewhere; nothing is copied")
    return sorted(names)
