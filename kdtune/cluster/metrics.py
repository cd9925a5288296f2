"""What a trial shows on Ray's Metrics endpoint while it runs; the record of it is the journal, not this.

In a worker. Prometheus reads the endpoints that Ray names in its service discovery; a value of a trial that has ended
stays there as long as its process does.
"""

import kdtune.cluster.environment  # noqa: F401  # isort: skip  # before Ray, which reads it

import functools
import time
from collections.abc import Mapping
from typing import Any

from ray.util.metrics import Gauge

from kdtune.records.rows import Row, distillation_terms
from kdtune.training.energy_meter import JOULES_PER_KWH

MEASURED = {  # column of a trial's row -> what is shown
    "miou": ("kdtune_miou_percent", "mIoU of the last evaluation, in percent."),
    "step": ("kdtune_step", "Training steps done."),
    "images_per_second": ("kdtune_images_per_second", "Images trained on per second."),
    "peak_memory_mb": ("kdtune_peak_memory_mb", "Peak memory of the trial's GPU, else of its process, in MiB."),
    "energy_kwh": ("kdtune_energy_kwh", "Energy of the trial's steps, in kWh."),
    "watts": ("kdtune_watts", "Mean power of the trial since its last evaluation, that one included."),
}
STALLED = "kdtune_stalled", "1 from when the trial was found to hang until it makes a step again or has failed, then 0."
_last: dict[str, tuple[float, float]] = {}  # of the trial that this process runs: energy [J], at this time [s]


@functools.cache
def _labels() -> tuple[str, ...]:
    weights = (f"lambda_{name}" for name in distillation_terms())
    return ("study", "stage", "method", "seed", "lr", "weight_decay", "temperature", *weights)


@functools.cache
def _gauges() -> Mapping[str, Gauge]:
    keys = ("trial", *_labels())
    return {column: Gauge(name, description=text, tag_keys=keys) for column, (name, text) in MEASURED.items()}


def show(row: Row) -> None:
    """Sets the gauges to a trial's last evaluation; a hyperparameter that it has none of is empty."""
    tags = {"trial": row["trial_id"]} | {label: _text(row.get(label)) for label in _labels()}
    shown = row | {"watts": _watts(row)}
    for column, gauge in _gauges().items():
        if shown[column] is not None:
            gauge.set(shown[column], tags)


@functools.cache
def _stalled() -> Gauge:
    name, text = STALLED
    return Gauge(name, description=text, tag_keys=("study", "stage", "trial"))


def show_stalled(study: str, stage: str, trial: str, *, stalled: bool) -> None:
    """Sets the gauge of a trial that hangs, or did; in the driver, since the trial itself cannot tell."""
    _stalled().set(float(stalled), {"study": study, "stage": stage, "trial": trial})


def _watts(row: Row) -> float | None:
    """None at a trial's first evaluation in this process, and where nobody measures."""
    if row["energy_kwh"] is None:
        return None
    now = (row["energy_kwh"] + (row["inference_kwh"] or 0.0)) * JOULES_PER_KWH, time.monotonic()
    before = _last.get(row["trial_id"])
    _last.clear()
    _last[row["trial_id"]] = now
    return (now[0] - before[0]) / (now[1] - before[1]) if before and now[1] > before[1] else None


def _text(value: Any) -> str:
    return "" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
