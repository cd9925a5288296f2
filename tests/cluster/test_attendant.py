"""Processes that hang, for real: each is seen, tells where it stands if it can, and is ended."""

import math
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from kdtune.cluster.attendant import Attendant, Seen, place
from kdtune.cluster.lookout import _Trial
from kdtune.cluster.silence import Silence
from kdtune.signs import Sign
from tests.support.launching import until

HANGS = {
    "blocked": "from pathlib import Path; p = Path(sys.argv[1])\n    with signs.reading(p): p.open()",
    "holds Python up": "sum(range(10**14))",
}


@contextmanager
def process(*words: str, does: str) -> Iterator[tuple[subprocess.Popen[str], tuple[int, int]]]:
    """A process that shares its signs, and then does this in a function of the name that a worker's has."""
    code = f"import sys; from kdtune import signs\ndef run_trial():\n    {does}\n"
    code += "print(*signs.share(), flush=True); signs.stepped(7)\nrun_trial()"
    found = subprocess.Popen([sys.executable, "-c", code, *words], stdout=subprocess.PIPE, text=True)
    try:
        assert found.stdout is not None
        first, second = map(int, found.stdout.readline().split())
        yield found, (first, second)
    finally:
        found.kill()
        found.communicate()


@pytest.mark.parametrize("hang", HANGS)
def test_a_process_that_hangs_says_where(tmp_path: Path, hang: str) -> None:
    os.mkfifo(tmp_path / "pipe")
    attendant = Attendant()
    with process(str(tmp_path / "pipe"), does=HANGS[hang]) as (found, numbers):
        attendant.attend(found.pid, "student-1-s0", numbers)
        until(lambda: "in run_trial" in attendant.stacks(found.pid), 30)
        (seen,) = attendant.seen()
        assert (seen.trial, seen.sign.step, seen.stopped) == ("student-1-s0", 7, False)
        assert seen.sign.file == (str(tmp_path / "pipe") if hang == "blocked" else "")
        assert not attendant.kill(found.pid, seen.sign.count - 1)  # it has gone on since
        assert attendant.kill(found.pid, seen.sign.count)
        assert found.wait() == -signal.SIGKILL
        assert attendant.seen() == []


def test_a_stopped_process_is_seen_and_ended() -> None:
    attendant = Attendant()
    with process(does="__import__('time').sleep(1000)") as (found, numbers):
        attendant.attend(found.pid, "student-1-s0", numbers)
        found.send_signal(signal.SIGSTOP)
        until(lambda: psutil.Process(found.pid).status() == psutil.STATUS_STOPPED)
        (seen,) = attendant.seen()
        assert seen.stopped
        assert attendant.kill(found.pid, seen.sign.count)
        assert found.wait() == -signal.SIGKILL


def test_the_place_is_that_of_the_thread_that_works() -> None:
    worker = '  File "/x/kdtune/search/worker.py", line 38 in run_trial'
    loads = (
        'Thread 0x1 (most recent call first):\n  File "/lib/PIL/Image.py", line 9 in open\n'
        '  File "/x/kdtune/datasets/decode.py", line 80 in _load\n'
    )
    waits = f'Thread 0x2 (most recent call first):\n  File "/lib/threading.py", line 3 in wait\n{worker}\n'
    other = 'Current thread 0x3 (most recent call first):\n  File "/lib/ray/worker.py", line 1 in loop\n'
    assert place(f"{loads}\n{waits}\n{other}") == "kdtune/datasets/decode.py:80 _load"
    assert place(f"{other}\n{waits}") == "kdtune/search/worker.py:38 run_trial"
    assert place("") == ""


def test_what_counts_as_a_sign() -> None:
    """A step and a read do; before the first step work does; a process that is stopped gives none."""

    def seen(count: int, step: int = 5, cpu: float = 0.0, excused: bool = False, stopped: bool = False) -> Seen:
        return Seen("t", 1, Sign(count, step, math.nan, excused, ""), stopped, cpu)

    trial = _Trial(seen(1), Silence(0.0, 5.0))
    assert trial.silent(5.0, seen(2)) == 0
    assert trial.silent(10.0, seen(2)) == 5
    assert trial.silent(15.0, seen(2, cpu=4.0)) == 10
    assert trial.silent(20.0, seen(2, excused=True)) == 0
    assert trial.silent(25.0, seen(2, excused=True, stopped=True)) == 5
    first = _Trial(seen(1, step=0), Silence(0.0, 5.0))
    assert first.silent(5.0, seen(1, step=0, cpu=4.0)) == 0
    assert first.silent(10.0, seen(1, step=0, cpu=4.01)) == 5
