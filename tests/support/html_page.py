"""A page of the report, read back: its tables with exact values, its figures, every tag and attribute."""

from dataclasses import dataclass, field
from html.parser import HTMLParser

VOID_TAGS = {"meta", "link", "img", "br"}


@dataclass
class Table:
    """A table's columns and cells: the exact value where a cell has one, else its text."""

    columns: list[str] = field(default_factory=list)
    rows: list[list[str]] = field(default_factory=list)

    def column(self, name: str) -> list[str]:
        """The cells of a column."""
        return [row[self.columns.index(name)] for row in self.rows]

    def floats(self, name: str) -> list[float | None]:
        """The numbers of a column."""
        return [float(cell) if cell else None for cell in self.column(name)]


class Page(HTMLParser):
    """What a reader or a program finds on the page."""

    def __init__(self, content: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.tables: dict[str, Table] = {}
        self.texts: dict[str, str] = {}  # of <pre>, by name
        self.figures: list[str] = []
        self.svg_words: list[str] = []
        self.notes: list[str] = []
        self.values: list[float] = []  # of <data>
        self.words = ""
        self._open: list[tuple[str, dict[str, str]]] = []
        self.feed(content)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = {key: value or "" for key, value in attrs}
        self.tags.append((tag, attributes))
        if tag not in VOID_TAGS:
            self._open.append((tag, attributes))
        if tag == "table" and "data-table" in attributes:
            self._table = self.tables.setdefault(attributes["data-table"], Table())
        elif tag == "table":
            self._table = Table()
        elif tag == "figure":
            self.figures.append(attributes.get("data-figure", ""))
        elif tag == "th" and "data-column" in attributes:
            self._table.columns.append(attributes["data-column"])
        elif tag == "tr":
            self._table.rows.append([])
        elif tag == "td":
            self._table.rows[-1].append(attributes.get("data-value", ""))
        elif tag == "p" and attributes.get("class") == "note":
            self.notes.append("")
        elif tag == "data":
            self.values.append(float(attributes["value"]))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {key: value or "" for key, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self._open, f"</{tag}> closes nothing"
        assert self._open[-1][0] == tag, f"</{tag}> closes <{self._open[-1][0]}>"
        self._open.pop()
        if tag == "table":
            self._table.rows = [row for row in self._table.rows if row]

    def handle_data(self, data: str) -> None:
        names = [tag for tag, _ in self._open]
        if not names or names[-1] == "style":
            return
        tag, attributes = self._open[-1]
        self.words += data
        if "svg" in names and tag in ("text", "tspan") and data.strip():
            self.svg_words.append(data)
        elif tag == "pre":
            name = attributes["data-table"]
            self.texts[name] = self.texts.get(name, "") + data
        elif tag == "td" and "data-value" not in attributes:
            self._table.rows[-1][-1] += data
        elif self.notes and tag == "p" and attributes.get("class") == "note":
            self.notes[-1] += data
