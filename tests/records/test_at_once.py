"""Many requests at once: in their order, so many and no more, and none after an error."""

import signal
import subprocess
import sys
import threading

import pytest

from kdtune.filesystem.folder import READERS
from kdtune.records import at_once as module
from kdtune.records.at_once import at_once


def test_in_their_order_and_as_many_as_allowed() -> None:
    together = threading.Barrier(READERS)  # none goes on before so many are there

    def work(i: int) -> int:
        together.wait(60)
        return i * i

    assert list(at_once(work, range(3 * READERS))) == [i * i for i in range(3 * READERS)]
    assert list(at_once(work, [])) == []


def test_after_an_error_none_is_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LAST", 0.1)
    begun: list[int] = []
    released = threading.Event()

    def work(i: int) -> int:
        begun.append(i)
        if i == 3:
            raise ValueError("of the fourth")
        if i > 3:
            released.wait(60)
        return i

    answers = at_once(work, range(1000))
    assert [next(answers) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="of the fourth"):
        next(answers)
    released.set()
    assert len(begun) <= 4 + READERS


def test_ctrl_c_ends_a_process_whose_storage_is_away() -> None:
    code = """
import time, kdtune.records.at_once as m
m.LAST = 0.1
def work(i):
    print(i, flush=True)
    time.sleep(600)
list(m.at_once(work, range(99)))
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        for _ in range(READERS):
            process.stdout.readline()
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert b"KeyboardInterrupt" in errors
    assert process.returncode == -signal.SIGINT
