"""On a node: reads the signs of life of the processes that run trials there, asks one where it stands, ends it."""

import contextlib
import os
import re
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from kdtune import signs
from kdtune.signs import Sign

STACKS_WITHIN = 2.0  # seconds for a process to write down where its threads stand
WAITS = ("threading.py", "queue.py", "concurrent/futures/", "loading/ahead.py")  # where a thread waits for another
FRAME = re.compile(r'  File "(?P<file>[^"]*)", line (?P<line>\d+) in (?P<function>.*)')
STOPPED = "its process is stopped (SIGSTOP)"


@dataclass(frozen=True)
class Seen:
    """A trial's process, as its node sees it."""

    trial: str
    process: int
    sign: Sign
    stopped: bool
    cpu_seconds: float  # that it and its children have used; 0 after its first step


@dataclass(frozen=True)
class _Process:
    trial: str
    signs: int  # number of the file, see ``kdtune.signs.share``
    stacks: int


class Attendant:
    """The processes of a node that run trials."""

    def __init__(self) -> None:
        self._processes: dict[int, _Process] = {}

    def attend(self, pid: int, trial: str, numbers: tuple[int, int]) -> None:
        """A trial begins in a process."""
        self._processes[pid] = _Process(trial, *numbers)

    def leave(self, pid: int) -> None:
        """The trial in a process has ended."""
        self._processes.pop(pid, None)

    def seen(self) -> list[Seen]:
        """What there is to see of each process that lives."""
        found = []
        for pid, each in list(self._processes.items()):
            try:
                sign, process = signs.read(pid, each.signs), psutil.Process(pid)
                stopped = process.status() in (psutil.STATUS_STOPPED, psutil.STATUS_TRACING_STOP)
                cpu_seconds = 0.0 if sign.step else sum(_cpu_seconds(process))
                found.append(Seen(each.trial, pid, sign, stopped, cpu_seconds))
            except (OSError, psutil.Error):  # it has ended, and nobody could tell
                self.leave(pid)
        return found

    def stacks(self, pid: int) -> str:
        """Where the threads of a process stand, as faulthandler writes it; empty where it does not answer."""
        path = Path(f"/proc/{pid}/fd/{self._processes[pid].stacks}")
        try:
            before, after = path.stat().st_size, -1
            os.kill(pid, signal.SIGUSR2)
            end = time.monotonic() + STACKS_WITHIN
            while time.monotonic() < end and (after == before or after != path.stat().st_size):
                after = path.stat().st_size
                time.sleep(0.1)
            return path.read_bytes()[before:].decode(errors="replace")
        except OSError:
            return ""

    def kill(self, pid: int, count: int) -> bool:
        """Ends a process, unless it has given a sign since; whether it did end it. SIGKILL ends a stopped one too."""
        each = self._processes.get(pid)
        try:
            if each is None or signs.read(pid, each.signs).count != count:
                return False
            os.kill(pid, signal.SIGKILL)
        except OSError:
            return False
        self.leave(pid)
        return True


def _cpu_seconds(process: psutil.Process) -> Iterator[float]:
    """Of a process and each of its children."""
    for each in (process, *process.children(recursive=True)):
        with contextlib.suppress(psutil.Error):
            times = each.cpu_times()
            yield times.user + times.system + times.children_user + times.children_system


def place(stacks: str) -> str:
    """Where a trial stands: ``kdtune/datasets/decode.py:82 _load``; empty where the stacks do not tell.

    Of the thread that runs it; where that waits for a thread that works for it, of that one.
    """
    threads = [[m.groupdict() for m in FRAME.finditer(part)] for part in re.split(r"\n\s*\n|(?=\n\S)", stacks)]
    mine = [frames for frames in threads if any(frame["function"] == "run_trial" for frame in frames)]
    others = [frames for frames in threads if frames not in mine and any(_own(frame) for frame in frames)]
    chosen = [*(t for t in mine if not _waits(t)), *(t for t in others if not _waits(t)), *mine]
    if not chosen:
        return ""
    frame = next((frame for frame in chosen[0] if _own(frame)), chosen[0][0])
    file = frame["file"]
    return f"{file[file.rfind('/kdtune/') + 1 :]}:{frame['line']} {frame['function']}"


def _own(frame: dict[str, str]) -> bool:
    return "/kdtune/" in frame["file"] and "/site-packages/ray/" not in frame["file"]


def _waits(frames: list[dict[str, str]]) -> bool:
    return any(wait in frames[0]["file"] for wait in WAITS)
