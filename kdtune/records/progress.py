"""What a person sees while a study runs: a line when a stage begins and ends, and on a terminal one that moves.

Everything goes to standard error. Without a terminal there is nothing but whole lines, one per event.
"""

import time
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.status import Status

from kdtune.records.rows import Row, mean_std
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

    def trial_started(self, trial_id: str) -> None:
        """A worker has a trial."""

    def evaluated(self, metrics: Mapping[str, Any]) -> None:
        """A trial reported."""

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

    def trial_started(self, trial_id: str) -> None:
        for reporter in self._reporters:
            reporter.trial_started(trial_id)

    def evaluated(self, metrics: Mapping[str, Any]) -> None:
        for reporter in self._reporters:
            reporter.evaluated(metrics)

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


class Lines(Reporter):
    """Lines on standard error (or another console), and a moving one where that is a terminal."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True, highlight=False, soft_wrap=True)
        self._status: Status | None = None
        self._stage = ""
        self._trials = self._done = self._steps_each = 0
        self._counts: dict[str, int] = {}
        self._at: dict[str, int] = {}  # running trial -> step
        self._best: float | None = None
        self._stage_began = 0.0

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
        self._stage, self._trials, self._done, self._steps_each = stage, trials, done, steps_each
        self._counts, self._at, self._best = {}, {}, None
        self._stage_began = time.monotonic()
        kept = f", {done} finished before" if done else ""
        self._say(f"{stage}: {trials} trial{'s' * (trials != 1)}{kept}")

    def trial_started(self, trial_id: str) -> None:
        """One more is running."""
        self._at.setdefault(trial_id, 0)
        self._show()

    def evaluated(self, metrics: Mapping[str, Any]) -> None:
        """How far it is."""
        self._at[metrics["trial"]] = metrics["step"]
        self._show()

    def trial_ended(self, row: Row) -> None:
        """One fewer is running."""
        self._at.pop(row["trial_id"], None)
        self._counts[row["status"]] = self._counts.get(row["status"], 0) + 1
        if row["status"] == "completed" and row["miou"] is not None:
            self._best = max(row["miou"], self._best or 0.0)
        if row["status"] == "failed":
            self.warn(f"trial {row['trial_id']} failed: {row['error']}")
        if row["status"] == "diverged":
            self._say(f"{self._stage}: trial {row['trial_id']} diverged at step {row['step']} (loss not finite)")
        self._show()

    def stage_ended(self, stage: str, best: Sequence[Row]) -> None:
        """The best of it."""
        took = duration(time.monotonic() - self._stage_began)
        counts = ", ".join(f"{n} {status}" for status, n in sorted(self._counts.items())) or "nothing left to run"
        text = f"{stage}: {counts} in {took}"
        if best:
            mean, row = mean_std([row["miou"] for row in best])[0], best[0]
            several = f"mean of {len(best)} seeds of {stage}-{row['config_id']}"
            text += f"; best mIoU {mean:.2f} ({several if len(best) > 1 else row['trial_id']})"
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
        """The stage that runs; empty before the first."""
        return self._stage

    def progress(self) -> str:
        """How far the stage is: ``3/9 done, 2 running, best run 31.20, about 12 min left in this stage``."""
        ended = sum(self._counts.values())
        parts = [f"{self._done + ended}/{self._trials} done, {len(self._at)} running"]
        parts += [f"{self._counts[s]} {s}" for s in ("stopped", "diverged", "failed") if s in self._counts]
        parts += [f"best run {self._best:.2f}"] if self._best is not None else []
        left = self._seconds_left(ended)
        parts += [f"about {duration(left)} left in this stage"] if left is not None else []
        return ", ".join(parts)

    def _show(self) -> None:
        if self._status is not None:
            self._status.update(f"{self._stage}: {self.progress()}")

    def _seconds_left(self, ended: int) -> float | None:
        """From the pace of this stage; a trial that was stopped early counts as done."""
        total = (self._trials - self._done) * max(self._steps_each, 1)
        made = ended * max(self._steps_each, 1) + sum(self._at.values())
        elapsed = time.monotonic() - self._stage_began
        return elapsed * (total - made) / made if made > 0 else None
