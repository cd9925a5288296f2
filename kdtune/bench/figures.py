"""Figures as a table for people and, with date and machine, as Parquet."""

import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from rich.console import Console
from rich.table import Table

from kdtune.records.rows import Row


def told(title: str, measured: Sequence[Row], output: str | None, *, upright: bool = False) -> str:
    """The figures as a table (``upright``: a line per figure); as Parquet in ``output``, with date and machine."""
    machine = {
        "measured_at": datetime.now(UTC),
        "machine": f"{platform.machine()}, {psutil.cpu_count()} cores",
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "torch_version": str(torch.__version__),
    }
    if output is not None:
        pq.write_table(pa.Table.from_pylist([row | machine for row in measured]), output)
    table = Table(title=f"{title} ({machine['gpu'] or machine['machine']}, torch {machine['torch_version']})")
    if upright:
        table.show_header = False
        for name in measured[0]:
            table.add_row(name, *(_cell(row[name]) for row in measured))
    else:
        for name in measured[0]:
            table.add_column(name, justify="right")
        for row in measured:
            table.add_row(*(_cell(value) for value in row.values()))
    console = Console(width=150, file=None, record=False, force_terminal=False)
    with console.capture() as captured:
        console.print(table)
    return captured.get()


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return (
        f"{value:.3g}"
        if isinstance(value, float) and abs(value) < 100
        else (f"{value:.0f}" if isinstance(value, float) else str(value))
    )
