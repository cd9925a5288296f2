"""Parquet as it is read from a storage: no more memory than a table of that size needs.

A column of one value, or a long text a million times, is nothing on disk and fills a memory once it is read.
"""

import os
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from kdtune.errors import UserError

MOST = "KDTUNE_TABLE_MB"  # the limit, where another is wanted
LEAST_MB = 64  # allowed to any table
TIMES = 64  # its file's size; measured: at most 19 for the tables that kdtune writes
ROW = 256  # bytes that a row takes as Python's objects
CELL = 8


def parsed(content: bytes, where: str, columns: Sequence[str] | None = None) -> pa.Table:
    """The table in a file's content, or these columns of it.

    Raises:
        UserError: it would take far more memory than its file says; names ``where``.
        pa.ArrowException: it is damaged.
    """
    most = _most(len(content))
    try:
        return _parsed(content, most, where, columns)
    except (OSError, UnicodeDecodeError) as error:  # of damaged pages, and of names of columns that are no text
        raise pa.ArrowInvalid(str(error)) from None


def _parsed(content: bytes, most: int, where: str, columns: Sequence[str] | None) -> pa.Table:
    # pq.read_table would import datasets, in 0.1 s; with threads of pyarrow, a process that ends right after it is
    # aborted now and then
    file = pq.ParquetFile(pa.BufferReader(content))
    found, schema = file.metadata, file.schema_arrow
    chunks = [found.row_group(i).column(j) for i in range(found.num_row_groups) for j in range(found.num_columns)]
    raw = sum(chunk.total_uncompressed_size for chunk in chunks)
    cells = sum(chunk.num_values for chunk in chunks)
    _refuse(max(ROW * found.num_rows, CELL * cells, raw), most, where, found.num_rows)
    texts = [field.name for field in schema if pa.types.is_string(field.type) or pa.types.is_binary(field.type)]
    plain = [field for field in schema if field.name not in texts]
    if len({*schema.names}) < len(schema) or any("string" in str(f.type) or "binary" in str(f.type) for f in plain):
        raise pa.ArrowInvalid("no table of kdtune's has two columns of a name, or texts within lists")
    short = pq.ParquetFile(pa.BufferReader(content), metadata=found, read_dictionary=texts)  # each text once
    table = short.read(columns=columns, use_threads=False)
    _refuse(raw + sum(_length(column) for column in table.columns), most, where, found.num_rows)
    return table.cast(pa.schema([schema.field(name) for name in table.column_names], schema.metadata))


def _most(size: int) -> int:
    """Bytes of memory that a table may take whose file has this size."""
    given = os.environ.get(MOST)
    if given is None:
        return LEAST_MB * 10**6 + TIMES * size
    if not given.isdecimal():
        raise UserError(f"{MOST}={given}: is no number of megabytes")
    return int(given) * 10**6


def _length(column: pa.ChunkedArray) -> int:
    """Bytes of all texts of a column that has each of them once."""
    chunks = [chunk for chunk in column.chunks if pa.types.is_dictionary(chunk.type)]
    return sum(pc.sum(pc.take(pc.binary_length(chunk.dictionary), chunk.indices)).as_py() or 0 for chunk in chunks)


def _refuse(needed: int, most: int, where: str, rows: int) -> None:
    if needed > most:
        raise UserError(
            f"{where}: its {rows} rows would take {needed / 1e6:.0f} MB of memory, which no table of that size on disk "
            f"needs; if it is meant to, set {MOST} to the megabytes that a table may take"
        )
