"""Whether a method's gain is more than chance: one simultaneous analysis of all methods of stage ``final``.

Compared are the mIoU [percent], a value per seed. The **primary** comparison is every distilled method with the tuned
student alone, the **secondary** one, a family of its own, every further method with L_PI alone. Of each family:

* **One model** of methods and seeds, ``two_way.pooled``: trials of one seed see the same crops in the same order, so
  seeds are blocks; chance is estimated from all methods at once. Methods that share no seed with the reference are
  compared by Welch's test, each for itself.
* **Simultaneous intervals** (Dunnett 1955): with 95 % confidence all intervals of the family hold at once, that of
  whichever method is named among them, the best one too. p is adjusted likewise: it is below 0.05 if and only if the
  interval leaves out 0. There is no other p.
* **The family is what was planned**, with the methods that failed or diverged. Until every trial of ``final`` has
  ended intervals are provisional, without p and verdict: who looks again and again sees chance pass sooner or later.
* **A reference that scatters more than the rest** would make intervals too short. ``two_way.Scatter`` tests that, at
  ``scatter_level``, and if so ``two_way.apart`` gives the reference a deviation of its own. Why at these levels, and
  what remains: ``kdtune bench statistics``, whose figures stand in ``bench/README.md``.

Intervals are for other seeds, on the same images; ``other_images`` has those for other images. The paper's rule, within
one standard deviation of the best, asks something else (which results are about as good as the best) and stands beside
it.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import pyarrow as pa

from kdtune.answers import two_way
from kdtune.answers.ranking import SEVERITY
from kdtune.answers.simultaneous import adjusted_p, quantile
from kdtune.answers.two_way import Difference, Scatter
from kdtune.answers.verdicts import REFERENCES, lacking, lost, same, single, so_far, verdict
from kdtune.study.names import FINAL

ALONE = "student"
SAME = 1e-9  # mIoU points: an error below that is none, but for rounding

Analysis = Literal["pooled", "reference apart", "welch"]


@dataclass(frozen=True)
class Gain:
    """A method against a reference. Numbers are None where the seeds do not give them; ``verdict`` says why."""

    study: str
    method: str
    reference: str  # "student" or "pi"
    seeds: int  # of the method, completed
    paired: bool = False  # over seeds that both have
    difference: float | None = None  # of the method from the reference [mIoU points]
    low: float | None = None  # of its 95 % interval, simultaneous over the family
    high: float | None = None
    p: float | None = None  # adjusted for the family; none before the comparison is complete
    provisional: bool = False
    family: int = 0  # comparisons with this reference that were planned
    analysis: Analysis | None = None
    verdict: str = ""  # one sentence
    trials: tuple[str, ...] = ()  # the method's runs that are compared


@dataclass(frozen=True)
class Family:
    """The comparisons with one reference, and how chance varies among them."""

    study: str
    reference: str
    size: int  # comparisons planned
    gains: tuple[Gain, ...]
    trials: tuple[str, ...] = ()  # the reference's runs that are compared
    seeds: int = 0  # of the reference
    methods: int = 0  # of the model, the reference among them
    deviation: float | None = None  # of a run, all methods together [mIoU points]
    scatter: Scatter | None = None  # of the reference beside the rest, where that can be looked at
    apart: bool = False  # the reference has its own deviation

    @property
    def provisional(self) -> bool:
        """Whether trials are still to come."""
        return any(gain.provisional for gain in self.gains)


@dataclass(frozen=True)
class Plan:
    """What stage ``final`` is to compare; 0: as much as there is."""

    seeds: int = 0
    methods: int = 0  # configurations, each from a stage of its own
    left_out: int = 0  # of them, by results before: they stay planned comparisons, and have no runs

    @property
    def runs(self) -> int:
        """That there will be."""
        return self.seeds * (self.methods - self.left_out)


@dataclass(frozen=True)
class _Runs:
    """A configuration's mIoU [percent] by seed; ``fault`` says why they cannot be compared."""

    method: str
    mious: Mapping[int, float]
    fault: str = ""
    trials: tuple[str, ...] = ()


def scatter_level(seeds: int) -> float:
    """The p of a reference that scatters more, below which it has a deviation of its own.

    With three seeds that deviation has two degrees of freedom, and costs most of the power wherever it is taken.
    """
    return 0.1 if seeds < 4 else 0.2


def gains(trials: pa.Table, plan: Plan | None = None) -> list[Gain]:
    """Each method of stage ``final`` against each reference but itself, study by study; see ``families``."""
    return [gain for family in families(trials, plan) for gain in family.gains]


def families(trials: pa.Table, plan: Plan | None = None) -> list[Family]:
    """The comparisons of stage ``final`` by study and reference, from rows of ``trials``.

    A method of which a seed was lost is not compared: to leave that seed out would make it look better than it is.
    Where it ran from several configurations each is a comparison of the family, and the best is given. L_PI is compared
    with the student alone only, not the other way round.
    """
    wanted = ("study", "stage", "trial_id", "method", "start", "config_id", "seed", "status", "miou")
    studies: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for row in trials.select(wanted).to_pylist():
        if row["stage"] == FINAL:
            name = f"{row['start']} {row['config_id']}"
            studies.setdefault(row["study"], {}).setdefault(name, []).append(row)
    return [family for study, groups in studies.items() for family in _of_study(study, groups, plan or Plan())]


def _of_study(study: str, groups: Mapping[str, Sequence[Mapping[str, Any]]], plan: Plan) -> list[Family]:
    seeds = max(plan.seeds, *(len(rows) for rows in groups.values()))
    methods = max(plan.methods, len(groups))
    ended = sum(len(rows) for rows in groups.values())
    whole = Plan(seeds, methods, plan.left_out)
    runs = {name: _runs(rows, seeds) for name, rows in groups.items()}
    return [_family(study, reference, runs, whole, ended) for reference in REFERENCES]


def _runs(rows: Sequence[Mapping[str, Any]], planned: int) -> _Runs:
    mious = {row["seed"]: row["miou"] for row in rows if row["status"] == "completed"}
    mious = {seed: miou for seed, miou in mious.items() if miou is not None and math.isfinite(miou)}
    fault = ""
    if len(mious) < len(rows):
        worst = max((row["status"] for row in rows), key=SEVERITY.index)
        what = {"completed": "have no mIoU", "stopped": "were stopped"}.get(worst, worst)
        fault = f"{len(rows) - len(mious)} of {planned} seeds {what}"
    trials = tuple(row["trial_id"] for row in rows if row["seed"] in mious)
    return _Runs(rows[0]["method"], mious, fault, trials)


def _best(runs: Mapping[str, _Runs]) -> dict[str, str]:
    """Method -> its configuration of the highest mean; one that cannot be compared only if there is no other."""
    found: dict[str, str] = {}

    def rank(name: str) -> tuple[bool, float]:
        return not runs[name].fault, statistics.fmean(runs[name].mious.values() or [-math.inf])

    for name, run in runs.items():
        if run.method not in found or rank(name) > rank(found[run.method]):
            found[run.method] = name
    return found


def _family(study: str, reference: str, runs: Mapping[str, _Runs], plan: Plan, ended: int) -> Family:
    aside = (ALONE, reference)
    known = sum(run.method in aside for run in runs.values())
    size = plan.methods - max(known, 1)  # a reference that has not begun is among those planned
    best = {method: name for method, name in _best(runs).items() if method not in aside or method == reference}
    blank = Gain(study, "", reference, 0, provisional=ended < plan.runs, family=size)
    found, model = Family(study, reference, size, ()), two_way.Differences({})
    theirs = runs[best[reference]] if reference in best else _Runs(reference, {})
    fitted = {name: run.mious for name, run in runs.items() if not run.fault and run.mious}
    if best.get(reference) in fitted:
        found, model = _modelled(found, fitted, best[reference])
    told = []
    for method, name in best.items():
        if method != reference:
            gain = replace(blank, method=method, seeds=len(runs[name].mious), trials=runs[name].trials)
            if reference not in best:
                told.append(replace(gain, verdict=lacking(reference)))
                continue
            analysis: Analysis = "reference apart" if found.apart else "pooled"
            compared = (model.of.get(name), model.correlation, analysis)
            progress = f"{ended} of {plan.runs}"
            told.append(_compared(gain, runs[name], theirs, compared, progress))
    return replace(found, gains=tuple(told), trials=theirs.trials)


def _modelled(
    family: Family, fitted: Mapping[str, Mapping[int, float]], reference: str
) -> tuple[Family, two_way.Differences]:
    """The family with what its model tells of chance, and the differences."""
    model, found = two_way.pooled(fitted, reference), two_way.scatter(fitted, reference)
    seeds = len(fitted[reference])
    family = replace(family, seeds=seeds, methods=len(fitted), scatter=found, deviation=model.deviation)
    if found is not None and model.of and found.p < scatter_level(seeds):
        values = {name: difference.value for name, difference in model.of.items()}
        return replace(family, apart=True), two_way.apart(values, found)
    return family, model


def _compared(
    gain: Gain, ours: _Runs, theirs: _Runs, modelled: tuple[Difference | None, float, Analysis], progress: str
) -> Gain:
    """The gain with its difference, interval, p and sentence, as far as there are runs for them."""
    for who, runs in (("", ours), ("of that, ", theirs)):
        if runs.fault or not runs.mious:
            why = runs.fault or "no seed has finished yet"
            return replace(gain, verdict=lost(gain.reference, who + why))
    shared = len(ours.mious.keys() & theirs.mious.keys())
    found, correlation, analysis = modelled
    if found is None:
        sides = list(ours.mious.values()), list(theirs.mious.values())
        found, correlation, analysis = two_way.welch(*sides), 0.0, "welch"
        if found is None:
            difference = statistics.fmean(sides[0]) - statistics.fmean(sides[1])
            return replace(gain, difference=difference, verdict=single(gain.reference, difference))
    paired = analysis != "welch" and shared > 1
    gain = replace(gain, difference=found.value, paired=paired)
    if found.error < SAME:
        return replace(gain, verdict=same(gain.reference, found.value))
    reach = quantile(gain.family, found.freedom, correlation) * found.error
    gain = replace(gain, low=found.value - reach, high=found.value + reach, analysis=analysis)
    if gain.provisional:
        return replace(gain, verdict=so_far(gain.reference, found.value, progress))
    p = adjusted_p(found.value / found.error, gain.family, found.freedom, correlation)
    over = f"{shared} shared seeds" if paired else f"{len(ours.mious)} seeds"
    over = f"one of {gain.family} comparisons, {over}" if gain.family > 1 else over
    over = over if gain.reference == ALONE else f"secondary, {over}"
    return replace(gain, p=p, verdict=verdict(gain.reference, found.value, p, reach, over))
