"""The tables of ``kdtune results`` as text, Markdown, LaTeX, CSV, JSON and Parquet."""

import csv
import io
import json
import re
from pathlib import Path

import duckdb
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kdtune.answers.cells import scientific
from kdtune.answers.comparison import compare
from kdtune.answers.formats import parquet_bytes
from kdtune.answers.published import published
from kdtune.answers.rendering import FORMATS, render, render_comparison, render_data
from kdtune.answers.tables import NAMES, Tables, table
from tests.support.finished_study import everything, grid, tables, trial


def test_grid_layout_marks_stopped_diverged_failed_and_missing() -> None:
    printed = render("grid", tables(grid()), "s", "text")
    lines = [line.split() for line in printed.splitlines()]
    assert ["5e-2", "1e-2"] in lines
    assert ["5e-4", "90.00", "@", "300/900", "*71.64*"] in lines
    assert ["5e-5", "diverged", "failed"] in lines
    assert ["5e-5", "69.74", "-"] in lines
    assert "*a*: best" in printed
    assert "stopped at step s of t" in printed


def test_random_search_is_listed_line_by_line() -> None:
    trials = [trial("student", 60.0 + i, lr=0.0123 * (i + 1), weight_decay=1e-4 * (i + 1)) for i in range(5)]
    assert "1.23e-2" in render("grid", tables(trials), "s", "text")
    assert len(render("grid", tables(trials), "s", "text").splitlines()) == 3 + 5 + 1


def test_emissions_mark_what_is_estimated() -> None:
    printed = render("emissions", everything(), "s", "text")
    assert re.search(r"S +70\.00 +0\.841 +0\.298 +~0\.2 +~0\.07\n", printed)
    assert "~: estimated" in printed
    assert r"\textasciitilde{}: estimated" in render("emissions", everything(), "s", "latex")


def test_optimal_of_all_studies_names_them() -> None:
    one = everything()
    other = one.optimal.set_column(0, "study", pa.array(["t"]))
    both = Tables(one.trials, one.history, pa.concat_tables([one.optimal, other]), one.final, one.emissions)
    assert table("optimal", both, "t").num_rows == 1
    assert re.search(r"^t +distill +1e-2", render("optimal", both, None, "text"), re.M)
    assert "study" not in render("optimal", both, "s", "text")
    assert set(table("grid", both, None)["study"].to_pylist()) == {"s"}


@pytest.mark.parametrize("name", NAMES)
def test_empty_is_one_line_or_a_header(name: str) -> None:
    for form in ("text", "markdown", "latex"):
        line = render(name, tables([]), "s", form)
        assert line.endswith(f"s: no trial of table '{name}' has finished yet\n")
        assert line.count("\n") == 1
    assert render(name, tables([]), "s", "json") == "[]\n"
    assert len(render(name, tables([]), "s", "csv").splitlines()) == 1
    assert pa.null() not in table(name, tables([]), "s").schema.types


@pytest.mark.parametrize("name", NAMES)
def test_latex_is_balanced_with_booktabs_rules_and_escapes(name: str) -> None:
    printed = render(name, everything(), "s_1", "latex")
    printed += render_data(name, table(name, everything(), "s"), "s_1 & 100%", "latex")
    bare = re.sub(r"\\[\\&%$#_{}]", "", printed)
    depth = [bare[:at].count("{") - bare[:at].count("}") for at in range(len(bare) + 1)]
    assert min(depth) >= 0 == depth[-1]
    assert bare.count("$") % 2 == 0
    assert not re.search(r"[±τλ_#]", re.sub(r"\$[^$]*\$|(?m:^% .*$)", "", bare))
    assert re.findall(r"\\(begin|end)\{(\w+)\}", bare).count(("begin", "tabular")) >= 1
    for body in re.findall(r"\\begin\{tabular\}\{\w+\}\n(.*?)\\end\{tabular\}", printed, re.S):
        assert [body.count(rf"\{rule}rule") for rule in ("top", "mid", "bottom")] == [1, 1, 1]
    for columns, body in re.findall(r"\\begin\{tabular\}\{(\w+)\}\n(.*?)\\end\{tabular\}", printed, re.S):
        rows = [line for line in body.splitlines() if line.endswith(r" \\")]
        assert rows
        wide = [sum(map(int, re.findall(r"\\multicolumn\{(\d+)\}", row))) - row.count(r"\multicolumn") for row in rows]
        cells = [len(re.findall(r"(?<!\\)&", row)) + 1 for row in rows]
        assert {own + more for own, more in zip(cells, wide, strict=True)} == {len(columns)}


def test_markdown_and_latex_marks() -> None:
    assert "| 6 | <u>72.50</u> ± 0.50 | 3 |" in render("temperature", everything(), "s", "markdown")
    assert "| 3 | **73.00** ± 1.00 | 3 |" in render("temperature", everything(), "s", "markdown")
    printed = render("temperature", everything(), "s", "latex")
    assert r"3 & \textbf{73.00} $\pm$ 1.00 & 3 \\" in printed
    assert r"6 & \underline{72.50} $\pm$ 0.50 & 3 \\" in printed


@pytest.mark.parametrize("name", NAMES)
def test_control_sequences_only_where_asked(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "20")
    for form in FORMATS:
        assert "\x1b" not in render(name, everything(), "s", form)
    plain = render(name, everything(), "s", "text")
    assert plain == "".join(f"{line.rstrip()}\n" for line in plain.splitlines())


def test_styled_text_is_bold_and_underlined() -> None:
    printed = render("temperature", everything(), "s", "text", styled=True)
    assert "\x1b[1m73.00\x1b[0m ± 1.00" in printed
    assert "\x1b[4m72.50\x1b[0m ± 0.50" in printed
    assert "*" not in printed


def test_csv_is_read_by_pandas_and_follows_rfc_4180() -> None:
    printed = render("trials", everything(), "s", "csv")
    assert printed.count("\r\n") == table("trials", everything(), "s").num_rows + 1
    frame = pd.read_csv(io.StringIO(printed))
    assert frame["miou"].tolist()[:2] == [78.0, 68.89]
    assert frame["error"][0] == 'lost, it "said"'
    assert frame["per_class_iou"][0] == "[78.0, null, 12.5]"
    assert pd.to_datetime(frame["started_at"])[0] == pd.Timestamp("2026-01-02T03:04:05Z")
    marks = pd.read_csv(io.StringIO(render("temperature", everything(), "s", "csv")))
    assert marks["best"].tolist() == [False, True, False]
    assert next(csv.reader([printed.splitlines()[0]])) == everything().trials.column_names


def test_json_is_records() -> None:
    records = json.loads(render("trials", everything(), "s", "json"))
    assert records[0]["per_class_iou"] == [78.0, None, 12.5]
    assert records[0]["started_at"] == "2026-01-02T03:04:05+00:00"
    assert json.loads(render("grid", tables([trial("student", float("nan"))]), "s", "json"))[0]["miou"] is None


@pytest.mark.parametrize("name", NAMES)
def test_parquet_is_read_by_pyarrow_pandas_and_duckdb(name: str, tmp_path: Path) -> None:
    data = table(name, everything(), "s")
    path = tmp_path / "table.parquet"
    path.write_bytes(parquet_bytes(data))
    assert pq.read_table(path).equals(data)
    assert list(pd.read_parquet(path).columns) == data.column_names
    counted = duckdb.sql(f"select count(*) from '{path}'").fetchall()
    assert counted == [(data.num_rows,)]


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("trials", "cost", "terms")])
def test_every_comparison_renders(name: str) -> None:
    compared = compare(name, table(name, everything(), "s"), published("cityscapes-resnet", name))
    assert pa.null() not in compared.schema.types
    for form in FORMATS:
        assert render_comparison(name, compared, "s", form)


@pytest.mark.parametrize(
    ("value", "printed"),
    [
        (5e-2, "5e-2"),
        (1e-2, "1e-2"),
        (1.0, "1e+0"),
        (50.0, "5e+1"),
        (0.0, "0"),
        (1.234e-3, "1.23e-3"),
        (None, "-"),
    ],
)
def test_rates_print_as_in_the_paper(value: float | None, printed: str) -> None:
    assert scientific(value) == printed
