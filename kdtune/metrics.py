"""What a trial shows on Ray's Metrics endpoint while it runs; the record of it is the journal, not this.

In a worker. Prometheus reads the endpoints that Ray names in its service discovery; a value of a trial that has ended
stays there as long as its process does.
"""

import functools
from collections.abc import Mapping
from typing import Any

from ray.util.metrics import Gauge

from kdtune.rows import Row, distillation_terms

MEASURED = {  # column of a trial's row -> what is shown
    "miou": ("kdtune_miou_percent", "mIoU of the last evaluation, in percent."),
    "step": ("kdtune_step", "Training steps done."),
    "images_per_second": ("kdtune_images_per_second", "Images trained on per second."),
    "peak_memory_mb": ("kdtune_peak_memory_mb", "Peak memory of the trial's GPU, else of its process, in MiB."),
}


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
    for column, gauge in _gauges().items():
        if row[column] is not None:
            gauge.set(row[column], tags)


def _text(value: Any) -> str:
    return "" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
