"""HTML of the report: everything that is shown is escaped here, every number keeps its exact value beside it."""

import base64
import html
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

import pyarrow as pa

from kdtune.losses.marks import DAGGER, FOOTNOTE

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
NONE = "\u2013"  # a dash
WORDS = 40  # characters of a cell: more are broken into lines
_NO_CHARACTER = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]")


@dataclass(frozen=True)
class Section:
    """A part of the page: its id, its title, its content as HTML."""

    id: str
    title: str
    content: str


def plain(value: object) -> str:
    """Text without the characters that neither HTML nor XML may hold, such as a terminal's escape."""
    return _NO_CHARACTER.sub("\ufffd", str(value))


def escape(value: object) -> str:
    """Text as HTML, in content and in attributes."""
    return html.escape(plain(value), quote=True)


def note(words: str) -> str:
    """One line in the place of what could not be shown."""
    return f'<p class="note">{escape(words)}</p>'


def paragraph(words: str) -> str:
    """Plain text."""
    return f"<p>{escape(words)}</p>"


def exact(value: Any) -> str:
    """A number with all its digits, as ``float`` and ``int`` read it; empty for none."""
    if value is None:
        return ""
    return str(value).lower() if isinstance(value, bool) else repr(value) if isinstance(value, float) else str(value)


def number(value: float | None, shown: str) -> str:
    """A number in running text."""
    return f'<data value="{escape(exact(value))}">{escape(shown)}</data>'


def details(summary: str, content: str) -> str:
    """What opens on a click."""
    return f"<details><summary>{escape(summary)}</summary>{content}</details>"


def preformatted(text: str, name: str) -> str:
    """Text as it is; ``name`` is for programs."""
    return f'<div class="scroll" tabindex="0"><pre data-table="{escape(name)}">{escape(text)}</pre></div>'


def figure(content: str, name: str, caption: str = "") -> str:
    """An ``<svg>`` or ``<img>`` with its caption."""
    words = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    return f'<figure data-figure="{escape(name)}">{content}{words}</figure>'


def grid(figures: Sequence[str], kind: str = "figures") -> str:
    """Figures beside each other where there is room, else below each other."""
    return f'<div class="{kind}">{"".join(figures)}</div>'


def image(png: bytes, alt: str) -> str:
    """A PNG inside the page."""
    return f'<img alt="{escape(alt)}" src="data:image/png;base64,{base64.b64encode(png).decode()}">'


def tile(label: str, value: str, below: str = "") -> str:
    """One of the figures at the top; ``value`` and ``below`` are HTML."""
    words = f'<span class="label">{escape(label)}</span><strong>{value}</strong><span>{below}</span>'
    return f'<div class="tile">{words}</div>'


def table(
    data: pa.Table,
    name: str,
    *,
    shown: Mapping[str, str] | None = None,
    labels: Mapping[str, str] | None = None,
    without: Sequence[str] = (),
) -> str:
    """A table, a line per row, without columns that are null throughout; numbers exact in ``data-value``.

    Args:
        data: what it holds; lists are shown with their elements exact.
        name: in ``data-table``, for programs.
        shown: a format (``.2f``) by column; else four digits.
        labels: what a column is called; else its name.
        without: columns that are left out.
    """
    shown, labels = shown or {}, labels or {}
    names = [column for column in data.column_names if column not in without]
    names = [column for column in names if data[column].null_count < data.num_rows]
    columns = [(column, data[column].to_pylist(), _numeric(data[column].type)) for column in names]
    head = "".join(
        f'<th scope="col" data-column="{escape(column)}"{_right(numeric)}>{escape(labels.get(column, column))}</th>'
        for column, _, numeric in columns
    )
    best = data["best"].to_pylist() if "best" in data.column_names else [False] * data.num_rows
    near = data["within_one_std"].to_pylist() if "within_one_std" in data.column_names else [False] * data.num_rows
    lines = []
    for i in range(data.num_rows):
        marked = ' class="best"' if best[i] else ' class="near"' if near[i] else ""
        cells = "".join(_cell(values[i], numeric, shown.get(column)) for column, values, numeric in columns)
        lines.append(f"<tr{marked}>{cells}</tr>")
    body = "\n".join(lines)
    head = f"<thead><tr>{head}</tr></thead>"
    return (
        f'<div class="scroll" tabindex="0"><table data-table="{escape(name)}">{head}<tbody>{body}</tbody></table></div>'
    )


def _numeric(kind: pa.DataType) -> bool:
    return bool(pa.types.is_floating(kind) or pa.types.is_integer(kind))


def _right(numeric: bool) -> str:
    return ' class="number"' if numeric else ""


def _cell(value: Any, numeric: bool, form: str | None) -> str:
    if numeric:
        text = NONE if value is None else format(value, form or (".4g" if isinstance(value, float) else ""))
        text = text.removeprefix("-") if value and not text.strip("-0.") else text  # no "-0.00"
        return f'<td class="number" data-value="{exact(value)}">{escape(text)}</td>'
    if isinstance(value, bool):
        return f'<td data-value="{exact(value)}">{"yes" if value else "no"}</td>'
    if isinstance(value, list):
        return f'<td class="words">{escape(", ".join(NONE if item is None else exact(item) for item in value))}</td>'
    words = ' class="words"' if isinstance(value, str) and len(value) > WORDS else ""
    return f"<td{words}>{escape(NONE if value is None else value)}</td>"


def page(title: str, lead: str, sections: Sequence[Section]) -> str:
    """The whole page; its policy lets nothing run and nothing load."""
    contents = "".join(f'<li><a href="#{escape(s.id)}">{escape(s.title)}</a></li>' for s in sections)
    body = "\n".join(
        f'<section id="{escape(s.id)}"><h2>{escape(s.title)}</h2>\n{s.content}\n</section>' for s in sections
    )
    body += note(f"{FOOTNOTE}.") if DAGGER in lead + body else ""
    style = resources.files(__package__).joinpath("page.css").read_text(encoding="utf-8")
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta name="referrer" content="no-referrer">
<title>{escape(title)}</title>
<link rel="icon" href="data:,">
<style>
{style}</style>
</head>
<body>
<header>
{lead}
<nav aria-label="contents"><ul>{contents}</ul></nav>
</header>
<main>
{body}
</main>
</body>
</html>
"""
