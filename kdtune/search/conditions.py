"""Stages that are left out: those whose ``when`` is not met, and those that nothing is left to start from."""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from kdtune.records.rows import Row, mean_std
from kdtune.search.stage_context import NoStart
from kdtune.study.graph import Waits
from kdtune.study.stage import Stage


@dataclass(frozen=True)
class Conditions:
    """Of a study, as far as its stages are decided: what ``winners`` raises of one that is not goes through."""

    stages: Mapping[str, Stage]
    waits: Mapping[str, Waits]
    winners: Callable[[str], Sequence[Row]]  # the rows (seeds) of a stage's best configuration

    def left_out(self, name: str) -> str | None:
        """Why a stage is left out; none if it runs."""
        if name not in self.waits:
            return None
        when = self.stages[name].when
        for other in (when.stage, when.beats) if when else ():
            if self.left_out(other):
                return f"'{other}' was left out"
        missed = when.missed(lambda other: mean_std([row["miou"] for row in self.winners(other)])[0]) if when else None
        lacking = [self.lacking(name, start) for start in self.waits[name].starts]
        return missed or (lacking[0] if all(lacking) else None)

    def lacking(self, name: str, start: str) -> str | None:
        """Why a stage has nothing to run from one of its starts, if others run; none if it has."""
        when = self.stages[name].when
        compared = {when.stage, when.beats} if when else set()
        gone = [other for other in sorted(self.waits[name].starts[start] - compared) if self.left_out(other)]
        return f"'{gone[0]}' was left out" if gone else None

    def known(self) -> list[str]:
        """The stages that are left out, as far as that is decided."""
        found = []
        for name in self.stages:
            with contextlib.suppress(NoStart):
                if self.left_out(name):
                    found.append(name)
        return found
