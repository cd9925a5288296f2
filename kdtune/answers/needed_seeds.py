"""How small a gain a comparison can find, and how many seeds a smaller one would need.

Found is a true difference with a probability of 80 %: so often its simultaneous interval lies above 0.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from kdtune.answers import two_way
from kdtune.answers.significance import SAME, Family
from kdtune.answers.simultaneous import least_gain, power, quantile

POWER = 0.8
ASSUMED = 0.5  # mIoU points: the deviation of a run, where nothing tells it
GAIN = 0.5  # mIoU points: what it is worth to know
MOST = 1000  # seeds


@dataclass(frozen=True)
class Design:
    """A comparison that might be: the deviation of a run [mIoU points], methods, comparisons with one reference."""

    deviation: float
    methods: int  # the reference among them
    comparisons: int
    scatter: two_way.Scatter | None = None  # of a reference that scatters in its own way

    def least(self, seeds: int) -> float:
        """The smallest gain that so many seeds find [mIoU points]."""
        error, freedom, reach = self._told(seeds)
        return least_gain(error, freedom, reach, POWER)

    def seeds_for(self, gain: float = GAIN) -> int | None:
        """The fewest seeds that find such a gain; none if they are more than ``MOST``."""
        fewest, enough = 1, 2
        while not self._finds(gain, enough):
            fewest, enough = enough, 2 * enough
            if fewest >= MOST:
                return None
        while enough - fewest > 1:
            middle = (fewest + enough) // 2
            fewest, enough = (fewest, middle) if self._finds(gain, middle) else (middle, enough)
        return enough if enough <= MOST else None

    def _finds(self, gain: float, seeds: int) -> bool:
        error, freedom, reach = self._told(seeds)
        return power(gain, error, freedom, reach) >= POWER

    def _told(self, seeds: int) -> tuple[float, float, float]:
        """The standard error of a difference, its degrees of freedom, and the quantile that is to be exceeded."""
        if self.scatter is None:
            error, freedom = self.deviation * math.sqrt(2 / seeds), float((self.methods - 1) * (seeds - 1))
            return error, freedom, quantile(self.comparisons, freedom)
        model = two_way.apart({"": 0.0}, self.scatter, seeds)
        error, freedom = model.of[""].error, model.of[""].freedom
        return error, freedom, quantile(self.comparisons, freedom, model.correlation)


def design(family: Family) -> Design | None:
    """A comparison like this one; none while it is not complete, or where nothing deviates."""
    deviation = family.deviation
    if deviation is None or deviation < SAME or family.provisional or not family.gains:
        return None
    return Design(deviation, family.methods, family.size, family.scatter if family.apart else None)


def on_record(rows: Iterable[Mapping[str, Any]]) -> tuple[float, str] | None:
    """The deviation of a run [mIoU points] as trials of several seeds tell it, and the stage that tells it best."""
    stages: dict[str, dict[str, dict[int, float]]] = {}
    for row in rows:
        if row["status"] == "completed" and row["miou"] is not None and math.isfinite(row["miou"]):
            runs = stages.setdefault(row["stage"], {}).setdefault(f"{row['start']} {row['config_id']}", {})
            runs[row["seed"]] = row["miou"]
    models = {stage: two_way.pooled(runs, next(iter(runs))) for stage, runs in stages.items()}
    stage = max(models, key=lambda name: models[name].freedom, default=None)
    deviation = models[stage].deviation if stage is not None else None
    return (deviation, stage) if deviation is not None and deviation >= SAME and stage is not None else None


def before_the_start(methods: int, seeds: int, known: tuple[float, str] | None) -> str:
    """What a comparison of so many methods with the first of them would find."""
    deviation, stage = known or (ASSUMED, None)
    why = f"as in stage '{stage}'" if stage else "which is assumed: no stage of several seeds is on record"
    planned = Design(deviation, methods, methods - 1)
    needed = planned.seeds_for()
    if seeds > 1:
        found = (
            f"{seeds} seeds of {methods} methods find a gain of {planned.least(seeds):.2f} points in 80 of 100 cases"
        )
    else:
        found = f"one seed of {methods} methods tells no gain from chance"
    return (
        f"stage 'final': {found}; half a point would need {needed or f'more than {MOST:,}'} seeds (if runs deviate by "
        f"{deviation:.2f} points, {why})"
    )
