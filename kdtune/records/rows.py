"""Columns: what a trial's row holds, and the Arrow schemas of the tables.

``kdtune.study.names.column`` is the only place where a hyperparameter's path becomes the name of a column.
"""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime

import pyarrow as pa

from kdtune.losses import LOSSES
from kdtune.records.further import COLUMN, told, varied
from kdtune.records.parameters import Row as Row
from kdtune.records.parameters import as_texts, text_columns
from kdtune.records.schemas import is_parameter
from kdtune.study.names import TEACHER
from kdtune.study.spec import StudySpec
from kdtune.study.trial_config import STAGE_REFERENCE

FINISHED = ("completed", "stopped", "diverged", "failed")

_TIME = pa.timestamp("us", tz="UTC")
_TRIALS_HEAD = [
    ("study", pa.string()),
    ("stage", pa.string()),
    ("trial_id", pa.string()),
    ("config_id", pa.string()),
    ("start", pa.string()),
    ("method", pa.string()),
    ("config", pa.string()),
    ("status", pa.string()),
    ("lr", pa.float64()),
    ("weight_decay", pa.float64()),
    ("temperature", pa.float64()),
]
_TRIALS_TAIL = [
    ("init", pa.string()),
    ("network", pa.string()),
    ("teacher_network", pa.string()),
    ("seed", pa.int64()),
    ("threads", pa.int64()),
    ("miou", pa.float64()),
    ("miou_best", pa.float64()),
    ("step", pa.int64()),
    ("steps_total", pa.int64()),
    ("per_class_iou", pa.list_(pa.float64())),
    ("train_seconds", pa.float64()),
    ("images_per_second", pa.float64()),
    ("peak_memory_mb", pa.float64()),
    ("teacher_steps_run", pa.int64()),
    ("teacher_steps_read", pa.int64()),
    ("energy_kwh", pa.float64()),
    ("energy_alone_kwh", pa.float64()),
    ("co2_kg", pa.float64()),
    ("inference_kwh", pa.float64()),
    ("inference_co2_kg", pa.float64()),
    ("inference_images", pa.int64()),
    ("node", pa.string()),
    ("device", pa.string()),
    ("error", pa.string()),
    ("started_at", _TIME),
    ("finished_at", _TIME),
    ("attempt", pa.int64()),
    ("numerics", pa.int64()),
    ("weights_sha256", pa.string()),
    ("image_counts_sha256", pa.string()),
    ("kdtune_version", pa.string()),
    ("torch_version", pa.string()),
]
_HISTORY_HEAD = [
    ("study", pa.string()),
    ("stage", pa.string()),
    ("trial_id", pa.string()),
    ("step", pa.int64()),
    ("miou", pa.float64()),
    ("loss", pa.float64()),
]
_OPTIMAL_TAIL = [
    ("miou", pa.float64()),
    ("miou_std", pa.float64()),
    ("seeds", pa.int64()),
    ("trials", pa.int64()),
    ("trials_stopped", pa.int64()),
    (COLUMN, pa.string()),
]
FINAL = pa.schema(
    [
        ("study", pa.string()),
        ("method", pa.string()),
        ("miou_mean", pa.float64()),
        ("miou_std", pa.float64()),
        ("seeds", pa.int64()),
        ("best", pa.bool_()),
        ("within_one_std", pa.bool_()),
    ]
)
NODES = pa.schema(
    [
        ("study", pa.string()),
        ("launch", pa.string()),
        ("node", pa.string()),
        ("seconds", pa.float64()),
        ("energy_kwh", pa.float64()),
        ("co2_kg", pa.float64()),
        ("trials_kwh", pa.float64()),
        ("idle_kwh", pa.float64()),
        ("cpu_kwh", pa.float64()),
        ("ram_kwh", pa.float64()),
        ("gpu_kwh", pa.float64()),
        ("meter_cpu_seconds", pa.float64()),
        ("country", pa.string()),
        ("measured", pa.bool_()),
    ]
)
EMISSIONS = pa.schema(
    [
        ("study", pa.string()),
        ("model", pa.string()),
        ("phase", pa.string()),
        ("miou", pa.float64()),
        ("images", pa.int64()),
        ("energy_kwh", pa.float64()),
        ("co2_kg", pa.float64()),
        ("country", pa.string()),
        ("measured", pa.bool_()),
    ]
)


def absent_note(
    class_names: Sequence[str], per_class_iou: Sequence[float | None] | None, most: int | None = None
) -> str | None:
    """Names the classes that have no IoU, if there are any: a mean compares only with means over the same classes.

    ``most``: no more names than this.
    """
    iou = per_class_iou or [0.0] * len(class_names)  # diverged before its first evaluation
    absent = [name for name, value in zip(class_names, iou, strict=True) if value is None]
    if not absent:
        return None
    more = f" and {len(absent) - most} more" if most is not None and len(absent) > most else ""
    return (
        f"{len(absent)} of {len(class_names)} classes are in neither the labels nor the predictions and left the mean: "
        f"{', '.join(absent[:most])}{more}"
    )


def distillation_terms() -> list[str]:
    """The names of all terms but the task's own; each has its ``lambda_`` column."""
    return [name for name in LOSSES.usable() if not LOSSES.resolve(name).task]


def trials_schema(rows: Iterable[Iterable[str]] = ()) -> pa.Schema:
    """Fixed columns, ``lambda_<loss>`` of every known term, and the further parameters that these rows have.

    A row may be its names alone: then its further parameters are numbers.
    """
    rows = list(rows)
    fixed = [name for name, _ in _TRIALS_HEAD + _TRIALS_TAIL]
    lambdas = [f"lambda_{name}" for name in distillation_terms()]
    seen, text = {key for row in rows for key in row} - {*fixed, *lambdas}, text_columns(rows)
    more = [(name, pa.string() if name in text else pa.float64()) for name in [*lambdas, *sorted(seen)]]
    return pa.schema(_TRIALS_HEAD + more + _TRIALS_TAIL)


def trials_table(rows: Sequence[Row]) -> pa.Table:
    """``trials.parquet`` or ``superseded.parquet`` of these rows."""
    schema, text = trials_schema(rows), text_columns(rows)
    return pa.Table.from_pylist([as_texts(_with_times(row), text) for row in rows], schema=schema)


def _with_times(row: Row) -> Row:
    """Journals hold seconds since 1970; tables hold timestamps in UTC. NaN, which JSON lacks, is null."""
    times = {key: row.get(key) for key in ("started_at", "finished_at")}
    return row | {k: None if t is None else datetime.fromtimestamp(t, UTC) for k, t in times.items()}


def history_schema(rows: Iterable[Iterable[str]] = ()) -> pa.Schema:
    """Fixed columns, and the losses and gradient norms of every term that these rows (names) have.

    ``rung_cut``: where trials were judged together, the mIoU [percent] that went on from this evaluation.
    """
    rows = list(rows)
    terms = sorted({key for row in rows for key in row if key.startswith(("loss_", "grad_norm_"))})
    tail = [("lr_now", pa.float64()), ("seconds", pa.float64())]
    tail += [("rung_cut", pa.float64())] if any("rung_cut" in row for row in rows) else []
    return pa.schema(_HISTORY_HEAD + [(term, pa.float64()) for term in terms] + tail)


def history_table(rows: Sequence[Row]) -> pa.Table:
    """``history.parquet``: an evaluation per row; a loss that a trial does not have is null."""
    return pa.Table.from_pylist(list(rows), schema=history_schema(rows))


def mean_std(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean and sample standard deviation (n - 1); none for a single value."""
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None


def best_config(rows: Sequence[Row], seeds: int = 1) -> list[Row]:
    """The rows (seeds) of the best configuration: highest mean of the last evaluation, all seeds completed.

    Ties go to the earlier in ``rows``, which is the order of the plan. Empty when no configuration completed; one that
    has fewer than ``seeds`` rows is still running.
    """
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row["start"], row["config_id"]), []).append(row)
    finished = [group for group in groups.values() if len(group) >= seeds]
    complete = [g for g in finished if all(r["status"] == "completed" and _finite(r["miou"]) for r in g)]
    return max(complete, key=lambda group: statistics.fmean(r["miou"] for r in group), default=[])


def _finite(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def optimal_table(study: StudySpec, rows: Mapping[str, Sequence[Row]]) -> pa.Table:
    """``optimal.parquet``: the best configuration of each stage but those that only make weights."""
    every = [row for stage in rows.values() for row in stage]
    left_out, text = {*dict(_TRIALS_HEAD[:8]), *dict(_TRIALS_TAIL)}, text_columns(every)
    chosen = [field for field in trials_schema(every) if field.name not in left_out]
    further = [field.name for field in chosen if is_parameter(field.name)]
    differing = {stage: names for (_, stage), names in varied(every, further).items()}
    made = weight_stages(study)
    seeds = {stage.name: len(stage.seeds) for stage in study.stages}
    table = []
    for stage, trials in rows.items():
        winners = best_config(trials, seeds.get(stage, 1)) if stage not in made else []
        if winners:
            mean, std = mean_std([row["miou"] for row in winners])
            table.append(
                as_texts({field.name: winners[0].get(field.name) for field in chosen}, text)
                | {COLUMN: told(winners[0], differing.get(stage, ()))}
                | {"study": study.name, "stage": stage, "trial_id": winners[0]["trial_id"]}
                | {"miou": mean, "miou_std": std, "seeds": len(winners), "trials": len(trials)}
                | {"trials_stopped": sum(row["status"] == "stopped" for row in trials)}
            )
    head = [("study", pa.string()), ("stage", pa.string()), ("trial_id", pa.string())]
    schema = pa.schema(head + [(field.name, field.type) for field in chosen] + _OPTIMAL_TAIL)
    return pa.Table.from_pylist(table, schema=schema)


def weight_stages(study: StudySpec, *paths: str) -> set[str]:
    """The stages that only make weights (``stage:NAME``) for other stages, at any path or at one of ``paths``."""
    found = {TEACHER}
    for config in [study.base, *study.templates().values()]:
        named = config.checkpoints().items()
        references = [reference for path, reference in named if not paths or path in paths]
        found |= {ref.removeprefix(STAGE_REFERENCE) for ref in references if ref.startswith(STAGE_REFERENCE)}
    return found


def teacher_stages(study: StudySpec) -> set[str]:
    """The stages whose trials are the teacher's own: their method is ``teacher``."""
    return weight_stages(study, "teacher.checkpoint")


def final_table(study: StudySpec, rows: Sequence[Row]) -> pa.Table:
    """``final.parquet``: mean and standard deviation of each method; only of those whose seeds all completed."""
    seeds = max((len(stage.seeds) for stage in study.stages if stage.name == "final"), default=1)
    table = []
    for method in dict.fromkeys(row["method"] for row in rows):
        best = best_config([row for row in rows if row["method"] == method], seeds)
        if best:
            mean, std = mean_std([row["miou"] for row in best])
            table.append(
                {
                    "study": study.name,
                    "method": method,
                    "miou_mean": mean,
                    "miou_std": std,
                    "seeds": len(best),
                }
            )
    top = max((row["miou_mean"] for row in table), default=0.0)
    reach = max((row["miou_std"] or 0.0 for row in table if row["miou_mean"] == top), default=0.0)
    for row in table:  # of equal means all are the best
        row["best"] = row["miou_mean"] == top
        row["within_one_std"] = row["miou_mean"] >= top - reach
    return pa.Table.from_pylist(table, schema=FINAL)
