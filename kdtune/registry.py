"""Names to classes: a package's own table, then the entry points of installed packages."""

from collections.abc import Mapping
from functools import cache
from importlib.metadata import EntryPoints, entry_points
from pkgutil import resolve_name
from typing import Any

from kdtune.text import did_you_mean


@cache  # looks at every installed package, which takes 10 ms, and is asked for with every trial
def _others(group: str) -> EntryPoints:
    return entry_points(group=group)


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
            ValueError: no such name; lists those there are.
        """
        if name in self.table:
            return resolve_name(self.table[name])
        for point in _others(self.group):
            if point.name == name:
                return point.load()
        known = self.names()
        raise ValueError(f"unknown {self.kind} '{name}'{did_you_mean(name, known)}; there are: {', '.join(known)}")
