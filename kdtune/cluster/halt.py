"""Why and how a launch ends before its plan is done: a signal, a stop request, bad input, a Ray that is gone."""

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import FrameType

from kdtune.base import Interrupted


@dataclass
class Halt:
    """Why a launch ends before its plan is done."""

    reason: str | None = None
    error: Exception | None = None

    def end(self, reason: str, error: Exception | None = None) -> None:
        """Has the launch end in order; the first reason stays."""
        if self.reason is None:
            self.reason, self.error = reason, error


def refuse_halted(halt: Halt) -> None:
    """Nothing, unless the launch is to end.

    Raises:
        UserError: a trial met bad input.
        Lost: Ray is gone.
        Interrupted: by Ctrl-C, SIGTERM or `kdtune stop`.
    """
    if halt.error is not None:
        raise halt.error
    if halt.reason is not None:
        raise Interrupted(f"{halt.reason}; nothing finished is lost")


@contextlib.contextmanager
def interruptible(halt: Halt) -> Iterator[None]:
    """Ctrl-C or SIGTERM once ends the launch in order, a second time at once. SIGHUP ends it in order, however often.

    Of that, shell and kernel both send one when a terminal goes away: the second is no impatience.
    """
    asked = False

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        if number == signal.SIGHUP:
            halt.end("its terminal is gone (SIGHUP)")
            return
        if asked:
            os._exit(130)
        asked = True
        halt.end("interrupted")

    with _handled(handle):
        yield


@contextlib.contextmanager
def promptly() -> Iterator[None]:
    """Ctrl-C or SIGTERM ends at once what trains nothing, so that there is nothing to end in order.

    Not around calls into Ray, which an exception out of a handler breaks.

    Raises:
        Interrupted: the signal came.
    """

    def handle(number: int, frame: FrameType | None) -> None:
        raise Interrupted("interrupted; nothing finished is lost")

    with _handled(handle):
        yield


@contextlib.contextmanager
def _handled(handle: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """The signals that ask for an end, handled so; only the main thread may handle any.

    SIGHUP stays ignored where it is (``nohup``): the launch is to outlive its terminal.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    ends = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        ends.append(signal.SIGHUP)
    before = {number: signal.signal(number, handle) for number in ends}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
