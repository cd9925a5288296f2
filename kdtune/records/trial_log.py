"""What a trial printed and how it failed: kept beside its journal, for ``kdtune logs STUDY --trial ID``."""

import contextlib
import io
import sys
from collections.abc import Iterator
from typing import Any, TypeVar

from kdtune.base import UserError
from kdtune.records.storage import Storage
from kdtune.text import did_you_mean

LONGEST = 100_000  # characters that are kept of a trial's output, the last ones, and of a traceback

T = TypeVar("T")


class Output:
    """What Python code prints while a trial runs, standard output and error together; it is passed on as well."""

    def __init__(self) -> None:
        self._parts: list[str] = []
        self._length = 0
        self.news = False  # since ``text`` was read

    def add(self, text: str) -> None:
        """Keeps a piece of it."""
        self._parts.append(text)
        self._length += len(text)
        self.news = True
        if self._length > 2 * LONGEST:
            self._cut()

    def text(self) -> str:
        """The last of it."""
        self._cut()
        self.news = False
        return "".join(self._parts)

    def _cut(self) -> None:
        self._parts = ["".join(self._parts)[-LONGEST:]]
        self._length = len(self._parts[0])

    def during(self, items: Iterator[T]) -> Iterator[T]:
        """The items; what is printed while one is made is kept, what is printed between them is not."""
        try:
            while True:
                with (
                    contextlib.redirect_stdout(_Tee(sys.stdout, self)),
                    contextlib.redirect_stderr(_Tee(sys.stderr, self)),
                ):
                    try:
                        item = next(items)
                    except StopIteration:
                        return
                yield item
        finally:
            close = getattr(items, "close", None)
            if close is not None:
                close()


class _Tee(io.TextIOBase):
    """A stream that keeps what goes through it. A terminal that is gone ends no trial."""

    def __init__(self, stream: Any, output: Output) -> None:
        self._stream, self._output = stream, output

    def write(self, text: str) -> int:
        """Passes it on."""
        self._output.add(text)
        with contextlib.suppress(OSError, ValueError, AttributeError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Passes it on."""
        with contextlib.suppress(OSError, ValueError, AttributeError):
            self._stream.flush()

    def writable(self) -> bool:
        """Always."""
        return True

    def isatty(self) -> bool:
        """As what stands behind it."""
        return bool(self._stream is not None and self._stream.isatty())

    def fileno(self) -> int:
        """As what stands behind it."""
        return int(self._stream.fileno())


def trial_lines(storage: Storage, trial_id: str) -> Iterator[str]:
    """What each attempt at a trial printed, how the last one ended, and its traceback if it failed.

    Raises:
        UserError: the study has no such trial.
    """
    record = storage.record(trial_id)
    if record is None:
        known = storage.trial_ids()
        raise UserError(
            f"{storage.folder.uri}: no trial '{trial_id}'{did_you_mean(trial_id, known)}; their ids are in: "
            f"kdtune results {storage.words} --table trials"
        )
    for attempt, text in storage.logs(trial_id):
        yield f"attempt {attempt} printed:"
        yield text.rstrip("\n")
    row = record["row"]
    told = f": {row['error']}" if row["error"] else ""
    yield f"{trial_id}, attempt {record['attempt']}: {row['status']} at step {row['step'] or 0}{told}"
    if record.get("traceback"):
        yield record["traceback"].rstrip("\n")
