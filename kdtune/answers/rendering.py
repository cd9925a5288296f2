"""A table of ``kdtune results`` in a format: laid out for people, or as data."""

from collections.abc import Callable
from dataclasses import replace

import pyarrow as pa

from kdtune.answers import formats
from kdtune.answers.columns import refuse
from kdtune.answers.formats import Block
from kdtune.answers.layouts import LAYOUTS, Layout, plain
from kdtune.answers.tables import Tables, table
from kdtune.losses.marks import DAGGER, FOOTNOTE

FORMATS = ("text", "markdown", "latex", "csv", "json")


def render(name: str, tables: Tables, study: str | None, format: str, *, styled: bool = False) -> str:
    """A table of a study in one of ``FORMATS``; Parquet is bytes: ``parquet_bytes(table(...))``.

    Args:
        name: the table, one of ``kdtune.answers.tables.NAMES``.
        tables: what the storage holds.
        study: the study, also the title; None for all, where the table allows it.
        format: text, markdown and latex are laid out and marked; csv and json are the data.
        styled: text only: bold and underline as control sequences of a terminal.

    Raises:
        UserError: an unknown table or format.
    """
    note = tables.planned[study].chosen_on if study and study in tables.planned else None
    return render_data(name, table(name, tables, study), study, format, styled=styled, note=note)


def render_data(
    name: str,
    data: pa.Table,
    study: str | None,
    format: str,
    *,
    styled: bool = False,
    layout: Layout | None = None,
    note: str | None = None,
) -> str:
    """Like ``render``, of data that is there already: ``tables.table(...)`` or ``published(...)``.

    ``layout``: another than the table's own, of ``kdtune.answers.all_studies`` say. ``note``: stands below it.
    """
    chosen = layout or LAYOUTS[name]

    def laid_out() -> list[Block]:
        blocks = chosen(data)
        return [*blocks[:-1], replace(blocks[-1], remarks=[*blocks[-1].remarks, note])] if note and blocks else blocks

    return _render(data, laid_out, _titled(name, study), format, styled)


def render_comparison(name: str, data: pa.Table, study: str | None, format: str, *, styled: bool = False) -> str:
    """What ``tables.compare`` gave, a line per line."""
    title = f"{name}, measured beside published"
    return _render(data, lambda: [plain(title, data)], _titled(name, study), format, styled)


def _titled(name: str, study: str | None) -> tuple[str, str]:
    return study or "all studies", name


def _render(
    data: pa.Table, layout: Callable[[], list[Block]], titled: tuple[str, str], format: str, styled: bool
) -> str:
    if format not in FORMATS:
        refuse(f"unknown format '{format}'; there are: {', '.join(FORMATS)} and, as bytes, parquet")
    if format in ("csv", "json"):
        return formats.csv_text(data) if format == "csv" else formats.json_text(data)
    study, name = titled
    if not data.num_rows:
        comment = "% " if format == "latex" else ""
        return f"{comment}{study}: no trial of table '{name}' has finished yet\n"
    blocks = [_with_footnote(replace(block, title=f"{study}: {block.title}")) for block in layout()]
    if format == "text":
        return formats.text(blocks, styled=styled)
    return formats.markdown(blocks) if format == "markdown" else formats.latex(blocks)


def _with_footnote(block: Block) -> Block:
    """The block with one line on what the dagger means, where there is one."""
    words = [*block.header, *block.remarks, *(cell.text for row in block.rows for cell in row)]
    return replace(block, notes=[*block.notes, FOOTNOTE]) if any(DAGGER in word for word in words) else block
