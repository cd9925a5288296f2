"""``kdtune results``: tables from storage and from the paper, in a format. Starts neither torch nor Ray."""

from collections.abc import Sequence
from dataclasses import fields
from functools import partial

import pyarrow as pa

from kdtune.answers import formats, tables
from kdtune.answers import published as paper
from kdtune.answers.all_studies import ALL_STUDIES
from kdtune.answers.columns import refuse
from kdtune.answers.comparison import compare
from kdtune.answers.planned_grid import planned_study
from kdtune.answers.rendering import render, render_comparison, render_data
from kdtune.answers.tables import Tables
from kdtune.answers.unlike import unlike
from kdtune.records import stored_study
from kdtune.records.stored_study import TABLES, StoredStudy, storage_root

READABLE = 500  # values of a table that the end of a launch still shows


def study_name(given: str) -> str:
    """A study's name, if need be from its file."""
    if given.endswith((".yaml", ".yml")):
        from kdtune.study.file import load_study  # with torch and all that a study may name

        return load_study(given).name
    return given


def gathered(studies: Sequence[StoredStudy], *, history: bool = True) -> Tables:
    """The stored tables of these studies as one each, columns by their names, and what the studies planned.

    ``history``: read it, too; it is the largest, and no table of ``kdtune results`` needs it.

    Raises:
        UserError: one of them has not been launched with this storage.
    """
    wanted = [field.name for field in fields(Tables) if field.name in TABLES and (history or field.name != "history")]
    parts = {name: [study.table(name) for study in studies] for name in wanted}
    joined = {name: pa.concat_tables(data, promote_options="default") for name, data in parts.items()}
    joined.setdefault("history", pa.schema([]).empty_table())
    return Tables(**joined, planned={s.study: planned_study(s.study, s.read_study()) for s in studies})


def table_in_format(
    study: str | None, storage: str | None, table: str, form: str, *, published: bool, compare: bool, styled: bool
) -> str | bytes:
    """A table of a study, or of all studies of a storage (or of the paper), in a format.

    Raises:
        UserError: no results there, or the paper does not print the table.
    """
    if published:
        data = paper.published(study, table) if study else paper.published_all(table)
    else:
        root = storage_root(storage)
        names = [study_name(study)] if study else stored_study.studies(root)
        study = names[0] if study else None
        found = gathered([StoredStudy(root, name) for name in names], history=False)
        data = _compared(study, table, found) if compare else tables.table(table, found, study)
    if form == "parquet":
        return formats.parquet_bytes(data)
    if compare:
        return render_comparison(table, data, study, form, styled=styled)
    return render_data(table, data, study, form, styled=styled, layout=None if study else ALL_STUDIES[table])


def remarks(study: str, storage: str | None) -> list[str]:
    """What is to be known before the trials of a study are compared, see ``unlike``."""
    return unlike(StoredStudy(storage_root(storage), study_name(study)).table("trials"))


def _compared(study: str | None, table: str, found: Tables) -> pa.Table:
    """Measured beside published; of all studies those that are the paper's, each line with its study."""
    beside = partial(compare, table)
    if study is not None:
        return beside(tables.table(table, found, study), paper.published(study, table))
    printed = [name for name in found.studies if name in paper.printing(table)]
    if not printed:
        refuse(
            f"no study of this storage is one of which the paper prints a table '{table}'; "
            f"it prints one for: {', '.join(paper.printing(table)) or 'none'}"
        )
    parts = [
        tables.named(beside(tables.table(table, found, name), paper.published(name, table)), name, found.planned[name])
        for name in printed
    ]
    return pa.concat_tables(parts, promote_options="default")


def summary(where: StoredStudy, styled: bool) -> str:
    """The tables that answer the study's question, as text."""
    stored = gathered([where], history=False)
    told = []
    for name in ("grid", "temperature", "weights", "final", "initialization", "optimal"):
        size = tables.table(name, stored, where.study).num_rows
        if size > READABLE:
            more = f"kdtune results {where.words} --table {name} --format csv"
            told.append(f"{where.study}: {name} of {size} values: {more}\n\n")
        elif size:
            told.append(render(name, stored, where.study, "text", styled=styled) + "\n")
    return "".join(told)
