"""The files of a storage in other tools: README's own lines, and all studies as one data set."""

import re
import subprocess
import sys
from itertools import combinations
from pathlib import Path

import duckdb
import pandas as pd
import polars as pl
import pyarrow.parquet as pq
import pytest

from kdtune.records.live_tables import TableWriter
from kdtune.records.storage import Storage
from kdtune.records.stored_study import TABLES
from tests.support.tiny import NETWORK, finished, study

README = Path(__file__).parents[2] / "kdtune" / "answers" / "README.md"
TEACHER = {"teacher": {"model": NETWORK, "checkpoint": "stage:teacher"}}
TERMS = {"plain": {}, "pi": {"losses.pi.weight": 0.5}, "cwd": {"losses.cwd.weight": 3.0, "losses.ho.weight": 0.1}}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``runs``: three studies of other loss terms, as launches write them; ``old``, of which no trial has finished."""
    root = tmp_path_factory.mktemp("tools") / "runs"
    for name, terms in {**TERMS, "old": {}}.items():
        spec = study().model_copy(update={"name": name})
        writer, plan = TableWriter(Storage(str(root), name), spec), list[str]()
        for number, lr in enumerate((0.1, 0.01) if name != "old" else ()):
            record = finished("student", 50.0 + number, {"recipe.lr": lr, **terms} | (TEACHER if terms else {}))
            record["row"]["study"] = name
            for row in record["history"]:
                row |= {"study": name} | {f"loss_{path.split('.')[1]}": 1.0 for path in terms}
            writer.add(record)
            plan.append(record["row"]["trial_id"])
        writer.write({"student": plan})
    return root


def blocks() -> dict[str, str]:
    """README's Python for other tools, by the tool that it imports."""
    section = README.read_text().split("### With other tools")[1].split("\n### ")[0]
    found = re.findall(r"```python\n(.*?)```", section, re.S)
    return {tool: block for block in found for tool in ("duckdb", "pandas", "polars") if f"import {tool}" in block}


@pytest.mark.parametrize("tool", ["duckdb", "pandas", "polars"])
def test_readmes_lines_run_as_they_stand(tool: str, runs: Path) -> None:
    block = blocks()[tool]
    assert len([line for line in block.splitlines() if line and not line.startswith(("import", "from"))]) <= 5
    done = subprocess.run([sys.executable, "-c", block], cwd=runs.parent, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for name in TERMS:
        assert name in done.stdout
    assert "51.0" in done.stdout or "5.1" in done.stdout


@pytest.mark.parametrize("table", TABLES)
def test_all_studies_are_one_data_set(table: str, runs: Path) -> None:
    """Columns of one name have one type in every study, those of an empty one too; what a study lacks is null."""
    files = sorted(map(str, runs.glob(f"*/{table}.parquet")))
    assert len(files) == len(TERMS) + 1
    schemas = [pq.read_schema(file) for file in files]
    for one, other in combinations(schemas, 2):
        shared = set(one.names) & set(other.names)
        assert {name: one.field(name).type for name in shared} == {name: other.field(name).type for name in shared}
    names = {name for schema in schemas for name in schema.names}
    rows = sum(pq.read_metadata(file).num_rows for file in files)
    joined = duckdb.read_parquet(files, union_by_name=True)
    diagonal = pl.concat(map(pl.read_parquet, files), how="diagonal")
    assert (set(joined.columns), len(joined.fetchall())) == (names, rows)
    assert (set(diagonal.columns), diagonal.height) == (names, rows)
    assert set(pd.concat(map(pd.read_parquet, files)).columns) == names


def test_what_a_study_lacks_is_null(runs: Path) -> None:
    files = runs / "*" / "history.parquet"
    joined = duckdb.read_parquet(str(files), union_by_name=True)
    found = joined.aggregate("study, count(loss_cwd), count(*)").order("study").fetchall()
    assert found == [("cwd", 2, 2), ("pi", 0, 2), ("plain", 0, 2)]
