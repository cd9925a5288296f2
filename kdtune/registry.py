"""Names to classes: a package's own table, then the entry points of installed packages."""

import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoint, EntryPoints, entry_points
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

from kdtune.text import did_you_mean


@cache  # looks at every installed package, which takes 10 ms, and is asked for with every trial
def _others(group: str) -> EntryPoints:
    return entry_points(group=group)


@cache  # a module that fails is not tried again with every table that is written
def _loaded(point: EntryPoint) -> tuple[Any, str | None]:
    """What an entry point names; else the error, and that in a line."""
    try:
        return point.load(), None
    except Exception as error:  # another package's module may raise anything
        place = traceback.extract_tb(error.__traceback__)[-1]
        told = f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}"
        return error, f"{told} ({Path(place.filename).name}:{place.lineno})"


@dataclass(frozen=True)
class PlugIn:
    """What another package adds: ``loss 'mine'`` of ``my-package`` 1.2."""

    what: str
    package: str
    version: str

    def __str__(self) -> str:
        return f"{self.what} of {self.package} {self.version}"


class Registry:
    """A table ``name -> "module:Class"`` that a third-party package extends by an entry point.

    The table is plain text, so that importing it costs nothing: a class is imported when it is asked for.
    """

    def __init__(self, kind: str, group: str, table: Mapping[str, str]) -> None:
        self.kind = kind
        self.group = group
        self.table = table

    def names(self) -> list[str]:
        """Every known name: the package's own, in the order of its table, then those of other packages."""
        others = sorted(point.name for point in _others(self.group))
        return [*self.table, *(name for name in others if name not in self.table)]

    def resolve(self, name: str) -> Any:
        """The class of that name.

        Raises:
            ValueError: no such name; lists those there are. Or another package's, which cannot be imported.
        """
        if name in self.table:
            return resolve_name(self.table[name])
        point = self._point(name)
        if point is not None:
            found, fault = _loaded(point)
            if fault is not None:
                raise ValueError(
                    f"{self.plug_in(name)} cannot be imported: {fault}; mend that package, or remove it"
                ) from found
            return found
        known = self.names()
        raise ValueError(f"unknown {self.kind} '{name}'{did_you_mean(name, known)}; there are: {', '.join(known)}")

    def usable(self) -> list[str]:
        """``names``, without those of other packages that cannot be imported."""
        return [name for name in self.names() if name in self.table or self._can_be_imported(name)]

    def plug_in(self, name: str) -> PlugIn | None:
        """The package that brings this name; none if it is kdtune's own, or unknown."""
        point = None if name in self.table else self._point(name)
        if point is None or point.dist is None:
            return None
        return PlugIn(f"{self.kind} '{name}'", point.dist.name, point.dist.version)

    def _point(self, name: str) -> EntryPoint | None:
        return next((point for point in _others(self.group) if point.name == name), None)

    def _can_be_imported(self, name: str) -> bool:
        try:
            self.resolve(name)
        except ValueError:
            return False
        return True
