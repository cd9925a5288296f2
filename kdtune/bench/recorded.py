"""``kdtune bench asha --recorded``: rules of early stopping, replayed on grids that were run to their ends once.

``curves.parquet`` beside this file has a row for each evaluation of each trial. The curves of demo and camvid-small
were recorded on one thread of a processor, with seeds that had chosen no rule.
"""

import functools
import itertools
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from kdtune.bench.early_stopping import Curve, Found, found, replay, unsearched
from kdtune.bench.figures import told
from kdtune.records.rows import Row
from kdtune.search.course import Offer
from kdtune.search.halving import Halves
from kdtune.search.stage_context import WORST
from kdtune.study.schedulers import Halving, SuccessiveHalving
from kdtune.study.stage import shuffled

FILE = Path(__file__).with_name("curves.parquet")
BRANCH = 0.05  # of a trial's steps, in which a cool-down takes the learning rate to nothing; then it is thrown away

Grid = tuple[str, str, int]  # study, stage, seed


@dataclass(frozen=True)
class Recorded:
    """A trial: its curve, and what a cool-down branch from some of its steps came to."""

    curve: Curve
    point: tuple[float, float]  # learning rate, weight decay
    cooled: Mapping[int, float]  # step -> mIoU [percent] or WORST


def recorded(orders: int, output: str | None) -> str:
    """Each rule over all recorded grids; the asynchronous one in so many orders, the others hang on none.

    ``steps``: the share of the grids' steps, branches of a cool-down included. ``best``: how often the grid's best is
    found; ``within``: or one less than a seed's standard deviation below it. ``loss``, ``most``: mIoU points below it,
    mean and largest. ``fewer``: the mean loss of trying as many of the grid's trials, drawn at random, as the same
    steps pay for.
    """
    grids = read()
    deviations = _deviations(grids)
    lines = [_line(name, rule, grids, deviations, orders) for name, rule in _rules()]
    return told(f"{len(grids)} recorded grids of nine trials", lines, output)


def read() -> dict[Grid, list[Recorded]]:
    """The recorded grids that are whole."""
    trials: dict[tuple[Any, ...], list[Row]] = {}
    for row in pq.read_table(FILE).to_pylist():
        key = tuple(row[name] for name in ("study", "stage", "seed", "lr", "weight_decay"))
        trials.setdefault(key, []).append(row)
    grids: dict[Grid, list[Recorded]] = {}
    for (*grid, lr, decay), rows in trials.items():
        reports = tuple((row["step"], WORST if row["miou"] is None else row["miou"]) for row in rows)
        cooled = {row["step"]: row["miou_cooled"] for row in rows if row["miou_cooled"] is not None}
        curve = Curve(f"lr={lr:g} wd={decay:g}", reports, completed=rows[-1]["miou"] is not None)
        grids.setdefault((grid[0], grid[1], grid[2]), []).append(Recorded(curve, (lr, decay), cooled))
    return {grid: trials for grid, trials in grids.items() if len(trials) == 9}


def _deviations(grids: Mapping[Grid, Sequence[Recorded]]) -> dict[str, float]:
    """A study's standard deviation from seed to seed, pooled over the upper half of its configurations.

    One that hardly trains comes to the same with every seed, and is never the question. 0 where no two seeds are known.
    """
    found: dict[str, float] = {}
    for study in dict.fromkeys(study for study, _, _ in grids):
        groups: dict[tuple[str, tuple[float, float]], list[float]] = {}
        for (name, stage, _), trials in grids.items():
            for trial in trials if name == study else ():
                groups.setdefault((stage, trial.point), []).append(trial.curve.miou)
        several = [values for values in groups.values() if len(values) > 1 and min(values) > 0]
        upper = sorted(several, key=statistics.fmean)[len(several) // 2 :]
        variances = [statistics.variance(values) for values in upper]
        found[study] = statistics.fmean(variances) ** 0.5 if variances else 0.0
    return found


Rule = Callable[[Sequence[Recorded], int], tuple[Found, float]]  # grid, number of the order -> found, share of steps


def _rules() -> Iterator[tuple[str, Rule]]:
    for factor, grace in ((2.0, 0.5), (2.0, 1 / 3), (2.0, 0.2), (3.0, 1 / 3)):
        halving = Halving(grace=grace, reduction_factor=factor)
        yield f"asha, factor {factor:g}, grace {grace:.2g}", functools.partial(_asynchronous, halving)
    for factor, rungs in itertools.product((2.0, 3.0), (("1/3", "2/3"), ("1/4", "1/2"), ("1/3", "1/2"), ("1/2",))):
        together = SuccessiveHalving.model_validate({"rungs": rungs, "factor": factor})
        for cooled in (False, True):
            name = f"halving, factor {factor:g}, rungs {', '.join(rungs)}{', cooled down' * cooled}"
            yield name, functools.partial(_together, together, cooled)


def _asynchronous(halving: Halving, grid: Sequence[Recorded], order: int) -> tuple[Found, float]:
    curves = [trial.curve for trial in shuffled(grid, order, "recorded")]
    result = found([trial.curve for trial in grid], replay(curves, halving))
    return result, result.share


def _together(together: SuccessiveHalving, cooled: bool, grid: Sequence[Recorded], order: int) -> tuple[Found, float]:
    """The rule itself is asked; it hangs on no order."""
    whole = max(trial.curve.steps for trial in grid)
    rungs = together.steps(whole)
    by_id = {trial.curve.trial_id: trial for trial in grid}
    records: dict[str, Any] = {}
    halves = Halves([*by_id], [*by_id], rungs, together.factor, records.get, lambda id_: Offer(id_, {}))
    made, branches = dict.fromkeys(by_id, 0), 0
    while (offer := halves.take("")) is not None:
        trial = by_id[offer.trial_id]
        for step, score in (report for report in trial.curve.reports if report[0] > made[offer.trial_id]):
            made[offer.trial_id] = step
            judged = trial.cooled.get(step, score) if cooled and step in rungs else score
            branches += cooled and step in rungs and step == halves.next_rung
            record = records.setdefault(offer.trial_id, {"row": {"status": "running"}, "history": []})
            record["history"].append({"step": step, "miou": judged})
            if step >= halves.next_rung:
                break
        if made[offer.trial_id] == trial.curve.steps:
            records[offer.trial_id]["row"]["status"] = "completed" if trial.curve.completed else "diverged"
        halves.over(offer.trial_id)
    result = found([trial.curve for trial in grid], made)
    return result, result.share + branches * BRANCH * whole / sum(trial.curve.steps for trial in grid)


def _line(
    name: str,
    rule: Rule,
    grids: Mapping[Grid, Sequence[Recorded]],
    deviations: Mapping[str, float],
    orders: int,
) -> Row:
    results, shares, within, blind = [], [], [], []
    for (study, *_), grid in grids.items():
        for order in range(orders):
            result, share = rule(grid, order)
            results.append(result)
            shares.append(share)
            within.append(result.regret < deviations[study] or result.same)
            curves = [trial.curve for trial in grid]
            blind.append(unsearched(curves, shuffled(curves, order, "fewer"), share).regret)
    return {
        "rule": name,
        "steps": statistics.fmean(shares),
        "best": statistics.fmean(result.same for result in results),
        "within": statistics.fmean(within),
        "loss": statistics.fmean(result.regret for result in results),
        "most": max(result.regret for result in results),
        "fewer": statistics.fmean(blind),
    }
