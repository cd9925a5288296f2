"""In the driver: looks at the signs of life of all trials that run, and has one ended that hangs."""

import functools
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import ray

from kdtune.cluster.attendant import STOPPED, Seen, place
from kdtune.cluster.halt import Halt
from kdtune.cluster.looking import Looking
from kdtune.cluster.meters import ANSWER_WITHIN, Meters
from kdtune.cluster.silence import Silence
from kdtune.records.progress import duration

LOOK_EVERY = 5.0  # seconds
USUAL_STEPS = 10  # a trial hangs no sooner than after as many times its usual step
HALTED_WITHIN = 20.0  # seconds without a sign, once the launch is to end
BUSY = 0.05  # share of a processor that a trial at work uses before its first step, when it builds and compiles


@dataclass(frozen=True)
class Stall:
    """A trial that has given no sign of life for too long."""

    trial: str
    node: str  # its id
    seconds: float
    usual: float  # seconds of a step; nan where none is known
    where: str
    stacks: str

    @property
    def told(self) -> str:
        """``no step for 2 min (usual 0.3 s), at kdtune/datasets/decode.py:82 _load``."""
        usual = f" (usual {self.usual:.2g} s)" if math.isfinite(self.usual) else ""
        return f"no step for {duration(self.seconds)}{usual}{self.where}"


class Told(Protocol):
    """Who is told what is seen; from a thread."""

    def found(self, stall: Stall, kill: Callable[[], bool]) -> None:
        """A trial hangs; ``kill`` ends its process, unless it has just gone on, and says whether it did."""

    def goes_on(self, trial: str) -> None:
        """A trial has made a step."""

    def looked(self) -> None:
        """All have been looked at."""


@dataclass
class _Trial:
    """What the last look saw."""

    seen: Seen
    silence: Silence

    def silent(self, now: float, seen: Seen) -> float:
        """The seconds without a sign, at this look."""
        before, self.seen = self.seen, seen
        busy = seen.cpu_seconds - before.cpu_seconds > BUSY * (now - self.silence.looked)
        works = seen.sign.count != before.sign.count or seen.sign.excused or (seen.sign.step == 0 and busy)
        return self.silence.at(now, works and not seen.stopped)


class Lookout:
    """Looks from a thread for as long as the block runs."""

    def __init__(self, meters: Meters, stall_after: float | None, halt: Halt, told: Told) -> None:
        self._meters, self._stall_after, self._halt, self._told = meters, stall_after, halt, told
        self._every = min(LOOK_EVERY, stall_after / 2) if stall_after else LOOK_EVERY
        self._trials: dict[tuple[str, int, str], _Trial] = {}
        self._looking = Looking("kdtune-lookout", self._every, 2 * ANSWER_WITHIN, self._look, told.looked)

    def __enter__(self) -> "Lookout":
        """Begins."""
        self._looking.start()
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        """Looks no more."""
        self._looking.end(error)

    def _look(self) -> None:
        now, before = time.monotonic(), self._trials
        self._trials = {}
        for node, actor, seen in self._meters.seen():
            key = node, seen.process, seen.trial
            trial = before.get(key) or _Trial(seen, Silence(now, self._every))
            stepped = seen.sign.step != trial.seen.sign.step
            silent = trial.silent(now, seen)
            if stepped:
                self._told.goes_on(seen.trial)
            if silent < self._limit(seen):
                self._trials[key] = trial
            else:
                self._told.found(_stall(node, actor, seen, silent), functools.partial(_kill, actor, seen))

    def _limit(self, seen: Seen) -> float:
        """Seconds without a sign after which this trial hangs."""
        if self._stall_after is None:
            return math.inf
        usual = seen.sign.usual if math.isfinite(seen.sign.usual) else 0.0
        limit = max(self._stall_after, USUAL_STEPS * usual)
        return limit if self._halt.reason is None else min(limit, max(HALTED_WITHIN, USUAL_STEPS * usual))


def _stall(node: str, actor: Any, seen: Seen, seconds: float) -> Stall:
    stacks = "" if seen.stopped else ray.get(actor.stacks.remote(seen.process), timeout=ANSWER_WITHIN)
    at = f", at {place(stacks)}" if place(stacks) else ""
    where = f": {STOPPED}" if seen.stopped else at
    where += f", reading {seen.sign.file}" if seen.sign.file else ""
    return Stall(seen.trial, node, seconds, seen.sign.usual, where, stacks)


def _kill(actor: Any, seen: Seen) -> bool:
    return bool(ray.get(actor.kill.remote(seen.process, seen.sign.count), timeout=ANSWER_WITHIN))
