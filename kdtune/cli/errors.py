"""Errors as one line and an exit status: 2 bad input, 1 the run failed, 130 interrupted; a bug keeps its traceback."""

import contextlib
import errno
import os
import shlex
import sys
import tempfile
from pathlib import Path
from typing import IO, Any, NoReturn

import click

from kdtune.cli.groups import Group
from kdtune.cli.paths import told
from kdtune.cli.streams import say, steady
from kdtune.filesystem import home
from kdtune.text import printable

WORDS = "kdtune.words"  # of the command line, in the context


class BadInput(click.ClickException):
    """One line and exit status 2, where click would print the usage too."""

    exit_code = 2

    def show(self, file: IO[Any] | None = None) -> None:
        """Prints the line."""
        say(f"kdtune: {printable(self.message)}", err=True)


def _one_line(error: click.UsageError) -> Exception:
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        return error  # shows the help
    path = error.ctx.command_path if error.ctx else "kdtune"
    return BadInput(f"{error.format_message().rstrip('.')}; see {path} --help".replace("\n\t", " ").replace("\n", " "))


class Errors(Group):
    """Turns errors into one line and an exit status: 2 bad input, 1 the run failed, 130 interrupted."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """The program, from its words to its exit status."""
        steady()
        return super().main(*args, **kwargs)

    def make_context(self, info_name: str | None, args: list[str], *rest: Any, **kwargs: Any) -> click.Context:
        """Reads the program's own options."""
        words = [*args]  # the list is emptied
        try:
            made = super().make_context(info_name, args, *rest, **kwargs)
            made.meta[WORDS] = words
            return made
        except click.UsageError as error:
            raise _one_line(error) from None

    def invoke(self, ctx: click.Context) -> Any:
        """Runs a command; a bug keeps its traceback."""
        try:
            home.give_one()
            return super().invoke(ctx)
        except click.UsageError as error:
            raise _one_line(error) from None
        except (click.exceptions.ClickException, click.exceptions.Exit, click.exceptions.Abort):
            raise
        except KeyboardInterrupt:  # before or after Ray runs; in between, the launch ends in order
            _ended(ctx, "interrupted; nothing finished is lost", 130)
        except Exception as error:
            from kdtune.errors import Interrupted, Lost, RunError, Stuck, UserError

            if isinstance(error, OSError) and not isinstance(error, UserError):
                if (line := told(error, ctx.meta[WORDS])) is not None:
                    raise BadInput(line) from None
            if not isinstance(error, UserError | RunError):
                raise
            if isinstance(error, UserError):
                raise BadInput(str(error)) from None
            if isinstance(error, Lost | Stuck):  # an end in order would wait for a cluster that is gone, or what hangs
                _say_ended(str(error))
                sys.stdout.flush()
                os._exit(1)
            _ended(ctx, str(error), 130 if isinstance(error, Interrupted) else 1)


def _ended(ctx: click.Context, reason: str, status: int) -> NoReturn:
    """One line that says why, and how to continue."""
    _say_ended(reason)
    ctx.exit(status)


def _say_ended(reason: str) -> None:
    again = shlex.join(["kdtune", *sys.argv[1:]])
    say(f"kdtune: {printable(reason)}; continue with: {again}", err=True)


def check_output(output: str) -> None:
    """Whether ``-o`` can be written, asked before the work.

    Raises:
        BadInput: it cannot be.
    """
    there = os.path.lexists(output)
    try:
        with open(output, "ab"):
            pass
    except OSError as error:
        raise BadInput(f"{output}: cannot be written: {error.strerror}") from None
    if not there:
        os.unlink(output)


def check_folder(output: str) -> None:
    """Whether a folder can be made, or is there, and takes files; asked before the work, and nothing is left of it.

    Raises:
        BadInput: it cannot be.
    """
    folder = Path(output).expanduser()
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        in_the_way = error.errno in (errno.EEXIST, errno.ENOTDIR)
        reason = "a file is there, not a folder" if in_the_way else error.strerror
        raise BadInput(f"{output}: cannot be written: {reason}") from None
    finally:
        for path in made:
            with contextlib.suppress(OSError):
                path.rmdir()


def write_file(output: str, content: bytes) -> None:
    """Writes what ``-o`` asked for.

    Raises:
        BadInput: it cannot be written.
    """
    try:
        with open(output, "wb") as file:
            file.write(content)
    except OSError as error:
        raise BadInput(f"{output}: cannot be written: {error.strerror}") from None
