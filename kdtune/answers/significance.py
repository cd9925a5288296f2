"""Whether a method's gain is more than chance: its difference from a reference, with an interval and a p-value.

Compared are the mIoU [percent] of stage ``final``, a value per seed, of each method with the student alone and with
L_PI alone. The tests, all two-sided, and why these:

* **Paired t** where two or more seeds are shared, over the shared ones. Trials of one seed see the same crops in the
  same order and start alike, so that what the seed does to both cancels in their difference; a test that takes them
  for independent would use a deviation that is not the difference's.
* **Welch's t** where they are not: it does not suppose that two methods vary alike, and with equal deviations loses
  next to nothing against Student's (Welch 1947, Biometrika 34).
* **Holm's correction** (Holm 1979, Scandinavian Journal of Statistics 6) of the p-values over the methods that are
  tested against one reference in one study: one in twenty of methods that do nothing would pass otherwise. It needs no
  independence, which methods with a common reference do not have, and is nowhere weaker than Bonferroni's. Intervals
  are of each comparison alone.

A t-test supposes values that are about normal, which few seeds cannot show. With few it is wide rather than wrong: a
difference that is not distinguishable may still be there. The paper's rule, within one standard deviation of the
best, asks something else (which results are about as good as the best) and stands beside it.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa

from kdtune.answers.ranking import SEVERITY

STAGE = "final"
REFERENCES = {"student": "the student alone", "pi": "L_PI alone"}
CONFIDENCE = 0.95
ALPHA = 0.05
SAME = 1e-9  # mIoU points: differences of the seeds that vary by less are one number, but for its rounding


@dataclass(frozen=True)
class Gain:
    """A method against a reference. Numbers are None where the seeds do not give them; ``verdict`` says why."""

    study: str
    method: str
    reference: str  # "student" or "pi"
    seeds: int  # of the method, completed
    paired: bool
    difference: float | None = None  # mean of the method less that of the reference [mIoU points]
    low: float | None = None  # of the 95 % interval of the difference
    high: float | None = None
    p: float | None = None
    p_holm: float | None = None  # corrected for all methods tested against this reference
    verdict: str = ""  # one sentence


@dataclass(frozen=True)
class TTest:
    """A two-sided t-test of a difference against none."""

    difference: float
    low: float
    high: float
    p: float


def paired_t(differences: Sequence[float]) -> TTest | None:
    """Student's t-test of the differences of pairs; None where they are one number, for then there is no deviation.

    Raises:
        ValueError: fewer than two.
    """
    if len(differences) < 2:
        raise ValueError(f"two pairs or more have a deviation, got {len(differences)}")
    error = statistics.stdev(differences) / math.sqrt(len(differences))
    return _test(statistics.fmean(differences), error, len(differences) - 1.0)


def welch_t(ours: Sequence[float], theirs: Sequence[float]) -> TTest | None:
    """Welch's t-test of two means; None where neither side varies.

    Raises:
        ValueError: fewer than two values on a side.
    """
    if min(len(ours), len(theirs)) < 2:
        raise ValueError(f"two values or more have a deviation, got {len(ours)} and {len(theirs)}")
    parts = [statistics.variance(values) / len(values) for values in (ours, theirs)]
    squares = sum(part**2 / (len(values) - 1) for part, values in zip(parts, (ours, theirs), strict=True))
    freedom = sum(parts) ** 2 / squares if squares else 1.0  # Welch and Satterthwaite
    return _test(statistics.fmean(ours) - statistics.fmean(theirs), math.sqrt(sum(parts)), freedom)


def _test(difference: float, error: float, freedom: float) -> TTest | None:
    from scipy.special import stdtr, stdtrit  # Student's t: scipy.stats has it, too, and takes a second to import

    if error < SAME:
        return None
    reach = float(stdtrit(freedom, (1 + CONFIDENCE) / 2)) * error
    p = 2 * float(stdtr(freedom, -abs(difference / error)))
    return TTest(difference, difference - reach, difference + reach, p)


def holm(p: Sequence[float]) -> list[float]:
    """Holm's step-down correction of p-values, in their order."""
    corrected = [0.0] * len(p)
    highest = 0.0
    for rank, at in enumerate(sorted(range(len(p)), key=lambda i: p[i])):
        highest = max(highest, min(1.0, (len(p) - rank) * p[at]))
        corrected[at] = highest
    return corrected


def gains(trials: pa.Table, planned: int = 0) -> list[Gain]:
    """Each method of stage ``final`` against each reference but itself, study by study, from rows of ``trials``.

    A method counts once every seed of it has completed, as in ``final.parquet``: to leave out a seed that diverged
    would make it look better than it is. Where it ran from several configurations, the best is taken. L_PI is
    compared with the student alone only, not the other way round.

    ``planned``: how many seeds a method must have, where that is known; else as many as any of its study has.
    """
    wanted = ("study", "stage", "method", "start", "config_id", "seed", "status", "miou")
    rows = [row for row in trials.select(wanted).to_pylist() if row["stage"] == STAGE]
    studies: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for row in rows:
        studies.setdefault(row["study"], {}).setdefault(row["method"], []).append(row)
    return [gain for study, methods in studies.items() for gain in _of_study(study, methods, planned)]


@dataclass(frozen=True)
class _Runs:
    """A method's mIoU [percent] by seed; ``fault`` says why they cannot be compared."""

    mious: Mapping[int, float]
    fault: str = ""


def _of_study(study: str, methods: Mapping[str, Sequence[Mapping[str, Any]]], planned: int) -> list[Gain]:
    grouped = {method: _configurations(rows) for method, rows in methods.items()}
    planned = max(planned, *(len(group) for groups in grouped.values() for group in groups))
    runs = {method: _best([_runs(group, planned) for group in groups]) for method, groups in grouped.items()}
    found: list[Gain] = []
    for reference in REFERENCES:
        others = [method for method in runs if method not in ("student", reference)]
        compared = [_compare(study, method, reference, runs) for method in others]
        tested = [gain.p for gain, _ in compared if gain.p is not None]
        corrected = iter(holm(tested))
        for gain, seeds in compared:
            if gain.p is not None:
                gain = replace(gain, p_holm=next(corrected))
                gain = replace(gain, verdict=_verdict(gain, seeds, len(tested)))
            found.append(gain)
    return found


def _configurations(rows: Sequence[Mapping[str, Any]]) -> list[list[Mapping[str, Any]]]:
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["start"], row["config_id"]), []).append(row)
    return list(groups.values())


def _runs(rows: Sequence[Mapping[str, Any]], planned: int) -> _Runs:
    mious = {row["seed"]: row["miou"] for row in rows if row["status"] == "completed"}
    mious = {seed: miou for seed, miou in mious.items() if miou is not None and math.isfinite(miou)}
    if len(mious) < len(rows):
        worst = max((row["status"] for row in rows), key=SEVERITY.index)
        what = {"completed": "have no mIoU", "stopped": "were stopped"}.get(worst, worst)
        return _Runs(mious, f"{len(rows) - len(mious)} of {planned} seeds {what}")
    return _Runs(mious, f"{len(rows)} of {planned} seeds have finished" if len(rows) < planned else "")


def _best(runs: Sequence[_Runs]) -> _Runs:
    """The configuration of the highest mean; one that cannot be compared only if there is no other."""
    return max(runs, key=lambda run: (not run.fault, statistics.fmean(run.mious.values() or [-math.inf])))


def _compare(study: str, method: str, reference: str, runs: Mapping[str, _Runs]) -> tuple[Gain, int]:
    """The comparison but for Holm's correction and what follows from it, and the number of seeds that it rests on."""
    ours, theirs = runs[method], runs.get(reference)
    gain = Gain(study, method, reference, len(ours.mious), paired=False)
    named = REFERENCES[reference]
    if theirs is None:
        return replace(gain, verdict=f"nothing to compare with: stage '{STAGE}' has no trial of {named}"), 0
    for who, fault in (("", ours.fault), (f"{named}: ", theirs.fault)):
        if fault:
            return replace(gain, verdict=f"no comparison: {who}{fault}"), 0
    shared = sorted(ours.mious.keys() & theirs.mious.keys())
    if len(shared) >= 2:
        differences = [ours.mious[seed] - theirs.mious[seed] for seed in shared]
        gain = replace(gain, paired=True, difference=statistics.fmean(differences))
        test = paired_t(differences)
    else:
        mine, other = list(ours.mious.values()), list(theirs.mious.values())
        gain = replace(gain, difference=statistics.fmean(mine) - statistics.fmean(other))
        if min(len(mine), len(other)) < 2:
            few = "one seed has no deviation, so that nothing tells it from chance; run several"
            return replace(gain, verdict=f"{gain.difference:+.2f} points against {named}: {few}"), 1
        test = welch_t(mine, other)
    seeds = len(shared) if gain.paired else len(ours.mious)
    if test is None:
        same = "the same at every seed: without a deviation there is no interval, and no test"
        return replace(gain, verdict=f"{gain.difference:+.2f} points against {named}, {same}"), seeds
    return replace(gain, low=test.low, high=test.high, p=test.p), seeds


def _verdict(gain: Gain, seeds: int, tested: int) -> str:
    """One sentence. What a difference of this scatter would have to reach, tested alone, is half of the interval."""
    assert gain.difference is not None
    assert gain.low is not None
    assert gain.high is not None
    assert gain.p is not None
    assert gain.p_holm is not None
    named = REFERENCES[gain.reference]
    over = f"{seeds} {'shared ' if gain.paired else ''}seeds"
    corrected = f", corrected for {tested} methods" if tested > 1 else ""
    if gain.p_holm < ALPHA:
        kind = "a gain over" if gain.difference > 0 else "a loss against"
        return f"{kind} {named} of {abs(gain.difference):.2f} points (p = {gain.p_holm:.2g}{corrected}, {over})"
    if gain.p < ALPHA:
        return (
            f"{gain.difference:+.2f} points against {named}: not distinguishable from chance where {tested} methods "
            f"are tried (p = {gain.p:.2g}, corrected {gain.p_holm:.2g}, {over})"
        )
    reach = (gain.high - gain.low) / 2
    return (
        f"{gain.difference:+.2f} points against {named}: not distinguishable from chance; with {over} of this scatter "
        f"it would have to reach {reach:.2f} to be seen (p = {gain.p_holm:.2g}{corrected})"
    )
