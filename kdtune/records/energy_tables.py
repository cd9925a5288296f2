"""What a study used: the tables ``nodes`` and ``emissions``; the cost of the search is ``answers.search_cost``.

Energy in kWh, emissions in kg CO2-equivalent. A trial's ``energy_kwh`` is that of its steps, ``inference_kwh`` that of
its evaluations; a node's total holds these, what else its trials did (starting, saving, steps that were lost and run
again), and what no trial used.
"""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from kdtune.records.rows import EMISSIONS, NODES, Row, best_config
from kdtune.study.names import ALONE, SHARED, is_distilled
from kdtune.study.spec import StudySpec
from kdtune.study.trial_config import TrialConfig

IMAGES = 10_000  # of inference, as in the paper's table 8
KD = "student+kd"


def nodes_table(rows: Sequence[Row]) -> pa.Table:
    """``nodes.parquet``: a row per launch and node that it ran on."""
    return pa.Table.from_pylist(list(rows), schema=NODES)


def emissions_table(study: StudySpec, stages: Mapping[str, Sequence[Row]], nodes: Sequence[Row]) -> pa.Table:
    """``emissions.parquet``: one training of student, student with teacher, and teacher; inference of each.

    A distilled training is billed with a whole teacher, as if it were the only one; what it took here, sharing the
    teacher's outputs with other trials, stands beside it.

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
            table.append(same | {"phase": "training"} | _training([_alone(row) for row in rows]))
            if any(row.get("energy_alone_kwh") is not None for row in rows):
                table.append(same | {"phase": SHARED} | _training(rows))
            table.append(same | {"phase": "inference", "images": IMAGES} | _inference(rows))
    return pa.Table.from_pylist(table, schema=EMISSIONS)


def _chosen(study: StudySpec, stages: Mapping[str, Sequence[Row]], stage: str, *, distilled: bool) -> list[Row]:
    """The rows of the best configuration of ``final`` with, or without, a teacher; else of that stage."""
    for name in ("final", stage):
        seeds = max((len(each.seeds) for each in study.stages if each.name == name), default=1)
        rows = [
            row
            for row in stages.get(name, [])
            if (is_distilled(row["method"]) if distilled else row["method"] == ALONE)
        ]
        best = best_config(rows, seeds)
        if best:
            return best
    return []


def _alone(row: Row) -> Row:
    """A trial's row with the energy of a whole teacher, whoever ran it."""
    whole, used = row.get("energy_alone_kwh"), row["energy_kwh"]
    if whole is None or not used:
        return row
    return row | {"energy_kwh": whole, "co2_kg": None if row["co2_kg"] is None else row["co2_kg"] * whole / used}


def _training(rows: Sequence[Row]) -> Row:
    configs = [TrialConfig.model_validate_json(row["config"]) for row in rows]
    images = {row["step"] * config.recipe.batch_size for row, config in zip(rows, configs, strict=True)}
    if images == {0}:
        return {"images": None}  # a teacher that was given: nobody knows here what its training took
    return {"images": max(images)} | {name: _mean(row[name] for row in rows) for name in ("energy_kwh", "co2_kg")}


def _inference(rows: Sequence[Row]) -> Row:
    """Per ``IMAGES`` images, over all evaluations of these trials; nothing of passes too short for any reading."""
    known = [row for row in rows if row["inference_images"] and row["inference_kwh"]]
    images = sum(row["inference_images"] for row in known)
    if not images:
        return {}
    used = {"energy_kwh": "inference_kwh", "co2_kg": "inference_co2_kg"}
    return {name: IMAGES * sum(row[column] for row in known) / images for name, column in used.items()}


def _mean(values: Any) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else None
