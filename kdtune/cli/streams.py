"""Standard output and error that may be closed, or go away while a command runs: a cron job's, a terminal's."""

import errno
import io
import logging
import os
import sys
from typing import Any, TextIO

import click

from kdtune.errors import UserError
from kdtune.text import shown


def say(text: str, *, err: bool = False, nl: bool = True) -> None:
    """Prints text that may hold what others wrote, on standard output or error; every command prints with this."""
    click.echo(shown(text, lines=True), err=err, nl=nl)


class _Stream(io.FileIO):
    """A standard stream. What cannot be written to a screen that is gone is dropped; the command goes on."""

    def __init__(self, number: int) -> None:
        super().__init__(number, "wb", closefd=False)
        self._dropped = False

    def write(self, content: Any) -> int:
        if self._dropped or not len(content):
            return len(content)
        try:
            return super().write(content)
        except OSError as error:
            if isinstance(error, BlockingIOError) or (isinstance(error, BrokenPipeError) and self.fileno() == 1):
                raise  # nobody reads on: click ends the command, as ``| head`` wants it
            self._dropped = True
            if self.fileno() == 1 and error.errno != errno.EIO:
                raise UserError(f"standard output: cannot be written: {error.strerror}") from None
            return len(content)


class _Shown(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return shown(super().format(record), lines=True)


def steady() -> None:
    """Gives a command streams that it can write to, whatever they were when it began, and whatever becomes of them.

    Streams that a test or another program has put in their place are left alone.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:  # closed: the next file that anybody opens would become it
            os.open(os.devnull, os.O_RDWR)  # the lowest free number, so this one
            setattr(sys, name, os.fdopen(number, "w" if number else "r", closefd=False))
    if logging.lastResort is not None:  # prints warnings where no program has said what is to become of them
        logging.lastResort.setFormatter(_Shown())
    sys.stdout, sys.stderr = _steadied(sys.stdout, 1), _steadied(sys.stderr, 2)


def _steadied(stream: TextIO, number: int) -> TextIO:
    try:
        raw = getattr(stream.buffer, "raw", stream.buffer)  # without a buffer, as PYTHONUNBUFFERED has it
        own = stream.fileno() == number and isinstance(raw, io.FileIO)
    except (OSError, AttributeError):
        return stream
    if not own or isinstance(raw, _Stream):
        return stream
    stream.flush()
    whole_lines = number == 2 or stream.isatty()
    at_once = raw is stream.buffer
    writer = _Stream(number) if at_once else io.BufferedWriter(_Stream(number))
    return io.TextIOWrapper(writer, stream.encoding, stream.errors, line_buffering=whole_lines, write_through=at_once)
