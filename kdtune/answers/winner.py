"""The run whose weights a study hands out: of the best configuration of a stage, and what is known of its score."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from kdtune.answers import other_images, significance
from kdtune.answers.columns import refuse
from kdtune.answers.final_tables import comparison_plan
from kdtune.answers.planned_grid import PlannedStudy
from kdtune.answers.ranking import Row
from kdtune.answers.significance import ALONE, Gain
from kdtune.answers.simultaneous import CONFIDENCE
from kdtune.answers.tables import Tables
from kdtune.records.rows import best_config
from kdtune.study.names import FINAL, TEACHER
from kdtune.text import did_you_mean

ABLATION = "initialization"  # the stage that shows what other weights at the start cost

Interval = tuple[float, float]


@dataclass(frozen=True)
class Winner:
    """A run, and the runs of its configuration with other seeds, itself among them. mIoU is in percent."""

    row: Row
    seeds: tuple[Row, ...]
    stage_trials: int  # trials of the stage that it was chosen from
    images: Interval | None  # 95 %, of this network on other images
    over: str  # what that is over, or why there is none
    gain: Gain | None  # of its method on the student alone, where stage final compares them

    @property
    def mean(self) -> float:
        """Over the seeds."""
        return statistics.fmean(row["miou"] for row in self.seeds)

    @property
    def deviation(self) -> float | None:
        """Of the seeds, sample deviation; none of one."""
        return statistics.stdev(row["miou"] for row in self.seeds) if len(self.seeds) > 1 else None

    @property
    def interval(self) -> Interval | None:
        """95 % interval of the mean for other seeds (Student's t); none of one seed."""
        if self.deviation is None:
            return None
        from scipy.special import stdtrit

        count = len(self.seeds)
        reach = float(stdtrit(count - 1, (1 + CONFIDENCE) / 2)) * self.deviation / math.sqrt(count)
        return self.mean - reach, self.mean + reach


def winner(study: str, found: Tables, stage: str | None, method: str | None, words: str) -> Winner:
    """The run of the highest mIoU among the seeds of the best configuration.

    Args:
        study: its name.
        found: its tables; ``counts_of`` where intervals over images are wanted.
        stage: whose configurations are compared; none: ``final``, or before it has any, all stages that choose.
        method: of these configurations alone; none: all.
        words: the study as a command names it, for the error.

    Raises:
        UserError: no such stage or method, or no configuration of them has completed all of its seeds.
    """
    plan = found.planned.get(study, PlannedStudy(study))
    trials: list[Row] = found.trials.to_pylist()
    seeds = _chosen(trials, found, plan, stage, method)
    if not seeds:
        refuse(_nothing(study, trials, stage, method, words))
    row = max(seeds, key=lambda each: float(each["miou"]))
    known = (found.counts_of or (lambda rows: {}))([row]).get(row["trial_id"], "no counts of its images")
    run = other_images.run_of(row, known)
    images, over = (None, run) if isinstance(run, str) else other_images.of_run(run)
    gains = significance.gains(found.trials, comparison_plan(plan)) if row["stage"] == FINAL else []
    gain = next((each for each in gains if (each.method, each.reference) == (row["method"], ALONE)), None)
    return Winner(row, tuple(seeds), sum(e["stage"] == row["stage"] for e in trials), images, over, gain)


def _chosen(
    trials: Sequence[Row], found: Tables, plan: PlannedStudy, stage: str | None, method: str | None
) -> list[Row]:
    """The runs of the best configuration, one of each seed; none where there is none yet."""

    def best(name: str) -> list[Row]:
        those = [row for row in trials if row["stage"] == name and method in (None, row["method"])]
        # a given teacher is evaluated once, in the place of the stage that would train it
        planned = len(plan.stages[name].seeds) if name in plan.stages and name != TEACHER else 1
        return best_config(those, planned)

    if stage is not None:
        return best(stage)
    if final := best(FINAL):
        return final
    choosing = [name for name in found.optimal["stage"].to_pylist() if name not in (FINAL, ABLATION)]
    return max((best(name) for name in choosing), key=_score, default=[])


def _score(rows: Sequence[Row]) -> float:
    return statistics.fmean(row["miou"] for row in rows) if rows else -math.inf


def _nothing(study: str, trials: Sequence[Row], stage: str | None, method: str | None, words: str) -> str:
    """Why there is no winner, and what to do."""
    stages = list(dict.fromkeys(row["stage"] for row in trials))
    if stage is not None and stage not in stages:
        return f"study '{study}' has no trial of a stage '{stage}'{_of(stage, stages)}"
    those = [row for row in trials if stage in (None, row["stage"])]
    where = f"stage '{stage}' of study '{study}'" if stage else f"study '{study}'"
    methods = list(dict.fromkeys(row["method"] for row in those))
    if method is not None and method not in methods:
        return f"{where} has no trial of a method '{method}'{_of(method, methods)}"
    return f"{where}: no configuration has completed all of its seeds yet; see `kdtune status {words}`"


def _of(word: str, known: Sequence[str]) -> str:
    return f"{did_you_mean(word, known)}; there are: {', '.join(known) or 'none'}"
