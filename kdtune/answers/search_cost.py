"""What a search cost, its early stopping's saving included, from the rows of its trials and nodes.

Energy in kWh, emissions in kg CO2-equivalent; what a trial's and a node's figures hold is told
in ``records.energy_tables``.
"""

from collections.abc import Sequence
from typing import Any

from kdtune.answers.ranking import Row

TRIAL = (  # what a trial's row must have
    *("stage", "status", "step", "steps_total"),
    *("train_seconds", "energy_kwh", "co2_kg", "inference_kwh"),
)


def cost_rows(trials: Sequence[Row], nodes: Sequence[Row]) -> list[Row]:
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
