"""The columns of a trial's row that its configuration decides; what a term's parameter is in one."""

import json
from collections.abc import Iterable, Mapping
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic_core import to_jsonable_python

from kdtune.base import LossTerm
from kdtune.study.names import column
from kdtune.study.trial_config import TrialConfig

Row = dict[str, Any]


def hyperparameters(config: TrialConfig) -> Row:
    """The columns of ``trials.parquet`` that the configuration decides. A part that is not used has none."""
    row: Row = {
        "config_id": config.config_id,
        "method": config.method,
        "config": config.model_dump_json(),
        "lr": config.recipe.lr,
        "weight_decay": config.recipe.weight_decay,
        "network": config.student.label,
        "teacher_network": config.teacher.model.label if config.uses_teacher and config.teacher else None,
        "init": config.initialisation,
        "seed": config.seed,
        "threads": config.threads,
        "steps_total": None if config.recipe.budget else config.recipe.num_steps,  # of a budget once it is measured
    }
    for name, term in config.active_losses.items():
        if not term.task:
            row |= _parameters(name, term)
    return row


def _parameters(name: str, term: LossTerm) -> Row:
    fields = {key: field for key, field in type(term).model_fields.items() if key != "acknowledge_patent"}
    cells = {column(name, key): _cell(getattr(term, key), field.annotation) for key, field in fields.items()}
    return {key: cell for key, cell in cells.items() if cell is not None}


def _cell(value: Any, kind: Any) -> float | str | None:
    """As a study file has it. Of a field of numbers a number, or none for null; else text, a number too."""
    if _is_number(kind):
        return None if value is None else float(value)
    plain = to_jsonable_python(value)
    parts = plain if isinstance(plain, list) else [plain]
    return ", ".join(each if isinstance(each, str) else json.dumps(each) for each in parts)


def _is_number(kind: Any) -> bool:
    """Whether all values of a type are numbers, or null: a column has one type everywhere."""
    if get_origin(kind) is Literal:
        return all(type(each) in (int, float, NoneType) for each in get_args(kind))
    if get_origin(kind) is Annotated:
        return _is_number(get_args(kind)[0])
    if get_origin(kind) in (Union, UnionType):
        return all(_is_number(each) for each in get_args(kind))
    return kind in (int, float, NoneType)


def text_columns(rows: Iterable[Iterable[str]]) -> frozenset[str]:
    """The columns in which one of these rows has text; of rows that are names alone, none."""
    whole = (row for row in rows if isinstance(row, Mapping))
    return frozenset(key for row in whole for key, value in row.items() if isinstance(value, str))


def as_texts(row: Row, text: frozenset[str]) -> Row:
    """The row with its numbers in columns of text written out: a later version of a term may have made it words."""
    return row | {key: f"{row[key]:.12g}" for key in text & row.keys() if isinstance(row[key], int | float)}
