"""What each trial of a stage gets of the cluster, and how many of them it holds at once."""

import kdtune.cluster.environment  # noqa: F401  # isort: skip  # before Ray, which reads it

import contextlib
import time
from collections.abc import Iterable
from dataclasses import dataclass, field

from kdtune.base import UserError
from kdtune.cluster.share import Share, share
from kdtune.study.spec import StudySpec
from kdtune.study.stage import Stage

ASKED_EVERY = 10.0  # seconds between looks at the nodes, which come and go
MANY = 1_000_000  # trials: more than any cluster holds at once


@dataclass
class Slots:
    """Of one launch, from when Ray is there."""

    study: StudySpec
    joined: bool  # whether the cluster was there before
    shares: dict[str, Share] = field(default_factory=dict)  # stage -> what each of its trials gets
    _stages: dict[str, Stage] = field(default_factory=dict)
    _now: dict[str, tuple[float, int]] = field(default_factory=dict)  # stage -> when asked, trials at once

    def divide(self, stages: Iterable[Stage]) -> None:
        """Decides what the trials of these stages get; nothing yet for one whose nodes are not there."""
        for stage in stages:
            with contextlib.suppress(UserError):
                self.of(stage)

    def of(self, stage: Stage) -> Share:
        """What each trial of a stage gets.

        Raises:
            UserError: no node can hold one.
        """
        if stage.name not in self.shares:
            trials = self.study.num_trials(stage)
            self.shares[stage.name] = share(self.study, stage, trials, joined=self.joined)
            self._stages[stage.name] = stage
        return self.shares[stage.name]

    @property
    def most(self) -> int:
        """The trials that run at once, whatever their stages."""
        return min(max(map(self.at_once, self.shares)), self.study.max_concurrent or MANY)

    def at_once(self, name: str) -> int:
        """The trials that nodes which may run the stage hold at once, those of other stages included."""
        asked, number = self._now.get(name, (0.0, 1))
        if time.monotonic() - asked >= ASKED_EVERY or not asked:
            with contextlib.suppress(UserError):  # no node is left: they wait for one
                found = share(self.study, self._stages[name], MANY, joined=self.joined)
                number = found.at_once if bool(found.gpus) == bool(self.shares[name].gpus) else number
            self._now[name] = (time.monotonic(), number)
        return number
