"""The columns of the tables: their types, rows to Arrow, and what the groups of columns are called."""

import json
import math
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

import pyarrow as pa
from pyarrow import json as arrow_json

from kdtune.answers.ranking import Row
from kdtune.answers.verdicts import REFERENCES as NAMED
from kdtune.errors import UserError
from kdtune.study.names import VARIANTS

REFERENCES = tuple(NAMED)
EFFORT = ("tuning_trials", "tuning_steps")  # that chose a method, in all stages that led to it
TERMS = (  # of the table ``terms``, before weights and gains
    *("study", "start", "method", "publication", "terms", "basis", "miou_student"),
    *(*(f"miou_{variant}" for variant in VARIANTS), "miou_mean", "miou_std", "seeds"),
    *("status", "group", "p_holm", "weights", "weights_as_published", "factor", "train_seconds", "energy_kwh"),
    *("miou_student_published", "miou_mean_published"),
)
STANDING = ("group", "apart", "lead", "lead_by_chance")  # among all methods; the last two of the best alone

_TEXT = {
    "study",
    "stage",
    "loss",
    "method",
    "init",
    "status",
    "model",
    "phase",
    "country",
    "dataset",
    "student",
    "part",
    "border",
    "group",
    "start",
    "publication",
    "terms",
    "basis",
    "weights",
    "weights_as",  # as_published
    "parameters",
}

_TEXT |= {f"{name}_{reference}" for reference in REFERENCES for name in ("verdict", "analysis", "images")}

_COUNTS = {"seeds", "step", "steps_total", "images", "trials", "trials_stopped", "steps", "steps_not_run"}

_COUNTS |= set(EFFORT)

_COUNTS |= {f"{name}_{reference}" for reference in REFERENCES for name in ("family", "seeds_needed")}

_FLAGS = {"best", "within_one_std", "measured", "front"}

_FLAGS |= {f"{name}_{reference}" for reference in REFERENCES for name in ("paired", "provisional")}


def refuse(message: str) -> NoReturn:
    """Raises UserError with that line."""
    raise UserError(message)


def typed(rows: Iterable[Row], columns: Sequence[str]) -> pa.Table:
    """Rows as a table of exactly these columns, typed by their names; what a row lacks, or no finite number, is null.

    They become Arrow by way of JSON, since every other way from Python's values to Arrow imports pandas where that is
    installed, in half a second.
    """
    schema = pa.schema([(name, column_type(name)) for name in columns])
    lines = [json.dumps({name: _finite(row.get(name)) for name in columns}) for row in rows]
    if not lines:
        return schema.empty_table()
    options = arrow_json.ParseOptions(explicit_schema=schema, unexpected_field_behavior="error")
    text = pa.BufferReader("\n".join(lines).encode())
    return arrow_json.read_json(text, parse_options=options).select(list(columns))


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def column_type(name: str) -> pa.DataType:
    """Arrow type of a column of these tables; what is neither text, count nor flag is a 64-bit float."""
    name = name.removesuffix("_published").removesuffix("_difference")
    if name in _TEXT:
        return pa.string()
    if name in _COUNTS:
        return pa.int64()
    return pa.bool_() if name in _FLAGS else pa.float64()


def gain_columns(reference: str) -> list[str]:
    """The columns of ``final`` that tell of a method against a reference, the words last."""
    of = reference
    numbers = [f"gain_{of}", f"gain_{of}_low", f"gain_{of}_high", f"p_{of}", f"paired_{of}", f"provisional_{of}"]
    family = [f"{name}_{of}" for name in ("family", "analysis", "deviation", "scatter_p", "least_gain", "seeds_needed")]
    images = [f"gain_{of}_images_low", f"gain_{of}_images_high", f"images_{of}"]
    return [*numbers, *family, *images, f"verdict_{of}"]


def loss_columns(data: pa.Table) -> list[str]:
    """The ``lambda_<loss>`` columns, in their order."""
    return [name for name in data.column_names if name.startswith("lambda_")]


def rounded(value: Any) -> Any:
    """A number to six digits, so that 5e-4 of a file is 5e-4 of a table; all else as it is."""
    return float(f"{value:.6g}") if isinstance(value, float) else value
