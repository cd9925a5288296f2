"""How often the claims of ``kdtune results`` are wrong: tables drawn with a known truth, through its own functions.

A table is the mIoU of a student and its distilled methods over shared seeds. Chance has a deviation of 1 for each run,
of which what the seeds share is a part; the student's own part is scaled by ``scatter``. Gains are in these deviations.
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import pyarrow as pa

from kdtune.answers.significance import Family, Plan, families
from kdtune.bench.figures import told
from kdtune.records.rows import Row

GAIN = 2.0  # of the one method that has any
SEEDS, METHODS = (3, 5, 10), (5, 30)
CORRELATIONS, SCATTERS, TAILS = (0.0, 0.5), (0.5, 1.0, 2.0), ("normal", "t4")
AT_ONCE = 250  # tables

Table = np.ndarray[tuple[int, int, int], np.dtype[np.float64]]


@dataclass(frozen=True)
class Setting:
    """What tables are drawn."""

    methods: int  # the student among them
    seeds: int
    correlation: float  # of the runs of one seed
    scatter: float  # of the student, in the others' deviations
    tails: str  # normal; t4: Student's t with 4 degrees of freedom, of the same variance

    def drawn(self, tables: int, generator: np.random.Generator) -> Table:
        """Chance: tables x methods x seeds, the student first."""
        shared = math.sqrt(self.correlation) * self._chance((tables, 1, self.seeds), generator)
        own = math.sqrt(1.0 - self.correlation) * self._chance((tables, self.methods, self.seeds), generator)
        own[:, 0] *= self.scatter
        return shared + own

    def _chance(self, shape: tuple[int, int, int], generator: np.random.Generator) -> Table:
        if self.tails == "normal":
            return generator.standard_normal(shape)
        return generator.standard_t(4, shape) / math.sqrt(2.0)


def settings(seeds: Sequence[int] = SEEDS, methods: Sequence[int] = METHODS) -> Iterator[Setting]:
    """Every combination."""
    for m, tails, scatter, n, correlation in itertools.product(methods, TAILS, SCATTERS, seeds, CORRELATIONS):
        yield Setting(m, n, correlation, scatter, tails)


def names(methods: int) -> list[str]:
    """The student alone, L_PI alone, and others."""
    return ["student", "pi", *(f"pi+m{i}" for i in range(2, methods))]


def trials(values: Table) -> pa.Table:
    """Rows of ``trials.parquet`` as far as the comparison reads them, a study per table."""
    study, method, seed = (index.ravel() for index in np.indices(values.shape))
    named = np.array(names(values.shape[1]), dtype=object)[method]
    return pa.table(
        {
            "study": pa.array([f"s{i}" for i in study]),
            "stage": pa.array(["final"] * values.size),
            "trial_id": pa.array([f"{name}-s{each}" for name, each in zip(named, seed, strict=True)]),
            "method": pa.array(list(named)),
            "start": pa.array(list(named)),
            "config_id": pa.array(list(named)),
            "seed": pa.array(list(map(int, seed))),
            "status": pa.array(["completed"] * values.size),
            "miou": pa.array(list(map(float, values.ravel() + 60.0))),
        }
    )


def measure(setting: Setting, tables: int, seed: int) -> Row:
    """How often the claims of such tables are wrong, and gains are found [percent].

    Without any gain: ``false``, tables with a claim against the student; ``false_pi``, against L_PI. With a gain of
    ``GAIN`` of one method: ``covered``, tables all of whose intervals hold; ``headline``, the interval of the best
    method; ``power``, the gain is claimed. ``apart``: tables in which the student has a deviation of its own.
    """
    generator = np.random.default_rng(seed)
    counts = dict.fromkeys(("false", "false_pi", "covered", "headline", "power", "apart"), 0)
    plan = Plan(setting.seeds, setting.methods)
    gained = names(setting.methods)[-1]
    for first in range(0, tables, AT_ONCE):
        values = setting.drawn(min(AT_ONCE, tables - first), generator)
        for family in families(trials(values), plan):
            wrong = any(gain.p is not None and gain.p < 0.05 for gain in family.gains)
            counts["false" if family.reference == "student" else "false_pi"] += wrong
            counts["apart"] += family.reference == "student" and family.apart
        values[:, -1] += GAIN
        means = values[:, 1:].mean(axis=2).argmax(axis=1)
        primary = [each for each in families(trials(values), plan) if each.reference == "student"]
        for family, best in zip(primary, means, strict=True):
            held = _held(family, gained)
            counts["covered"] += all(held.values())
            counts["headline"] += held[names(setting.methods)[1 + best]]
            found = next(gain for gain in family.gains if gain.method == gained)
            counts["power"] += found.verdict.startswith("a gain")
    return {name: 100 * count / tables for name, count in counts.items()}


def _held(family: Family, gained: str) -> dict[str, bool]:
    """Method -> whether its interval holds the truth."""
    found = {}
    for gain in family.gains:
        assert gain.low is not None
        assert gain.high is not None
        found[gain.method] = gain.low <= (GAIN if gain.method == gained else 0.0) <= gain.high
    return found


def statistics(tables: int, output: str | None, seeds: Sequence[int] = SEEDS, methods: Sequence[int] = METHODS) -> str:
    """A line per setting, percent of its tables."""
    chosen = enumerate(settings(seeds, methods))
    rows = [{**asdict(setting), **measure(setting, tables, seed)} for seed, setting in chosen]
    error = 100 * math.sqrt(0.05 * 0.95 / tables)
    title = f"claims, percent of {tables} tables a line; 5 % is known to {error:.1f}; power: of a gain of {GAIN:g}"
    return told(title, rows, output)
