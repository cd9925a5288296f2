"""What a study used: the tables ``nodes`` and ``emissions``, and the bill of the search itself.

Energy in kWh, emissions in kg CO2-equivalent. A trial's ``energy_kwh`` is that of its steps, ``inference_kwh`` that of
its evaluations; a node's total holds these, what else its trials did (starting, saving, steps that were lost and run
again), and what no trial used.
"""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from kdtune.rows import EMISSIONS, NODES, Row, best_config
from kdtune.spec import StudySpec, TrialConfig

IMAGES = 10_000  # of inference, as in the paper's table 8
KD = "student+kd"


def nodes_table(rows: Sequence[Row]) -> pa.Table:
    """``nodes.parquet``: a row per launch and node that it ran on."""
    return pa.Table.from_pylist(list(rows), schema=NODES)


def emissions_table(study: StudySpec, stages: Mapping[str, Sequence[Row]], nodes: Sequence[Row]) -> pa.Table:
    """``emissions.parquet``: one training of student, student with teacher, and teacher; inference of each.

    Means over the seeds of ``final``, of the best method there, else of the stages ``student`` and ``distill``.
    Source: Niemann et al. 2023, table 8.
    """
    measured = all(node["measured"] for node in nodes) if nodes else None
    chosen = {
        "student": _chosen(study, stages, "student", distilled=False),
        KD: _chosen(study, stages, "distill", distilled=True),
        "teacher": best_config(stages.get("teacher", [])),
    }
    table = []
    for model, rows in chosen.items():
        if rows:
            same = {
                "study": study.name,
                "model": model,
                "miou": statistics.fmean(row["miou"] for row in rows),
                "country": study.country_iso_code,
                "measured": measured,
            }
            table.append(same | {"phase": "training"} | _training(rows))
            table.append(same | {"phase": "inference", "images": IMAGES} | _inference(rows))
    return pa.Table.from_pylist(table, schema=EMISSIONS)


def _chosen(study: StudySpec, stages: Mapping[str, Sequence[Row]], stage: str, *, distilled: bool) -> list[Row]:
    """The rows of the best configuration of ``final`` with, or without, a teacher; else of that stage."""
    for name in ("final", stage):
        seeds = max((len(each.seeds) for each in study.stages if each.name == name), default=1)
        rows = [row for row in stages.get(name, []) if (row["method"] != "student") == distilled]
        best = best_config(rows, seeds)
        if best:
            return best
    return []


def _training(rows: Sequence[Row]) -> Row:
    configs = [TrialConfig.model_validate_json(row["config"]) for row in rows]
    images = {row["step"] * config.recipe.batch_size for row, config in zip(rows, configs, strict=True)}
    if images == {0}:
        return {"images": None}  # a teacher that was given: nobody knows here what its training took
    return {"images": max(images)} | {name: _mean(row[name] for row in rows) for name in ("energy_kwh", "co2_kg")}


def _inference(rows: Sequence[Row]) -> Row:
    """Per ``IMAGES`` images, over all evaluations of these trials."""
    known = [row for row in rows if row["inference_images"]]
    images = sum(row["inference_images"] for row in known)
    if not images:
        return {}
    used = {"energy_kwh": "inference_kwh", "co2_kg": "inference_co2_kg"}
    return {name: IMAGES * sum(row[column] for row in known) / images for name, column in used.items()}


def _mean(values: Any) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else None


def bill(trials: Sequence[Row], nodes: Sequence[Row]) -> list[Row]:
    """What the search cost: a row per stage, and where nodes are metered what is beside the stages.

    ``part`` is ``stage``; ``other``, what trials used beside steps and evaluations; ``idle``, what no trial used;
    ``total``. ``steps_not_run``: those that early stopping spared; ``kwh_not_used``: their energy at what a step of the
    stopped trials took.
    """
    rows = [_of_stage(stage, [t for t in trials if t["stage"] == stage]) for stage in _names(trials)]
    billed = sum((row["energy_kwh"] or 0.0) + (row["inference_kwh"] or 0.0) for row in rows)
    total = _sum(nodes, "energy_kwh")
    if total is None:
        return rows
    factor = (_sum(nodes, "co2_kg") or 0.0) / total if total else 0.0
    idle = _sum(nodes, "idle_kwh") or 0.0
    for part, kwh in (("other", total - idle - billed), ("idle", idle), ("total", total)):
        rows.append({"part": part, "stage": None, "energy_kwh": kwh, "co2_kg": kwh * factor})
    names = ("trials", "trials_stopped", "steps", "steps_not_run", "train_seconds", "inference_kwh", "kwh_not_used")
    rows[-1] |= {name: _sum(rows[:-3], name) for name in names}
    return rows


def _names(trials: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(trial["stage"] for trial in trials))


def _of_stage(stage: str, trials: Sequence[Row]) -> Row:
    stopped = [trial for trial in trials if trial["status"] == "stopped"]
    spared = sum(trial["steps_total"] - trial["step"] for trial in stopped)
    used, steps = _sum(stopped, "energy_kwh"), sum(trial["step"] for trial in stopped)
    return {
        "part": "stage",
        "stage": stage,
        "trials": len(trials),
        "trials_stopped": len(stopped),
        "steps": sum(trial["step"] or 0 for trial in trials),
        "steps_not_run": spared,
        "train_seconds": _sum(trials, "train_seconds"),
        "energy_kwh": _sum(trials, "energy_kwh"),
        "co2_kg": _sum(trials, "co2_kg"),
        "inference_kwh": _sum(trials, "inference_kwh"),
        "kwh_not_used": used * spared / steps if used is not None and steps else None if stopped else 0.0,
    }


def _sum(rows: Sequence[Row], name: str) -> Any:
    known = [row[name] for row in rows if row.get(name) is not None]
    return sum(known) if known else None
