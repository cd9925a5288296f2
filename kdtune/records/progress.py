"""What a person sees while a study runs: a line when a stage begins and ends, and on a terminal one that moves.

Everything goes to standard error. Without a terminal there is nothing but whole lines, one per event.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.status import Status

from kdtune.losses.marks import DAGGER, FOOTNOTE, marked
from kdtune.records.rows import Row, mean_std
from kdtune.study.names import stage_of
from kdtune.study.spec import StudySpec
from kdtune.text import shown


def duration(seconds: float) -> str:
    """``1 h 05 min``, ``12 min``, ``40 s``."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{minutes // 60} h {minutes % 60:02d} min" if minutes >= 60 else f"{minutes} min"


class Reporter:
    """Tells nothing; the interface of what a launch tells."""

    def started(self, study: StudySpec, folder: str) -> None:
        """A launch begins."""

    def ray_started(self, study: StudySpec, dashboard: str | None, gpu: bool) -> None:
        """Ray runs: there is something to do."""

    def changed(self, paths: Sequence[str]) -> None:
        """The study differs from that of the last launch at these paths."""

    def superseded(self, stage: str, count: int) -> None:
        """Trials that the plan no longer holds."""

    def stage_started(self, stage: str, trials: int, done: int, steps_each: int) -> None:
        """A stage begins, or goes on."""

    def stage_grew(self, stage: str, trials: int, done: int) -> None:
        """More of a stage's trials are known: so many has it now, and so many of the new ones were finished before."""

    def trial_started(self, trial_id: str) -> None:
        """A worker has a trial."""

    def evaluated(self, metrics: Mapping[str, Any]) -> None:
        """A trial reported."""

    def trial_paused(self, trial_id: str) -> None:
        """A trial waits for others, and its worker takes another one."""

    def trial_ended(self, row: Row) -> None:
        """A trial is in the journal with its final status."""

    def tables_written(self, seconds: float) -> None:
        """All tables, which took this long."""

    def stage_ended(self, stage: str, best: Sequence[Row]) -> None:
        """All trials of a stage are finished; ``best``: the rows of its best configuration, one per seed."""

    def note(self, message: str) -> None:
        """Something that takes a while has begun."""

    def warn(self, message: str) -> None:
        """Something that a person should look at."""

    def close(self) -> None:
        """The launch ends."""


class Several(Reporter):
    """Tells several reporters the same."""

    def __init__(self, *reporters: Reporter) -> None:
        self._reporters = reporters

    def started(self, study: StudySpec, folder: str) -> None:
        for reporter in self._reporters:
            reporter.started(study, folder)

    def ray_started(self, study: StudySpec, dashboard: str | None, gpu: bool) -> None:
        for reporter in self._reporters:
            reporter.ray_started(study, dashboard, gpu)

    def changed(self, paths: Sequence[str]) -> None:
        for reporter in self._reporters:
            reporter.changed(paths)

    def superseded(self, stage: str, count: int) -> None:
        for reporter in self._reporters:
            reporter.superseded(stage, count)

    def stage_started(self, stage: str, trials: int, done: int, steps_each: int) -> None:
        for reporter in self._reporters:
            reporter.stage_started(stage, trials, done, steps_each)

    def stage_grew(self, stage: str, trials: int, done: int) -> None:
        for reporter in self._reporters:
            reporter.stage_grew(stage, trials, done)

    def trial_started(self, trial_id: str) -> None:
        for reporter in self._reporters:
            reporter.trial_started(trial_id)

    def evaluated(self, metrics: Mapping[str, Any]) -> None:
        for reporter in self._reporters:
            reporter.evaluated(metrics)

    def trial_paused(self, trial_id: str) -> None:
        for reporter in self._reporters:
            reporter.trial_paused(trial_id)

    def trial_ended(self, row: Row) -> None:
        for reporter in self._reporters:
            reporter.trial_ended(row)

    def tables_written(self, seconds: float) -> None:
        for reporter in self._reporters:
            reporter.tables_written(seconds)

    def stage_ended(self, stage: str, best: Sequence[Row]) -> None:
        for reporter in self._reporters:
            reporter.stage_ended(stage, best)

    def note(self, message: str) -> None:
        for reporter in self._reporters:
            reporter.note(message)

    def warn(self, message: str) -> None:
        for reporter in self._reporters:
            reporter.warn(message)

    def close(self) -> None:
        for reporter in self._reporters:
            reporter.close()


@dataclass
class _Stage:
    """A stage that runs."""

    trials: int
    done: int  # before this launch
    steps_each: int
    began: float
    counts: dict[str, int] = field(default_factory=dict)  # status -> trials that have ended
    at: dict[str, int] = field(default_factory=dict)  # trial under way -> step
    paused: set[str] = field(default_factory=set)  # those of them that wait for others
    best: float | None = None

    @property
    def ended(self) -> int:
        return sum(self.counts.values())

    def told(self) -> str:
        parts = [f"{self.done + self.ended}/{self.trials} done, {len(self.at.keys() - self.paused)} running"]
        parts += [f"{len(self.paused)} paused"] if self.paused else []
        parts += [f"{self.counts[s]} {s}" for s in ("stopped", "diverged", "failed") if s in self.counts]
        parts += [f"best run {self.best:.2f}"] if self.best is not None else []
        return ", ".join(parts)


class Lines(Reporter):
    """Lines on standard error (or another console), and a moving one where that is a terminal."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True, highlight=False, soft_wrap=True)
        self._status: Status | None = None
        self._stages: dict[str, _Stage] = {}  # those that run

    def started(self, study: StudySpec, folder: str) -> None:
        """Where its results are."""
        self._say(f"study {study.name}: {len(study.stages)} stages; results in {folder}")

    def ray_started(self, study: StudySpec, dashboard: str | None, gpu: bool) -> None:
        """Where it can be watched."""
        if dashboard:
            self._say(f"Ray dashboard: http://{dashboard} (asks for a token: ~/.ray/auth_token, or the cluster's)")
        if study.needs_gpu and not gpu:
            self.warn(
                f"study '{study.name}' is made for a GPU and there is none: it may take months; "
                "'demo' and 'camvid-small' are made for a processor"
            )
        if self._console.is_terminal:
            self._status = self._console.status("")
            self._status.start()

    def changed(self, paths: Sequence[str]) -> None:
        """What is different, so that a changed number has a cause."""
        shown = ", ".join(paths[:6]) + (f" and {len(paths) - 6} more" if len(paths) > 6 else "")
        self._say(f"the study has changed since the last launch: {shown}; only what that affects runs anew")

    def superseded(self, stage: str, count: int) -> None:
        """Rows that move aside."""
        self._say(f"{stage}: {count} earlier trials are no longer part of the study (superseded.parquet)")

    def stage_started(self, stage: str, trials: int, done: int, steps_each: int) -> None:
        """How much there is to do."""
        self._stages[stage] = _Stage(trials, done, steps_each, time.monotonic())
        kept = f", {done} finished before" if done else ""
        self._say(f"{stage}: {trials} trial{'s' * (trials != 1)}{kept}")

    def stage_grew(self, stage: str, trials: int, done: int) -> None:
        """There is more to do than was known, or less."""
        self._stages[stage].trials = trials
        self._stages[stage].done += done

    def trial_started(self, trial_id: str) -> None:
        """One more is running."""
        stage = self._stages[stage_of(trial_id)]
        stage.at.setdefault(trial_id, 0)
        stage.paused.discard(trial_id)
        self._show()

    def evaluated(self, metrics: Mapping[str, Any]) -> None:
        """How far it is."""
        self._stages[stage_of(metrics["trial"])].at[metrics["trial"]] = metrics["step"]
        self._show()

    def trial_paused(self, trial_id: str) -> None:
        """One fewer is running, for now."""
        self._stages[stage_of(trial_id)].paused.add(trial_id)
        self._show()

    def trial_ended(self, row: Row) -> None:
        """One fewer is running."""
        stage = self._stages[row["stage"]]
        stage.at.pop(row["trial_id"], None)
        stage.paused.discard(row["trial_id"])
        stage.counts[row["status"]] = stage.counts.get(row["status"], 0) + 1
        if row["status"] == "completed" and row["miou"] is not None:
            stage.best = max(row["miou"], stage.best or 0.0)
        if row["status"] == "failed":
            self.warn(f"trial {row['trial_id']} failed: {row['error']}")
        if row["status"] == "diverged":
            self._say(f"{row['stage']}: trial {row['trial_id']} diverged at step {row['step']} (loss not finite)")
        self._show()

    def stage_ended(self, stage: str, best: Sequence[Row]) -> None:
        """The best of it."""
        ended = self._stages.pop(stage)
        took = duration(time.monotonic() - ended.began)
        counts = ", ".join(f"{n} {status}" for status, n in sorted(ended.counts.items())) or "nothing left to run"
        text = f"{stage}: {counts} in {took}"
        if best:
            mean, row = mean_std([row["miou"] for row in best])[0], best[0]
            several = f"mean of {len(best)} seeds of {stage}-{row['config_id']}"
            text += f"; best mIoU {mean:.2f} ({several if len(best) > 1 else row['trial_id']})"
            text += f" by {method}; {FOOTNOTE}" if DAGGER in (method := marked(row["method"])) else ""
        self._say(text)

    def note(self, message: str) -> None:
        """A line."""
        self._say(message)

    def warn(self, message: str) -> None:
        """A line that stands out."""
        self._console.print(shown(f"warning: {message}"), style="yellow", markup=False)

    def close(self) -> None:
        """Ends the moving line."""
        if self._status is not None:
            self._status.stop()
            self._status = None

    def _say(self, text: str) -> None:
        self._console.print(shown(text), markup=False)

    @property
    def stage(self) -> str:
        """The stages that run; empty before the first."""
        return ", ".join(self._stages)

    def progress(self) -> str:
        """How far they are: ``3/9 done, 2 running, best run 31.20, about 12 min left``; with names, of several."""
        stages = [*self._stages.items()]
        parts = [stage.told() if len(stages) == 1 else f"{name} {stage.told()}" for name, stage in stages]
        left = self._seconds_left()
        told = f"about {duration(left)} left{' in this stage' * (len(stages) == 1)}" if left is not None else ""
        return (", " if len(stages) == 1 else "; ").join([*parts, *([told] if told else [])])

    def _show(self) -> None:
        if self._status is not None:
            named = f"{self.stage}: " if len(self._stages) == 1 else ""
            self._status.update(f"{named}{self.progress()}")

    def _seconds_left(self) -> float | None:
        """From the pace of the stages that run; a trial that was stopped early counts as done."""
        total = sum((each.trials - each.done) * max(each.steps_each, 1) for each in self._stages.values())
        made = sum(each.ended * max(each.steps_each, 1) + sum(each.at.values()) for each in self._stages.values())
        began = min((each.began for each in self._stages.values()), default=0.0)
        return (time.monotonic() - began) * (total - made) / made if made > 0 else None
