"""What a table of results must hold before anything is computed from it: its columns, and of which kind each is.

Columns that later versions added may be missing; further ones are parameters of terms, which are numbers or text.
"""

from collections.abc import Collection, Mapping, Sequence

import pyarrow as pa
from pyarrow import types

TIMES = ("started_at", "finished_at")
TEXTS = frozenset(
    "study stage trial_id config_id start method config status init network teacher_network node device error "
    "weights_sha256 image_counts_sha256 kdtune_version torch_version launch country model phase parameters".split()
)
BOOLS = frozenset({"best", "within_one_std", "measured"})
LISTS = frozenset({"per_class_iou"})
NUMBERS = frozenset(
    "lr weight_decay temperature seed threads miou miou_best miou_mean miou_std step steps_total train_seconds "
    "images_per_second peak_memory_mb teacher_steps_run teacher_steps_read energy_kwh energy_alone_kwh co2_kg "
    "inference_kwh inference_co2_kg inference_images attempt numerics loss lr_now seconds rung_cut seeds trials "
    "trials_stopped images trials_kwh idle_kwh cpu_kwh ram_kwh gpu_kwh meter_cpu_seconds".split()
)
FIXED = TEXTS | BOOLS | LISTS | NUMBERS | frozenset(TIMES)
OF_TERMS = ("lambda_", "loss_", "grad_norm_")  # how the other columns of numbers begin
# per table: what no row may lack, and what a row may lack but the table may not
_TRIAL = "study stage trial_id"
_ENDED = (
    "lr weight_decay temperature seed miou miou_best step steps_total per_class_iou train_seconds energy_kwh co2_kg"
)
_TRIALS = (f"{_TRIAL} config_id method config status", f"start {_ENDED} images_per_second node started_at finished_at")
REQUIRED: Mapping[str, tuple[str, str]] = {
    "trials": _TRIALS,
    "superseded": _TRIALS,
    "history": (f"{_TRIAL} step", "miou loss lr_now seconds"),
    "optimal": (_TRIAL, "lr weight_decay temperature miou miou_std seeds trials trials_stopped"),
    "final": ("study method", "miou_mean miou_std seeds best within_one_std"),
    "emissions": ("study model phase", "miou images energy_kwh co2_kg country measured"),
    "nodes": ("study node energy_kwh co2_kg", "launch seconds trials_kwh idle_kwh country measured"),
}


def check_table(name: str, table: pa.Table, columns: Sequence[str] | None = None) -> pa.Table:
    """The table, if it is one of that name. ``columns``: only these of it were read.

    Raises:
        pa.ArrowInvalid: it is not.
    """
    table.validate(full=True)  # texts are text
    whole, there = (words.split() for words in REQUIRED.get(name, ("", "")))
    wanted = [column for column in (*whole, *there) if columns is None or column in columns]
    missing = [column for column in wanted if column not in table.column_names]
    wrong = [field.name for field in table.schema if not _is_of_its_kind(field)]
    holes = [column for column in whole if column in table.column_names and table[column].null_count]
    if missing or wrong or holes:
        raise pa.ArrowInvalid(f"no table '{name}': {', '.join([*missing, *wrong, *holes])}")
    return table


def _is_of_its_kind(field: pa.Field) -> bool:
    kind = field.type
    if types.is_null(kind):
        return True
    if field.name in TEXTS:
        return bool(types.is_string(kind) or types.is_large_string(kind))
    if field.name in TIMES:
        return bool(types.is_timestamp(kind))
    if field.name in BOOLS:
        return bool(types.is_boolean(kind))
    if field.name in LISTS:
        return bool(types.is_list(kind) and types.is_floating(kind.value_type))
    number = bool(types.is_integer(kind) or types.is_floating(kind))
    return number or (is_parameter(field.name) and bool(types.is_string(kind) or types.is_large_string(kind)))


def is_parameter(name: str) -> bool:
    """Whether a column is a parameter of a term, other than its weight and L_PI's temperature."""
    return name not in FIXED and not name.startswith(OF_TERMS)


def joined(tables: Sequence[pa.Table]) -> pa.Table:
    """One below the other, columns by their names; one that is text in some of them, see ``as_texts``, is so in all."""
    text = {field.name for table in tables for field in table.schema if types.is_string(field.type)}
    return pa.concat_tables([_with_texts(table, text) for table in tables], promote_options="default")


def _with_texts(table: pa.Table, names: Collection[str]) -> pa.Table:
    for i, field in enumerate(table.schema):
        if field.name in names and not types.is_string(field.type) and not types.is_null(field.type):
            table = table.set_column(i, field.name, table[field.name].cast(pa.string()))
    return table
