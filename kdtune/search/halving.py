"""Trials that are judged together: all of a stage pause at a rung, and the better part of them goes on.

Unlike ASHA's, the outcome does not hang on who comes first. A pause is what an interruption is: the state is kept, the
worker takes another trial. What was decided follows from the journals' histories alone, so a launch that continues
decides the same.
"""

import math
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from kdtune.records.rows import FINISHED
from kdtune.records.storage import Record
from kdtune.search.course import Offer
from kdtune.search.stage_context import WORST

Decided = Callable[[str, int, float, bool], bool]  # trial, rung, cut, whether it goes on -> whether that is news


def nothing(trial: str, rung: int, cut: float, goes_on: bool) -> bool:
    """For who only asks which trials are to go on."""
    return False


def looked_at(history: Sequence[Mapping[str, Any]], rung: int) -> int | None:
    """Which evaluation a trial is judged by at a rung: the last until then; without one, the first after it.

    The rungs of a study may change once its trials have begun, so that one was evaluated after the new rung alone.
    """
    until = sum(entry["step"] <= rung for entry in history)
    return max(until - 1, 0) if history else None


class Halves:
    """The trials of one stage, for its course. Rungs are steps."""

    def __init__(
        self,
        order: Iterable[str],
        plan: Iterable[str],
        rungs: Sequence[int],
        factor: float,
        record: Callable[[str], Record | None],
        offer: Callable[[str], Offer],
        decided: Decided = nothing,
        told: Callable[[str], None] = lambda line: None,
    ) -> None:
        """``order``: the trials that have not completed, as they are to begin. ``plan``: all trials of the stage.

        ``record``: what is known of a trial, its history among it. ``decided`` is told of each trial at each rung, and
        ``told`` of each rung in words.
        """
        self._order, self._plan, self._rungs, self._factor = list(order), list(plan), list(rungs), factor
        self._record, self._offer, self._decided, self._told = record, offer, decided, told
        self._running: dict[str, int] = {}  # trial -> the step from which it went on
        self._out: set[str] = set()  # trials that go on no more
        self._noted: set[int] = set()  # rungs
        self._ready: deque[str] = deque()
        self.next_rung = math.inf  # the first that is not decided
        self._missing: set[str] = set()  # trials that have not come to it
        self._judge()

    def take(self, tune_id: str) -> Offer | None:
        """The next trial that need not wait for others."""
        if not self._ready:
            return None
        trial = self._ready.popleft()
        self._running[trial] = self._step(trial)
        return self._offer(trial)

    @property
    def left(self) -> bool:
        """Whether a trial is to go on now; those at a rung wait for some that run, or are ready themselves."""
        return bool(self._ready)

    @property
    def open(self) -> list[str]:
        """The trials that have not come to their ends."""
        return [trial for trial in self._order if not self._ended(trial)]

    def completed(self, tune_id: str, result: dict[str, Any] | None, error: bool) -> None:
        """Histories tell."""

    def over(self, trial: str) -> None:
        """A trial has paused, or ended."""
        began = self._running.pop(trial)
        if not self._ended(trial) and self._step(trial) <= began:
            self._out.add(trial)  # it came to nothing, and would again
        if trial in self._missing and self._value(trial, int(self.next_rung)) is not None:
            self._missing.discard(trial)
            if not self._missing:
                self._judge()
        elif not self._ended(trial):
            self._ready.append(trial)

    def _judge(self) -> None:
        among, self.next_rung, self._missing = self._plan, math.inf, set()
        for rung in self._rungs:
            if len(among) < 2:
                break  # the last that is left need not pause
            values = {trial: self._value(trial, rung) for trial in among}
            known = {trial: value for trial, value in values.items() if value is not None}
            if len(known) < len(values):
                self.next_rung, self._missing = rung, values.keys() - known.keys()
                break
            among = self._better(rung, known)
        goes_on = set(among)
        self._ready = deque(trial for trial in self.open if trial in goes_on and self._is_free(trial))

    def _better(self, rung: int, values: Mapping[str, float]) -> list[str]:
        """Those of these trials that go on from a rung: the better part, rounded up, and who is equal to its last."""
        number = math.ceil(len(values) / self._factor)
        cut = sorted(values.values(), reverse=True)[number - 1] if values else WORST
        better = {trial: value >= cut and value > WORST for trial, value in values.items()}
        self._out.update(trial for trial, goes_on in better.items() if not goes_on)
        if rung not in self._noted:
            self._noted.add(rung)
            self._note(rung, cut, better)
        return [trial for trial, goes_on in better.items() if goes_on]

    def _note(self, rung: int, cut: float, better: Mapping[str, bool]) -> None:
        if any([self._decided(trial, rung, cut, goes_on) for trial, goes_on in better.items()]):
            at_least = f" of at least {cut:.2f}" if cut > WORST else ""
            count = sum(better.values())
            self._told(f"{len(better)} trials are at step {rung}: the {count} with an mIoU{at_least} go on")

    def _is_free(self, trial: str) -> bool:
        return trial not in self._running and self._step(trial) < self.next_rung

    def _ended(self, trial: str) -> bool:
        record = self._record(trial)
        status = record["row"]["status"] if record else "running"
        return trial in self._out or (status in FINISHED and status != "stopped")

    def _step(self, trial: str) -> int:
        """As far as it has come."""
        record = self._record(trial)
        return max((entry["step"] for entry in record["history"]), default=0) if record else 0

    def _value(self, trial: str, rung: int) -> float | None:
        """Its mIoU at a rung [percent]; the worst of one that failed before; none of one that is yet to come."""
        record = self._record(trial)
        status = record["row"]["status"] if record else "running"
        if record is not None and (status == "completed" or self._step(trial) >= rung):
            at = looked_at(record["history"], rung)
            miou = None if at is None else record["history"][at]["miou"]
            return WORST if miou is None else float(miou)
        return WORST if trial in self._out or status in ("failed", "diverged") else None
