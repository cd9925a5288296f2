"""What a search cost, its early stopping's saving included, from the rows of its trials and nodes.

Energy in kWh, emissions in kg CO2-equivalent; what a trial's and a node's figures hold is told
in ``records.energy_tables``.
"""

from collections.abc import Sequence
from typing import Any

from kdtune.answers.ranking import Row

TRIAL = (  # what a trial's row must have
    *("stage", "status", "step", "steps_total", "train_seconds"),
    *("energy_kwh", "co2_kg", "inference_kwh", "inference_co2_kg"),
)
_SUMS = ("trials", "trials_stopped", "steps", "steps_not_run", "train_seconds", "inference_kwh", "kwh_not_used")


def cost_rows(trials: Sequence[Row], nodes: Sequence[Row], superseded: Sequence[Row] = ()) -> list[Row]:
    """What the search cost: a row per stage and one of the superseded trials; where nodes are metered what is beside.

    ``part`` is ``stage``; ``superseded``, trials that a changed study no longer has; ``other``, what trials used beside
    steps and evaluations; ``idle``, what no trial used; ``total``, the sum of all above. ``energy_kwh`` and ``co2_kg``
    are those of steps and evaluations, ``inference_kwh`` of evaluations alone. ``steps_not_run``: those that early
    stopping spared; ``kwh_not_used``: their energy at what a step of the stopped trials took.
    """
    rows = [_part("stage", stage, [t for t in trials if t["stage"] == stage]) for stage in _names(trials)]
    rows += [_part("superseded", None, superseded)] if superseded else []
    whole = {name: _sum(nodes, name) for name in ("energy_kwh", "co2_kg")}
    if whole["energy_kwh"] is None:
        return rows
    factor = (whole["co2_kg"] or 0.0) / whole["energy_kwh"] if whole["energy_kwh"] else 0.0
    idle = _sum(nodes, "idle_kwh") or 0.0
    beside = {"energy_kwh": idle, "co2_kg": idle * factor}
    billed = {name: _sum(rows, name) or 0.0 for name in whole}
    left = {name: (whole[name] or 0.0) - beside[name] - billed[name] for name in whole}
    total = {name: _sum(rows, name) for name in _SUMS} | {name: whole[name] or 0.0 for name in whole}
    parts = (("other", left), ("idle", beside), ("total", total))
    return [*rows, *({"part": part, "stage": None, **values} for part, values in parts)]


def _names(trials: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(trial["stage"] for trial in trials))


def _part(part: str, stage: str | None, trials: Sequence[Row]) -> Row:
    stopped = [trial for trial in trials if trial["status"] == "stopped"]
    spared = sum((trial["steps_total"] or 0) - (trial["step"] or 0) for trial in stopped)
    used, steps = _sum(stopped, "energy_kwh"), sum(trial["step"] or 0 for trial in stopped)
    return {
        "part": part,
        "stage": stage,
        "trials": len(trials),
        "trials_stopped": len(stopped),
        "steps": sum(trial["step"] or 0 for trial in trials),
        "steps_not_run": spared,
        "train_seconds": _sum(trials, "train_seconds"),
        "energy_kwh": _sum(trials, "energy_kwh", "inference_kwh"),
        "co2_kg": _sum(trials, "co2_kg", "inference_co2_kg"),
        "inference_kwh": _sum(trials, "inference_kwh"),
        "kwh_not_used": used * spared / steps if used is not None and steps else None if stopped else 0.0,
    }


def _sum(rows: Sequence[Row], *names: str) -> Any:
    known = [row[name] for name in names for row in rows if row.get(name) is not None]
    return sum(known) if known else None
