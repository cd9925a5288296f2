"""Blocks of marked cells as text, Markdown and LaTeX; tables as CSV, JSON and Parquet."""

import csv
import io
import json
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from kdtune.text import printable

FORMULA = ("=", "+", "-", "@", "\t", "\r")  # how text begins that a spreadsheet would compute

Mark = Literal["", "best", "near"]

_LATEX = {
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "[": "{[}",  # after a row's \\ it would open an optional argument
    "±": r"$\pm$",
    "τ": r"$\tau$",
    "λ": r"$\lambda$",
    "†": r"\textdagger{}",
    "\N{GREEK SMALL LETTER MU}": r"$\mu$",
    "\N{GREEK SMALL LETTER GAMMA}": r"$\gamma$",
}
_LATEX_TOKEN = re.compile(r"\b[Lλ]_\w+(?:-\w+)*|" + "|".join(map(re.escape, _LATEX)))


@dataclass(frozen=True)
class Cell:
    """What stands in one place: ``text`` carries the mark, ``tail`` (a deviation, say) does not."""

    text: str = ""
    mark: Mark = ""
    tail: str = ""


@dataclass(frozen=True)
class Block:
    """A table for people: title, one header line, rows of as many cells, and what its signs mean."""

    title: str
    header: list[str]
    rows: list[list[Cell]]
    notes: list[str] = field(default_factory=list)
    groups: list[tuple[str, int]] = field(default_factory=list)  # names over the header, each over so many columns
    remarks: list[str] = field(default_factory=list)  # sentences below it

    def right(self, column: int) -> bool:
        """Whether a column holds numbers, which are set flush right."""
        return any(re.match(r"~?[-+]?\d", row[column].text) for row in self.rows)

    def over(self) -> list[tuple[str, int, int]]:
        """The named groups, each with its first column and the one after its last."""
        found, first = [], 0
        for name, width in self.groups:
            found += [(name, first, first + width)] if name else []
            first += width
        return found

    def marks(self) -> list[Mark]:
        """The marks in use, in the order of their legend."""
        used = {cell.mark for row in self.rows for cell in row}
        return [mark for mark in ("best", "near") if mark in used]


def legend(block: Block, best: str, near: str, escaped: Callable[[str], str] = str) -> str:
    """One line: what marks (``best``, ``near``: how they look) and signs mean; empty where there are none."""
    words = {"best": f"{best}: best", "near": f"{near}: within one standard deviation of the best"}
    return "; ".join([*(words[mark] for mark in block.marks()), *map(escaped, block.notes)])


def text(blocks: Sequence[Block], *, styled: bool) -> str:
    """Blocks under each other for a terminal, without trailing blanks.

    Args:
        blocks: what to print.
        styled: bold and underlined by control sequences; else by ``*best*`` and ``_within one deviation_``.
    """
    look = _styled if styled else _plain
    lines: list[str] = []
    for block in blocks:
        right = [block.right(column) for column in range(len(block.header))]
        rows = [[_on_a_screen(cell) for cell in row] for row in block.rows]
        cells = [[(_plain_width(cell, styled), look(cell)) for cell in row] for row in rows]
        cells = [[(len(word), word) for word in map(printable, block.header)], *cells]
        widths = [max(width for width, _ in column) for column in zip(*cells, strict=True)]
        over = _over(block, widths)
        table = ["   ".join(map(_padded, row, widths, right)) for row in cells]
        lines += [printable(block.title), *over, table[0], "-" * (sum(widths) + 3 * (len(widths) - 1)), *table[1:]]
        words = legend(block, "bold", "underlined") if styled else legend(block, "*a*", "_a_")
        lines += [*([f"({printable(words)})"] if words else []), *map(printable, block.remarks), ""]
    return "\n".join(line.rstrip() for line in lines).rstrip("\n") + "\n"


def _on_a_screen(cell: Cell) -> Cell:
    return Cell(printable(cell.text), cell.mark, printable(cell.tail))


def _over(block: Block, widths: list[int]) -> list[str]:
    """A line of the groups' names, each amid its columns, the last of which grows where a name is too long."""
    if not block.over():
        return []
    names, at = [], 0
    for name, columns in block.groups:
        room = sum(widths[at : at + columns]) + 3 * (columns - 1)
        widths[at + columns - 1] += max(0, len(name) - room)
        names.append(name.center(max(room, len(name))))
        at += columns
    return ["   ".join(names)]


def _padded(cell: tuple[int, str], width: int, right: bool) -> str:
    blanks = " " * (width - cell[0])
    return blanks + cell[1] if right else cell[1] + blanks


_STYLES: dict[Mark, str] = {"": "", "best": "1", "near": "4"}  # ECMA-48: bold, underlined
_SIGNS: dict[Mark, str] = {"": "", "best": "*", "near": "_"}


def _styled(cell: Cell) -> str:
    return f"\x1b[{_STYLES[cell.mark]}m{cell.text}\x1b[0m{cell.tail}" if cell.mark else cell.text + cell.tail


def _plain(cell: Cell) -> str:
    return _signed(cell.text, cell.mark) + cell.tail


def _plain_width(cell: Cell, styled: bool) -> int:
    return len(cell.text + cell.tail if styled else _plain(cell))


def _signed(word: str, mark: Mark) -> str:
    return f"{_SIGNS[mark]}{word}{_SIGNS[mark]}"


def markdown(blocks: Sequence[Block]) -> str:
    """Blocks as GitHub's tables, each under its title."""
    parts = []
    for block in blocks:
        columns = range(len(block.header))
        over = {column: f"{name} " for name, first, end in block.over() for column in range(first, end)}
        lines = [[as_markdown(over.get(column, "") + name) for column, name in enumerate(block.header)]]
        lines.append(["---:" if block.right(column) else ":---" for column in columns])
        lines += [[_in_markdown(cell.text, cell.mark) + as_markdown(cell.tail) for cell in row] for row in block.rows]
        words = legend(block, "**bold**", "<u>underlined</u>", as_markdown)
        table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
        remarks = "\n".join(f"* {as_markdown(remark)}" for remark in block.remarks)
        parts += [as_markdown(block.title), table, *filter(None, [words, remarks])]
    return "\n\n".join(parts) + "\n"


def as_markdown(word: str) -> str:
    """A word as Markdown shows it, whatever is in it."""
    return re.sub(r"([\\|*_<>`\[\]~])", r"\\\1", printable(word))


def _in_markdown(word: str, mark: Mark) -> str:
    word = as_markdown(word)
    return {"": word, "best": f"**{word}**", "near": f"<u>{word}</u>"}[mark]


def latex(blocks: Sequence[Block]) -> str:
    """Blocks as tables with booktabs' rules, one ``table`` environment each."""
    parts = [r"% needs \usepackage{booktabs}"]
    for block in blocks:
        columns = "".join("r" if block.right(column) else "l" for column in range(len(block.header)))
        words = legend(block, r"\textbf{bold}", r"\underline{underlined}", lambda note: _in_latex(note, ""))
        rows = [[_in_latex(cell.text, cell.mark) + _in_latex(cell.tail, "") for cell in row] for row in block.rows]
        parts += [
            r"\begin{table}[tb]",
            r"  \centering",
            rf"  \caption{{{_in_latex(block.title, '')}{f' ({words})' if words else ''}}}",
            rf"  \begin{{tabular}}{{{columns}}}",
            r"    \toprule",
            *_latex_groups(block),
            "    " + " & ".join(_in_latex(name, "") for name in block.header) + r" \\",
            r"    \midrule",
            *("    " + " & ".join(row) + r" \\" for row in rows),
            r"    \bottomrule",
            r"  \end{tabular}",
            *(rf"  \par\footnotesize {_in_latex(remark, '')}" for remark in block.remarks),
            r"\end{table}",
        ]
    return "\n".join(parts) + "\n"


def _latex_groups(block: Block) -> list[str]:
    """A line of names over several columns, with a rule below each."""
    if not block.over():
        return []
    names = [rf"\multicolumn{{{width}}}{{c}}{{{_in_latex(name, '')}}}" for name, width in block.groups]
    rules = [rf"\cmidrule(lr){{{first + 1}-{end}}}" for _, first, end in block.over()]
    return ["    " + " & ".join(names) + r" \\", "    " + " ".join(rules)]


def _in_latex(word: str, mark: Mark) -> str:
    word = _LATEX_TOKEN.sub(lambda found: _latex_token(found[0]), printable(word))
    return {"": word, "best": rf"\textbf{{{word}}}", "near": rf"\underline{{{word}}}"}[mark]


def _latex_token(token: str) -> str:
    if token in _LATEX:
        return _LATEX[token]
    symbol, below = token.split("_", 1)
    letter, index = {"L": "L", "λ": r"\lambda"}[symbol], below.replace("_", r"\_")
    return rf"${letter}_{{\mathrm{{{index}}}}}$"


def csv_text(data: pa.Table) -> str:
    """RFC 4180: one header line, CRLF, quotes only where needed; null empty, a list JSON, a time ISO 8601.

    Text that a spreadsheet would take for a formula has an apostrophe before it.
    """
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\r\n")
    writer.writerow(map(_in_csv, data.column_names))
    for row in data.to_pylist():
        writer.writerow([_in_csv(value) for value in row.values()])
    return stream.getvalue()


def _in_csv(value: Any) -> Any:
    value = _in_json(value)
    if isinstance(value, str):
        value = printable(value, lines=True)
        return f"'{value}" if value.startswith(FORMULA) else value
    return json.dumps(value) if isinstance(value, bool | list) else value


def json_text(data: pa.Table) -> str:
    """An array of one object per line of the table; no finite number is null, times are ISO 8601."""
    lines = [json.dumps({name: _in_json(value) for name, value in row.items()}) for row in data.to_pylist()]
    return "[\n  " + ",\n  ".join(lines) + "\n]\n" if lines else "[]\n"


def _in_json(value: Any) -> Any:
    if isinstance(value, list):
        return [_in_json(item) for item in value]
    if isinstance(value, datetime):
        return value.isoformat()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def parquet_bytes(data: pa.Table) -> bytes:
    """The table as a Parquet file."""
    sink = pa.BufferOutputStream()
    pq.write_table(data, sink)
    contents: bytes = sink.getvalue().to_pybytes()
    return contents
