"""Which configuration is the best: trials grouped over their seeds, means, and the order of the means.

mIoU is in percent. A trial that did not complete is never best and never enters a mean.
"""

import math
import statistics
from collections.abc import Collection, Sequence
from typing import Any

Row = dict[str, Any]

SEVERITY = ("completed", "stopped", "diverged", "failed")


def best_and_near(means: Sequence[float | None], stds: Sequence[float | None]) -> list[tuple[bool, bool]]:
    """Per mean: is it the best (ties: all of them); is it no less than the best mean minus its deviation.

    A null mean is neither. Where the best has no deviation, only the best is within it.
    """
    known = [mean for mean in means if mean is not None]
    if not known:
        return [(False, False)] * len(means)
    top = max(known)
    reach = max(std or 0.0 for mean, std in zip(means, stds, strict=True) if mean == top)
    floor = top - reach
    return [(mean == top, mean is not None and mean >= floor) for mean in means]


def configurations(trials: Sequence[Row], planned: Collection[int] = ()) -> list[Row]:
    """The configurations of one stage, each with the hyperparameters of its trials and their scores.

    Adds to a trial's columns: ``miou_mean`` (null unless the trial of every seed of the stage is completed),
    ``miou_std`` (sample deviation, null for one seed), ``seeds`` (completed ones), and sets ``miou`` to the
    mean or, where a single trial did not complete, to what it had reached. ``status`` is the worst of its
    trials, with that trial's ``step``; null where a seed has not finished yet. The seeds of the stage are
    those of its trials, and ``planned``.
    """
    grouped: dict[tuple[str, str], list[Row]] = {}
    for trial in trials:
        grouped.setdefault((trial["start"], trial["config_id"]), []).append(trial)
    wanted = {trial["seed"] for trial in trials}.union(planned)
    return [_configuration(group, wanted) for group in grouped.values()]


def _configuration(trials: Sequence[Row], wanted: set[Any]) -> Row:
    worst = max(trials, key=lambda trial: SEVERITY.index(trial["status"]))
    scores = [_score(trial) for trial in trials if trial["status"] == "completed"]
    known = [score for score in scores if score is not None]
    all_seeds = {trial["seed"] for trial in trials} == wanted
    whole = all_seeds and len(known) == len(trials)
    mean = statistics.fmean(known) if whole else None
    reached = _score(worst) if len(wanted) == 1 and worst["status"] != "completed" else None
    return worst | {
        "miou": mean if whole else reached,
        "miou_mean": mean,
        "miou_std": statistics.stdev(known) if whole and len(known) > 1 else None,
        "seeds": len(known),
        "status": worst["status"] if all_seeds or worst["status"] != "completed" else None,
    }


def _score(trial: Row) -> float | None:
    """Its last mIoU [percent], None where there is none or it is not a number."""
    miou = trial["miou"]
    return float(miou) if miou is not None and math.isfinite(miou) else None


def ranked(rows: Sequence[Row]) -> list[Row]:
    """The rows, with ``best`` and ``within_one_std`` from their ``miou_mean`` and ``miou_std``."""
    marks = best_and_near([row["miou_mean"] for row in rows], [row["miou_std"] for row in rows])
    return [row | {"best": best, "within_one_std": near} for row, (best, near) in zip(rows, marks, strict=True)]
