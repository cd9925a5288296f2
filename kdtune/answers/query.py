"""``kdtune results``: tables from storage and from the paper, in a format. Starts neither torch nor Ray."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import pyarrow as pa

from kdtune.answers import formats, tables
from kdtune.answers import published as paper
from kdtune.answers.all_studies import ALL_STUDIES
from kdtune.answers.columns import refuse
from kdtune.answers.comparison import compare
from kdtune.answers.per_cost import per_cost, per_cost_blocks
from kdtune.answers.planned_grid import PlannedStudy, planned_study
from kdtune.answers.ranking import Row
from kdtune.answers.rendering import render_comparison, render_data
from kdtune.answers.search_tables import fills
from kdtune.answers.tables import Tables
from kdtune.answers.unlike import unlike
from kdtune.errors import UserError
from kdtune.filesystem.folder import Folder
from kdtune.records.at_once import at_once
from kdtune.records.schemas import joined
from kdtune.records.stored_study import TABLES, StoredStudy, storage_root
from kdtune.study.names import FINAL, STUDY_NAME
from kdtune.training.image_counts import ImageCounts

READABLE = 500  # values of a table that the end of a launch still shows
SUMMED = ("grid", "temperature", "weights", "final", "initialization", "optimal")  # at the end of a launch
OF_A_STAGE = ("final", "terms", "initialization")  # tables of one stage
SEARCHED = {"grid": "learning rate or weight decay", "temperature": "the temperature", "weights": "loss weights"}
GONE = "superseded"  # the table of trials that a changed study no longer has; a study may have none
NEEDED = {  # stored tables of a study from which a table is made; of the others it is its trials alone
    "optimal": ("optimal",),
    "final": ("trials", "final"),
    "terms": ("trials", "final"),
    "emissions": ("emissions",),
    "cost": ("trials", "nodes", GONE),
}


def study_name(given: str) -> str:
    """A study's name, if need be from its file."""
    if given.endswith((".yaml", ".yml")):
        from kdtune.study.file import load_study  # with torch and all that a study may name

        return load_study(given).name
    return given


def named(given: str, storage: str | None) -> StoredStudy:
    """The study as a command names it.

    Raises:
        UserError: it has no results there.
    """
    found = StoredStudy(storage_root(storage), study_name(given), given)
    found.refuse_without_results()
    return found


@dataclass(frozen=True)
class _Read:
    """What was read of a study: stored tables by their names, and what it planned."""

    tables: Mapping[str, pa.Table]
    plan: PlannedStudy


def gathered(studies: Sequence[StoredStudy], *, history: bool = True, superseded: bool = True) -> Tables:
    """The stored tables of these studies as one each, columns by their names, and what the studies planned.

    ``history``: read it, too; it is the largest, and no table of ``kdtune results`` needs it. ``superseded``: likewise,
    and only ``cost`` needs it.

    Raises:
        UserError: one of them has not been launched with this storage.
    """
    wanted = [name for name in TABLES if history or name != "history"] + [GONE] * superseded
    found = _joined([_read(study, wanted) for study in studies])
    return replace(found, counts_of=partial(_counts_of, studies[0])) if len(studies) == 1 else found


def _counts_of(study: StoredStudy, trials: Sequence[Row]) -> dict[str, ImageCounts | str]:
    """What these trials left beside their weights, or why there is nothing."""

    def read(row: Row) -> ImageCounts | str:
        try:
            return study.image_counts(row["trial_id"], row.get("image_counts_sha256"))
        except UserError as error:
            if isinstance(error, OSError):
                raise
            return str(error)

    return dict(zip((row["trial_id"] for row in trials), at_once(read, trials), strict=True))


def _read(study: StoredStudy, wanted: Sequence[str]) -> _Read:
    known = study.digests()
    tables = {name: study.table(name, known) for name in wanted if name != GONE}
    gone = study.table_if_there(GONE, known) if GONE in wanted else None
    tables |= {GONE: gone} if gone is not None else {}
    return _Read(tables, planned_study(study.study, *study.read_study_as_run()))


def _read_if_there(study: StoredStudy, wanted: Sequence[str]) -> _Read | None:
    """The same; none of a folder in which no launch has written tables yet."""
    try:
        return _read(study, wanted)
    except UserError as error:
        # whether they are there is asked only now: nearly every study has them
        if isinstance(error, OSError) or study.folder.exists("trials.parquet"):
            raise
        return None


def _joined(read: Sequence[_Read]) -> Tables:
    """What is stored of several studies as one; a table that was not read is empty."""
    parts = {name: [each.tables[name] for each in read if name in each.tables] for name in (*TABLES, GONE)}
    some = next(data for each in read for data in each.tables.values() if "study" in data.column_names)
    empty = some.select(["study"]).slice(0, 0)  # a new one would import pandas
    whole = {name: joined(data or [empty]) for name, data in parts.items()}
    return Tables(**whole, planned={each.plan.study: each.plan for each in read})


def _of_all(root: str, table: str) -> Tables:
    """What a table over all studies of a storage needs.

    Raises:
        UserError: there is no study with results, or a table of one is damaged.
    """
    folder = Folder(root)
    studies = [StoredStudy(root, name) for name in folder.folders() if re.fullmatch(STUDY_NAME, name)]
    read = partial(_read_if_there, wanted=NEEDED.get(table, ("trials",)))
    found = [each for each in at_once(read, studies) if each is not None]
    if not found:
        refuse(f"{root}: no results of any study there; name the storage of your studies with --storage")
    return _joined(found)


def table_in_format(
    study: str | None,
    storage: str | None,
    table: str,
    form: str,
    *,
    published: bool,
    compare: bool,
    styled: bool,
    per: str | None = None,
) -> str | bytes:
    """A table of a study, or of all studies of a storage (or of the paper), in a format.

    ``per``: the table ``final`` of a study against what a training takes, see ``per_cost``.

    Raises:
        UserError: no results there, or the paper does not print the table.
    """
    note = None
    if published:
        data = paper.published(study, table) if study else paper.published_all(table)
    else:
        root, given = storage_root(storage), study
        study = study_name(study) if study else None
        one = partial(gathered, history=False, superseded=table == "cost")
        found = one([StoredStudy(root, study, given)]) if study else _of_all(root, table)
        data = _compared(study, table, found) if compare else tables.table(table, found, study)
        if not data.num_rows:
            _refuse_unplanned(study, table, found)
        note = found.planned[study].chosen_on if study and study in found.planned else None
        data = per_cost(data, found.trials, per) if per else data
    if form == "parquet":
        return formats.parquet_bytes(data)
    if compare:
        return render_comparison(table, data, study, form, styled=styled)
    layout = per_cost_blocks if per else None if study else ALL_STUDIES[table]
    return render_data(table, data, study, form, styled=styled, layout=layout, note=note)


def _refuse_unplanned(study: str | None, table: str, found: Tables) -> None:
    """A table of one stage, or of a search, which the study does not have, would stay empty for good.

    Raises:
        UserError: this is one.
    """
    stages = found.planned[study].stages if study is not None and study in found.planned else {}
    if stages and table in SEARCHED and not any(fills(table, stage) for stage in stages.values()):
        searches = f"study '{study}' has no stage that searches {SEARCHED[table]}"
        refuse(f"{searches}, of which this table is; its stages: {', '.join(stages)}")
    if table not in OF_A_STAGE:
        return
    stage = FINAL if table == "terms" else table
    if stages and stage not in stages:
        refuse(f"study '{study}' has no stage '{stage}', of which this table is; its stages: {', '.join(stages)}")


def remarks(study: str, storage: str | None) -> list[str]:
    """What is to be known before the trials of a study are compared, see ``unlike``."""
    return unlike(StoredStudy(storage_root(storage), study_name(study), study).table("trials"))


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
    wanted = {stored for name in SUMMED for stored in NEEDED.get(name, ("trials",))}
    stored = replace(_joined([_read(where, sorted(wanted))]), counts_of=partial(_counts_of, where))
    told = []
    for name in SUMMED:
        data = tables.table(name, stored, where.study)
        size = data.num_rows
        if size > READABLE:
            more = f"kdtune results {where.words} --table {name} --format csv"
            told.append(f"{where.study}: {name} of {size} values: {more}\n\n")
        elif size:
            note = stored.planned[where.study].chosen_on if name == "final" else None
            told.append(render_data(name, data, where.study, "text", styled=styled, note=note) + "\n")
    return "".join(told)
