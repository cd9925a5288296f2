"""How far something is, on standard error: a bar that moves on a terminal, elsewhere a line now and then."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from kdtune import signs

EVERY_SECONDS = 10.0

Advance = Callable[[int], None]  # takes how many are done by now


@contextmanager
def bar(what: str, total: int, shown: Callable[[int], str] = str) -> Iterator[Advance]:
    """Shows ``what: 3 of 10``; ``shown`` writes a number, e.g. as a size. A ``total`` of 0 is not known."""

    def text(done: int) -> str:
        return f"{what}: {shown(done)} of {shown(total)}" if total else f"{what}: {shown(done)}"

    if sys.stderr.isatty():  # not rich's own guess, which FORCE_COLOR can turn
        columns = (TextColumn("{task.description}", markup=False), BarColumn(), TimeRemainingColumn())
        with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
            task = progress.add_task(text(0), total=total or None)

            def moved(done: int) -> None:
                signs.alive()
                progress.update(task, completed=done, description=text(done))

            yield moved
        return
    last = time.monotonic()

    def line(done: int) -> None:
        nonlocal last
        signs.alive()
        if time.monotonic() - last >= EVERY_SECONDS:
            last = time.monotonic()
            print(text(done), file=sys.stderr, flush=True)

    yield line


def megabytes(size: int) -> str:
    """``1999.6 MB``."""
    return f"{size / 1e6:.1f} MB"
