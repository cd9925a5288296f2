"""Where a launch does not go on: a trial that hangs is ended and tried once more, one that waits is told of."""

import contextlib
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kdtune.cluster import metrics
from kdtune.cluster.halt import Halt
from kdtune.cluster.lookout import Stall
from kdtune.cluster.nodes import free
from kdtune.records import trouble
from kdtune.records.progress import Reporter, duration
from kdtune.records.storage import Storage
from kdtune.records.trouble import Trouble
from kdtune.search.placement import elsewhere
from kdtune.study.names import stage_of
from kdtune.study.stage import Stage

WAITS_AFTER = 60.0  # seconds without a place for a trial before that is told
PLACED_EVERY = 1.0  # seconds between looks at Tune's trials, of which there may be thousands


@dataclass(frozen=True)
class _Asked:
    """What a stage's trials ask Ray for."""

    resources: Mapping[str, float]
    labels: Mapping[str, str]

    @property
    def told(self) -> str:
        amounts = {kind.upper(): self.resources[kind] for kind in ("gpu", "cpu") if kind in self.resources}
        units = [f"{amount:g} {kind}{'s' * (amount > 1)}" for kind, amount in amounts.items()]
        labels = ", ".join(f"{key}={value}" for key, value in self.labels.items())
        return " and ".join(units) + (f" on a node with {labels}" if labels else "")


class Stalls:
    """Of one launch. Told from Tune's thread and from the lookout's."""

    def __init__(self, storage: Storage, reporter: Reporter, halt: Halt) -> None:
        self._storage, self._reporter, self._halt = storage, reporter, halt
        self._lock = threading.Lock()
        self._trials: dict[str, Any] = {}  # that run, as Tune knows them
        self._found: dict[str, list[Stall]] = {}
        self._stalled: dict[str, str] = {}  # that have made no step since, in words
        self._places: dict[str, Any] = {}  # what those asked Ray for that are to be tried elsewhere
        self._asked: dict[str, _Asked] = {}  # stage -> what its trials ask for
        self._placed_at, self._pending_since = 0.0, 0.0  # 0: no trial waits for a place
        self._pending = ""  # the stage of the trial that waits
        self._waiting: str | None = None
        self._written = Trouble()

    # from Tune's thread

    def begin(self, resources: Mapping[str, float], stage: Stage) -> None:
        """A stage begins, whose trials ask for this each."""
        with self._lock:
            self._asked[stage.name] = _Asked(resources, stage.labels)

    def placed(self, trials: Sequence[Any]) -> None:
        """Looks at Tune's trials: whether one waits for a place."""
        if time.time() - self._placed_at >= PLACED_EVERY:
            self._placed_at = time.time()
            pending = next((trial for trial in trials if trial.status == "PENDING"), None)
            if pending is None or self._halt.reason is not None:
                self._pending_since = 0.0
                return
            stage = pending.config["stage"]
            if stage != self._pending or not self._pending_since:
                self._pending, self._pending_since = stage, self._placed_at

    def begins(self, trial_id: str, trial: Any) -> None:
        """A worker has the trial; where it was kept from a node, another try may be there again."""
        with self._lock:
            self._trials[trial_id] = trial
            self._put_back(trial_id, trial)

    def ended(self, trial_id: str) -> None:
        """The trial is in the journal with its final status."""
        with self._lock:
            self._trials.pop(trial_id, None)
            self._goes_on(trial_id)

    def cause(self, trial_id: str) -> str | None:
        """Why the trial has failed, if the last that was seen of it is that it hung."""
        with self._lock:
            found = self._found.get(trial_id, []) if trial_id in self._stalled else []
        return f"stalled {'twice' if len(found) > 1 else 'once'}: {found[-1].told}" if found else None

    # from the lookout's

    def found(self, stall: Stall, kill: Callable[[], bool]) -> None:
        """A trial hangs: ends its process. Tune tries it again the first time, on another node if there is one."""
        stage = stage_of(stall.trial)
        asked = self._asked[stage]
        other = elsewhere(asked.resources, asked.labels, stall.node)
        with self._lock:
            trial = self._trials.get(stall.trial)
            before = self._found.get(stall.trial, [])
            last = len(before) > 0
            if trial is not None and last:
                retries, trial.max_failures = trial.max_failures, 0  # before its process ends, which Tune sees at once
            elif trial is not None and other is not None:
                self._places[stall.trial] = trial.placement_group_factory
                trial.placement_group_factory = other
            self._found[stall.trial] = [*before, stall]
            self._stalled[stall.trial] = f"stalled: {stall.told}"
        if not kill():
            with self._lock:
                self._found[stall.trial] = before
                self._goes_on(stall.trial)
                self._put_back(stall.trial, trial)
                if trial is not None and last:
                    trial.max_failures = retries
            return
        again = "ended, and tried once more" + (", on another node" if other is not None else "")
        what_then = "ended, and failed: it is the second time" if last else again
        if self._halt.reason is not None:
            what_then = "ended, since the launch is to end"
        with self._lock:
            if stall.trial in self._stalled:
                self._stalled[stall.trial] += f"; {what_then}"
        metrics.show_stalled(self._storage.study, stage, stall.trial, stalled=True)
        self._reporter.warn(f"trial {stall.trial} is stalled: {stall.told}; {what_then}")
        with contextlib.suppress(OSError):
            self._note(stall)

    def goes_on(self, trial: str) -> None:
        """The trial has made a step."""
        with self._lock:
            self._goes_on(trial)

    def looked(self) -> None:
        """All trials have been looked at: tells for what trials wait, and notes on storage what has changed."""
        since, stage = self._pending_since, self._pending
        if since and time.time() - since >= WAITS_AFTER:
            before, self._waiting = self._waiting, f"waiting for {self._asked[stage].told} for a trial"
            if before is None:
                waited = duration(time.time() - since)
                self._reporter.warn(f"{stage}: {self._waiting} since {waited}: the cluster's nodes have {free()}")
        elif self._waiting is not None:
            self._waiting = None
            self._reporter.note(f"{stage}: the trial that waited has a place")
        with self._lock:
            now = Trouble(dict(self._stalled), self._waiting, since if self._waiting else None)
        if now != self._written:
            trouble.write(self._storage.folder, now)
            self._written = now

    def close(self) -> None:
        """The launch ends."""
        if self._written != Trouble():
            with contextlib.suppress(OSError):
                trouble.write(self._storage.folder, Trouble())

    def _goes_on(self, trial: str) -> None:
        if self._stalled.pop(trial, None) is not None:
            metrics.show_stalled(self._storage.study, stage_of(trial), trial, stalled=False)

    def _put_back(self, trial_id: str, trial: Any) -> None:
        if trial_id in self._places:
            trial.placement_group_factory = self._places.pop(trial_id)

    def _note(self, stall: Stall) -> None:
        """Puts the stacks into the trial's log, after what the ended attempt printed."""
        record = self._storage.record(stall.trial)
        attempt = record["attempt"] if record else 0
        before = dict(self._storage.logs(stall.trial)).get(attempt, "")
        text = f"{before}stalled: {stall.told}\n{stall.stacks}"
        self._storage.write_log(stall.trial, attempt, text)
