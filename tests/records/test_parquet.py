"""Tables as they are read from a storage: those of others cost no more than their size."""

import io
import re
import resource
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kdtune.base import UserError
from kdtune.records.parquet import parsed
from kdtune.records.stored_study import StoredStudy
from tests.support.alone import alone

MIXED = pa.table(
    {
        "text": pa.array(["a", None, "a"]),
        "bytes": pa.array([b"x", b"", None]),
        "number": pa.array([1.5, None, 2.0]),
        "flag": pa.array([True, False, None]),
        "list": pa.array([[1.0], [], None], pa.list_(pa.float64())),
        "time": pa.array([1, 2, None], pa.timestamp("us", "UTC")),
    }
).replace_schema_metadata({"k": "v"})


def content(table: pa.Table, **options: object) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(table, buffer, **options)
    return buffer.getvalue()


def repeated(value: object, times: int) -> pa.Array:
    return pa.array([value]).take(pa.array([0] * times))


@pytest.mark.parametrize("columns", [None, ["number", "text"]])
def test_a_table_comes_back_as_it_was(columns: list[str] | None) -> None:
    expected = pq.read_table(pa.BufferReader(content(MIXED)), columns=columns)
    found = parsed(content(MIXED), "t.parquet", columns)
    assert found.equals(expected, check_metadata=True)


def bomb(kind: str) -> pa.Table:
    match kind:
        case "rows":
            return pa.table({"a": repeated(1, 3_000_000)})
        case "columns":
            return pa.table({f"c{i}": pa.nulls(100_000, pa.int64()) for i in range(200)})
        case "one long text":
            return pa.table({"a": pa.DictionaryArray.from_arrays(pa.array(2000 * [0], pa.int32()), [100_000 * "x"])})
        case "zeros":
            return pa.table({"a": pa.array([bytes(90_000_000)])})
        case _:
            return pa.table({"a": pa.ListArray.from_arrays([0, 9_000_000], repeated(0.0, 9_000_000))})


def memory_of_reading(root: str) -> tuple[str, int]:
    """What is said, and the KiB that it took."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(UserError) as refused:
        StoredStudy(root, "s").table_if_there("trials")
    return str(refused.value), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before


@pytest.mark.parametrize("kind", ["rows", "columns", "one long text", "zeros", "one long list"])
def test_a_table_that_would_fill_the_memory(kind: str, tmp_path: Path) -> None:
    """Refused by what it says of itself, or by its texts, of which each is read once."""
    small = content(bomb(kind), compression="zstd", store_schema=False)
    assert len(small) < 500_000
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "trials.parquet").write_bytes(small)
    said, taken = alone(memory_of_reading, str(tmp_path))
    assert re.search(r"s/trials\.parquet: its \d+ rows would take \d+ MB of memory.*KDTUNE_TABLE_MB", said)
    assert taken < 50_000


def test_another_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    table = pa.table({"a": repeated(1, 3_000_000)})
    monkeypatch.setenv("KDTUNE_TABLE_MB", "1000")
    assert parsed(content(table), "t.parquet").num_rows == 3_000_000
    monkeypatch.setenv("KDTUNE_TABLE_MB", "0")
    with pytest.raises(UserError, match="KDTUNE_TABLE_MB"):
        parsed(content(MIXED), "t.parquet")
    monkeypatch.setenv("KDTUNE_TABLE_MB", "all")
    with pytest.raises(UserError, match="KDTUNE_TABLE_MB=all: is no number of megabytes"):
        parsed(content(MIXED), "t.parquet")


@pytest.mark.parametrize(
    "table",
    [
        pa.table({"a": pa.array([["x"]])}),
        pa.Table.from_arrays([pa.array([1]), pa.array([2])], names=["a", "a"]),
    ],
    ids=["texts in a list", "a name twice"],
)
def test_tables_that_are_none_of_ours(table: pa.Table) -> None:
    with pytest.raises(pa.ArrowInvalid, match="no table of kdtune's"):
        parsed(content(table), "t.parquet")


def test_a_damaged_page() -> None:
    whole = bytearray(content(pa.table({"a": [f"text {i}" for i in range(1000)]}), compression="snappy"))
    whole[40:2000] = bytes(1960)
    with pytest.raises(pa.ArrowException):
        parsed(bytes(whole), "t.parquet")
