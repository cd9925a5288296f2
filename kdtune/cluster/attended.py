"""Work of this process that may hang: it is told how long it takes and where it is, and left where it stands still."""

import threading
import time
from collections.abc import Callable
from typing import TypeVar

from kdtune import signs
from kdtune.base import Stuck
from kdtune.cluster.silence import Silence
from kdtune.records.progress import duration

LOOK_EVERY = 1.0  # seconds
TOLD_EVERY = 30.0  # seconds between lines on work that goes on
LEFT_WITHIN = 5.0  # seconds for work that nobody waits for any more to notice it

T = TypeVar("T")


def attended(what: str, work: Callable[[], T], stall_after: float | None, tell: Callable[[str], None]) -> T:
    """The result of ``work``, which runs in a thread of its own.

    Args:
        what: the work in words: ``reading camvid``.
        work: gives signs of life, see ``kdtune.signs``.
        stall_after: seconds without a sign after which it is left; none: never.
        tell: told every half minute that it goes on, and at which file it is.

    Raises:
        Stuck: no sign came for so long; names the file where it is known.
    """
    results: list[T] = []
    faults: list[BaseException] = []
    ended = threading.Event()  # not ``join``, which a signal's handler that raises would take for the end

    def run() -> None:
        try:
            results.append(work())
        except BaseException as error:
            faults.append(error)
        finally:
            ended.set()

    signs.abandon(None)
    thread = threading.Thread(target=run, daemon=True, name="kdtune-attended")
    began = told_at = time.monotonic()
    before, silence = signs.current(), Silence(began, LOOK_EVERY)
    thread.start()
    try:
        while not ended.wait(LOOK_EVERY):
            now, sign = time.monotonic(), signs.current()
            silent = silence.at(now, sign.excused or sign.count != before.count)
            before = sign
            at = f", now at {sign.file}" if sign.file else ""
            if stall_after is not None and silent >= stall_after:
                where = f"it hangs at {sign.file}" if sign.file else "it hangs"
                raise Stuck(
                    f"{what}: no progress for {duration(silent)}: {where}; see that the disk or server that holds the "
                    "data answers (a study's stall_after sets how long to wait)"
                )
            if now - told_at >= TOLD_EVERY:
                told_at = now
                tell(f"{what} for {duration(now - began)}{at}")
    except BaseException as error:
        if not isinstance(error, Stuck):
            signs.abandon(thread.ident)
            ended.wait(LEFT_WITHIN)
        raise
    if faults:
        raise faults[0]
    return results[0]
