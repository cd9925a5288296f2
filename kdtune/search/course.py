"""The stages of a launch on their way: which wait, which have trials to run, which are decided. Knows nothing of Ray.

A stage opens start by start, each as soon as the stages are decided that it waits for; it is decided when all of its
trials have ended. Of what is ready, that comes first which the longest chain of stages waits for.
"""

import functools
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from kdtune.search.stage_context import NoStart
from kdtune.study.graph import Waits, chains

Labels = frozenset[tuple[str, str]]  # of nodes


@dataclass(frozen=True)
class Offer:
    """A trial to run: its id, and what Tune hands to its worker."""

    trial_id: str
    config: Mapping[str, Any]


class Source(Protocol):
    """What gives the trials of a stage."""

    def take(self, tune_id: str) -> Offer | None:
        """The next; none if there is none left. ``tune_id``: Tune's name for it."""

    @property
    def left(self) -> bool:
        """Whether there may be one."""

    def completed(self, tune_id: str, result: dict[str, Any] | None, error: bool) -> None:
        """A trial of any stage has ended, as Tune tells it."""

    def over(self, trial: str) -> None:
        """One of its trials runs no more."""


@dataclass
class Listed:
    """A list of trials, in its order."""

    offers: deque[Offer] = field(default_factory=deque)

    def take(self, tune_id: str) -> Offer | None:
        """The next."""
        return self.offers.popleft() if self.offers else None

    @property
    def left(self) -> bool:
        """Whether there is one."""
        return bool(self.offers)

    def completed(self, tune_id: str, result: dict[str, Any] | None, error: bool) -> None:
        """The list does not depend on results."""

    def over(self, trial: str) -> None:
        """Nor on ends."""


class MadeAgain(Exception):
    """Weights that a stage is about to load are damaged: the stages that made them have trials to run again."""

    def __init__(self, stages: Collection[str]) -> None:
        super().__init__(stages)
        self.stages = frozenset(stages)


@dataclass
class _Way:
    """One stage."""

    waits: Waits
    decided: bool
    labels: Labels = frozenset()
    opened: set[str] = field(default_factory=set)  # starts
    sources: list[Source] = field(default_factory=list)
    running: dict[str, Source] = field(default_factory=dict)  # trial -> what gave it
    also: frozenset[str] = frozenset()  # stages that it waits for since what they made is damaged
    faults: dict[str, NoStart] = field(default_factory=dict)  # start -> why there is nothing to start from

    @property
    def left(self) -> bool:
        return any(source.left for source in self.sources)

    @property
    def ended(self) -> bool:
        return len(self.opened) == len(self.waits.starts) and not self.left and not self.running


class Course:
    """Of one launch. ``next`` and ``ended`` are called from one thread."""

    def __init__(
        self,
        waits: Mapping[str, Waits],
        running: Collection[str],
        open_: Callable[[str, Sequence[str]], Source],
        close: Callable[[str], None],
        slots: Callable[[str], int],
        *,
        widen: Callable[[str], Source | None] = lambda name: None,
        labels: Mapping[str, Labels] | None = None,
        at_once: int | None = None,
    ) -> None:
        """``running``: the stages that this launch runs; the others are decided, as far as they ever will be.

        ``open_`` prepares the trials of a stage from some of its starts. It may raise NoStart, if one of these has come
        to nothing, and MadeAgain. ``close`` is told of a stage whose trials have all ended, and ``widen`` asked before
        whether it has more by now.

        ``slots``: the trials that the nodes which may run a stage hold at once. ``at_once``: those that the launch is
        to run at once; none: as many as fit.
        """
        known = labels or {}
        self._ways = {
            name: _Way(each, decided=name not in running, labels=known.get(name, frozenset()))
            for name, each in waits.items()
        }
        self._open, self._close, self._widen = open_, close, widen
        self._slots, self._at_once = slots, at_once
        self._waits = waits
        self._changed = True

    def advance(self) -> bool:
        """Opens and closes what can be; whether there is, or will be, anything to run."""
        while self._changed:
            self._changed = False
            for name, way in self._ways.items():
                if way.decided:
                    continue
                self._open_ready(name, way)
                if way.ended and way.also <= self._decided:
                    self._changed = True
                    self._end(name, way)
        return any(way.left or way.running for way in self._ways.values())

    @property
    def _decided(self) -> set[str]:
        return {name for name, way in self._ways.items() if way.decided}

    def _end(self, name: str, way: _Way) -> None:
        """Decides a stage whose trials have all ended, unless it has more by now."""
        try:
            more = self._widen(name)
        except MadeAgain as again:
            self._reopen(again.stages)
            way.also = again.stages
            return
        if more is not None:
            way.sources.append(more)
            return
        way.decided = True
        self._close(name)

    def _open_ready(self, name: str, way: _Way) -> None:
        """Opens the starts of a stage that wait for nothing any more."""
        decided = self._decided
        ready = [start for start, needed in way.waits.starts.items() if needed | way.also <= decided]
        starts = [start for start in ready if start not in way.opened | way.faults.keys()]
        if starts:
            self._changed = True
            try:
                self._open_starts(name, way, starts)
            except MadeAgain as again:
                self._reopen(again.stages)
                way.also = again.stages

    def _open_starts(self, name: str, way: _Way, starts: Sequence[str]) -> None:
        try:
            way.sources.append(self._open(name, starts))
            way.opened.update(starts)
        except NoStart as fault:
            if len({way.waits.starts[start] for start in starts}) == 1:  # one, or such as begin together or never
                way.faults |= dict.fromkeys(starts, fault)
                return
            for start in starts:
                self._open_starts(name, way, [start])

    def _reopen(self, names: Iterable[str]) -> None:
        for name in names:
            way = self._ways[name]
            way.decided, way.opened, way.sources = False, set(), []

    @property
    def undecided(self) -> list[str]:
        """The stages that run, or will."""
        return [name for name, way in self._ways.items() if not way.decided]

    def next(self, tune_id: str) -> Offer | None:
        """A trial to run now, or none: until another has ended, or for good."""
        self.advance()
        running = {name: len(way.running) for name, way in self._ways.items()}
        if self._at_once is not None and sum(running.values()) >= self._at_once:
            return None
        for name in self._by_urgency:
            way = self._ways[name]
            beside = sum(running[other] for other, each in self._ways.items() if each.labels == way.labels)
            if not way.left or beside >= self._slots(name):
                continue
            for source in way.sources:
                offer = source.take(tune_id)
                if offer is not None:
                    way.running[offer.trial_id] = source
                    return offer
        self._changed = True  # a source that was asked may have come to its end
        return None

    @functools.cached_property
    def _by_urgency(self) -> list[str]:
        """The stages, those first with which the longest chain begins; of equal ones the study's first."""
        slots = max((self._slots(name) for name, way in self._ways.items() if way.left), default=1)
        steps = {name: chain.steps for name, chain in chains(self._waits, min(slots, self._at_once or slots)).items()}
        return sorted(steps, key=lambda name: -steps[name])

    def ended(self, stage: str, trial_id: str) -> None:
        """A trial runs no more, whatever became of it."""
        source = self._ways[stage].running.pop(trial_id, None)
        if source is not None:
            source.over(trial_id)
        self._changed = True

    def completed(self, tune_id: str, result: dict[str, Any] | None, error: bool) -> None:
        """What Tune tells of a trial that has ended, for searches that learn from it."""
        for way in self._ways.values():
            for source in way.sources:
                source.completed(tune_id, result, error)

    def refuse_faults(self) -> None:
        """Nothing, if all stages are decided.

        Raises:
            NoStart: one cannot be, since a stage before it has come to nothing.
        """
        for way in self._ways.values():
            for start in way.waits.starts:  # the study's first, whichever was found first
                if start in way.faults:
                    raise way.faults[start]
