"""What the report says, as numbers: which method won by how much, what the study cost, IoU of each class, the curves.

mIoU and IoU are in percent, differences in points. Nothing here is drawn or written.
"""

import csv
import io
import json
import statistics
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import ValidationError

from kdtune.answers.ranking import Row
from kdtune.answers.significance import Gain
from kdtune.losses.marks import marked
from kdtune.records.rows import best_config
from kdtune.study.names import FINAL as FINAL
from kdtune.study.names import TEACHER, VARIANTS, is_distilled
from kdtune.study.trial_config import TrialConfig

if TYPE_CHECKING:
    from kdtune.base import SegmentationDataset

ALONE = "student"  # the method of the student without a teacher

Lines = Mapping[str, tuple[Sequence[int], Sequence[float | None]]]  # trial -> steps and mIoU of its evaluations


@dataclass(frozen=True)
class Contender:
    """The trials (seeds) that stand for the student alone, the distilled student or the teacher."""

    role: str
    stage: str
    method: str
    trials: tuple[Row, ...]
    planned: int = 1  # seeds

    @property
    def over(self) -> str:
        """Its seeds in words, with those that are not there (yet); empty of the only one."""
        there = len(self.trials)
        if there < self.planned:
            return f"{there} of {self.planned} seeds"
        return f"mean of {there} seeds" if there > 1 else ""

    @property
    def told(self) -> str:
        """In words."""
        seeds = f", {self.over}" if self.over else ""
        return (
            f"{self.role} ({'' if self.role == TEACHER else method_name(self.method) + ', '}stage {self.stage}{seeds})"
        )

    @property
    def miou(self) -> float:
        """Mean over its seeds [percent]."""
        return statistics.fmean(row["miou"] for row in self.trials)


@dataclass(frozen=True)
class Cost:
    """What a study took so far; energy and CO2 are none where no trial was metered."""

    trials: int
    by_status: Mapping[str, int]
    hours: Mapping[str, float]  # of training and evaluation, by device; trials that share a device count each
    energy_kwh: float | None
    co2_kg: float | None
    metered: int  # trials with energy; 0 where it was metered by node
    of: str  # what the energy is of
    steps: int
    steps_saved: int  # that trials which were stopped early did not make


def method_name(method: str) -> str:
    """A method for people."""
    if method in VARIANTS:
        return f"alone, {VARIANTS[method]}"
    return "student alone" if method == ALONE else f"distilled with {marked(method).replace('+', ' + ')}"


def gain_rows(found: Sequence[Gain]) -> pa.Table:
    """Gains as a table."""
    columns = {
        "method": pa.string(),
        "reference": pa.string(),
        "difference": pa.float64(),
        "low": pa.float64(),
        "high": pa.float64(),
        "p": pa.float64(),
        "provisional": pa.bool_(),
        "seeds": pa.int64(),
        "paired": pa.bool_(),
        "analysis": pa.string(),
        "verdict": pa.string(),
    }
    rows = [{name: getattr(gain, name) for name in columns} for gain in found]
    return pa.Table.from_pylist(rows, schema=pa.schema(list(columns.items())))


def cost(trials: Sequence[Row], nodes: pa.Table | None) -> Cost:
    """The cost of the trials on record, and of the nodes' idle time where the nodes were metered."""
    hours: dict[str, float] = {}
    for row in trials:
        device = row["device"] or "unknown device"
        hours[device] = hours.get(device, 0.0) + (row["train_seconds"] or 0.0) / 3600
    energy, co2 = (_total([row[name] for row in trials]) for name in ("energy_kwh", "co2_kg"))
    metered, of = sum(row["energy_kwh"] is not None for row in trials), "trials"
    if nodes is not None and nodes.num_rows:
        whole = _total(nodes["energy_kwh"].to_pylist())
        if whole is not None:
            energy, co2, of = whole, _total(nodes["co2_kg"].to_pylist()), "nodes"
    return Cost(
        trials=len(trials),
        by_status=Counter(row["status"] for row in trials),
        hours=hours,
        energy_kwh=energy,
        co2_kg=co2,
        metered=metered,
        of=of,
        steps=sum(row["step"] or 0 for row in trials),
        steps_saved=sum((row["steps_total"] or 0) - (row["step"] or 0) for row in trials if row["status"] == "stopped"),
    )


def _total(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def contenders(trials: Sequence[Row], made: Collection[str], seeds: Mapping[str, int] | None = None) -> list[Contender]:
    """The student alone, the best distilled student and the teacher, those that there are.

    The students are those of ``final``; before that, the best of any stage but those that only make weights
    (``made``) or start from others. ``seeds``: how many each stage is to run, where that is known.
    """
    fits: dict[str, Callable[[str], bool]] = {
        "student": lambda method: method == ALONE,
        "distilled": is_distilled,
    }
    early = [row for row in trials if row["stage"] not in {FINAL, "initialization", *made}]
    final = [row for row in trials if row["stage"] == FINAL]
    found = [
        _best_of(role, [row for row in final if fit(row["method"])])
        or _best_of(role, [row for row in early if fit(row["method"])])
        for role, fit in fits.items()
    ]
    teacher = _best_of(TEACHER, [row for row in trials if row["stage"] == TEACHER])
    planned = seeds or {}
    return [
        replace(each, planned=max(len(each.trials), planned.get(each.stage, 1)))
        for each in [*found, teacher]
        if each is not None
    ]


def _best_of(role: str, trials: Sequence[Row]) -> Contender | None:
    """The best configuration of any stage, among these trials."""
    stages: dict[str, list[Row]] = {}
    for row in trials:
        stages.setdefault(row["stage"], []).append(row)
    best = [(stage, rows) for stage, those in stages.items() if (rows := best_config(those))]
    if not best:
        return None
    stage, rows = max(best, key=lambda each: statistics.fmean(row["miou"] for row in each[1]))
    return Contender(role, stage, rows[0]["method"], tuple(rows))


def trial_config(row: Row) -> TrialConfig | None:
    """The configuration of a trial; none where this installation does not know its parts."""
    try:
        return TrialConfig.model_validate_json(row["config"])
    except (ValidationError, ValueError):
        return None


def taught_config(row: Row) -> TrialConfig | None:
    """The same of a trial that has a teacher; none of another, which is told without building it."""
    try:
        taught = json.loads(row["config"])["teacher"] is not None
    except (ValueError, KeyError, TypeError):
        return None
    return trial_config(row) if taught else None


def dataset_of(rows: Sequence[Row]) -> "SegmentationDataset | None":
    """The dataset of these trials; none where this installation does not know it."""
    config = trial_config(rows[0]) if rows else None
    return config.dataset if config else None


def per_class(found: Sequence[Contender]) -> pa.Table | None:
    """IoU of each class [percent], a column per contender, mean over its seeds, sorted by what comes last of them.

    Null: the class is in neither labels nor predictions. None: no trial has any.
    """
    having = {each.role: [row["per_class_iou"] for row in each.trials if row["per_class_iou"]] for each in found}
    having = {role: lists for role, lists in having.items() if lists}
    if not having:
        return None
    count = max(len(values) for lists in having.values() for values in lists)
    dataset = dataset_of([row for each in found for row in each.trials])
    names = list(dataset.class_names) if dataset is not None and dataset.num_classes == count else []
    columns: dict[str, list[Any]] = {"class": names or [f"class {i}" for i in range(count)]}
    for role, lists in having.items():
        columns[role] = [_mean([values[i] for values in lists if i < len(values)]) for i in range(count)]
    by = "distilled" if "distilled" in columns else next(iter(having))
    table = pa.table({name: pa.array(values) for name, values in columns.items()})
    order = sorted(range(count), key=lambda i: (columns[by][i] is not None, columns[by][i] or 0.0), reverse=True)
    return table.take(pa.array(order, pa.int64()))


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else None


def curves(history: pa.Table, trial_ids: Sequence[str]) -> Lines:
    """The curves of these trials, those that have evaluations."""
    chosen = history.filter(pc.is_in(history["trial_id"], pa.array(trial_ids, pa.string())))
    found: dict[str, tuple[list[int], list[float | None]]] = {}
    columns = (chosen[name].to_pylist() for name in ("trial_id", "step", "miou"))
    for trial_id, step, miou in zip(*columns, strict=True):
        steps, values = found.setdefault(trial_id, ([], []))
        steps.append(step)
        values.append(miou)
    return found


def cuts(history: pa.Table) -> dict[str, list[tuple[int, float]]]:
    """Stage -> step and mIoU [percent] from which trials went on, where they were judged together."""
    found: dict[str, set[tuple[int, float]]] = {}
    if "rung_cut" in history.column_names:
        judged = history.filter(history["rung_cut"].is_valid())
        for row in judged.select(["stage", "step", "rung_cut"]).to_pylist():
            if row["rung_cut"] >= 0:  # else none went on
                found.setdefault(row["stage"], set()).add((row["step"], row["rung_cut"]))
    return {stage: sorted(each) for stage, each in found.items()}


def curves_csv(history: pa.Table, stage: str) -> str:
    """The curves of a stage as CSV: trial_id, step, miou [percent], every digit."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["trial_id", "step", "miou"])
    of_stage = history.filter(pc.equal(history["stage"], stage))
    columns = [of_stage[name].to_pylist() for name in ("trial_id", "step", "miou")]
    writer.writerows(zip(*columns, strict=True))
    return stream.getvalue()
