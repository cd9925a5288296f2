"""Patterns of files below a folder, as the description of a dataset may have them: none leads out of it."""

import glob
import itertools
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import Annotated

from pydantic import AfterValidator

from kdtune import signs
from kdtune.datasets.files import BadFile, Found, is_text

_ITSELF = re.compile(r"\[([*?[])\]")  # [*], [?] and [[] stand for the sign itself


def _below(text: str) -> str:
    parts = PurePosixPath(text).parts
    if not parts or text.startswith(("/", "~")) or ".." in parts or "\\" in text or "\0" in text:
        raise ValueError(f"must be a path below root, with / between folders and no '..', got {text!r}")
    return text


def _pattern(text: str) -> str:
    wrong = next((part for part in PurePosixPath(_below(text)).parts if "**" in part and part != "**"), None)
    if wrong is not None:
        raise ValueError(f"'**' stands for folders and must be a whole part of the path, got {wrong!r}")
    return text


Below = Annotated[str, AfterValidator(_below)]  # a file
Pattern = Annotated[str, AfterValidator(_pattern)]  # files: *, ? and [abc] in a name, ** for any folders


def escaped(place: str) -> str:
    """A path as a pattern that stands for nothing else."""
    return glob.escape(place)


def fixed_part(pattern: str) -> PurePosixPath:
    """The folders of a pattern before its first sign."""
    folders = PurePosixPath(pattern).parts[:-1]
    return PurePosixPath(*(_ITSELF.sub(r"\1", part) for part in folders[: _fixed(folders)]))


def stood_for(pattern: str, path: PurePosixPath) -> tuple[str, ...]:
    """The folders of a file, from the first to the last that the pattern's signs stand for."""
    folders, own = PurePosixPath(pattern).parts[:-1], path.parent.parts
    before = _fixed(folders)
    behind = _fixed(reversed(folders[before:]))
    return own[before : len(own) - behind]


def may_meet(one: str, other: str) -> bool:
    """Whether two patterns could find the same file."""
    folders = fixed_part(one), fixed_part(other)
    return folders[0].is_relative_to(folders[1]) or folders[1].is_relative_to(folders[0])


def _fixed(folders: Iterable[str]) -> int:
    """How many come before the first with a sign."""
    return sum(1 for _ in itertools.takewhile(lambda part: not set(_ITSELF.sub("", part)) & set("*?["), folders))


def found_below(base: Path, pattern: str, suffixes: Sequence[str], follow_links: bool, found: Found) -> list[Path]:
    """The files below a folder that a pattern names, sorted, hidden ones left out.

    That there are none is a fault, and so is a link that leads out of the folder, unless links are to be followed.
    """
    with signs.reading(base):
        matched = [path for path in base.glob(pattern) if path.suffix.lower() in suffixes]
        shown = sorted(path for path in matched if not any(part[0] == "." for part in path.relative_to(base).parts))
    if not shown:
        wanted = ", ".join("*" + suffix for suffix in suffixes)
        itself = ", in which [[] stands for a [" if "[" in _ITSELF.sub("", pattern) else ""
        found.faults.append(BadFile(base / pattern, f"no {wanted} there: correct the pattern{itself}"))
    inside: list[Path] = []
    for path in shown:
        leads = None if follow_links else leads_out(path, base)
        if leads is not None:
            fault = f"is a link to {leads}, outside of the dataset's root: copy the file, or set follow_links: true"
            found.faults.append(BadFile(path, fault))
        elif not is_text(str(path.relative_to(base))):
            found.faults.append(BadFile(path, "its name is not text in UTF-8: rename it and its mask"))
        else:
            inside.append(path)
    return inside


def leads_out(path: Path, base: Path) -> str | None:
    """Where a file really lies, if that is not below the folder."""
    real = os.path.realpath(path)
    return None if Path(real).is_relative_to(os.path.realpath(base)) else real
