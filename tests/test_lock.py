"""The lock: one launch per study, whatever happened to the last one."""

import json
import multiprocessing
import os
import platform
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from kdtune.base import UserError
from kdtune.files import Folder
from kdtune.lock import NAME, holder, locked

FORK = multiprocessing.get_context("fork")


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(str(tmp_path / "study"))


def hold(folder: Folder, ready: threading.Event) -> None:
    with locked(folder):
        ready.set()
        time.sleep(60)


@pytest.fixture
def other(folder: Folder) -> Iterator[multiprocessing.process.BaseProcess]:
    """A process that holds the lock."""
    ready = FORK.Event()
    process = FORK.Process(target=hold, args=(folder, ready), daemon=True)
    process.start()
    assert ready.wait(30)
    yield process
    process.kill()
    process.join()


def elsewhere(beat: int = 0) -> bytes:
    """The lock of a launch on another host."""
    holder = {"host": "elsewhere", "pid": 1, "created": 1.0, "token": "theirs", "since": "2026-01-02T03:04:05+00:00"}
    return json.dumps(holder | {"beat": beat}).encode()


def test_held_and_released(folder: Folder) -> None:
    with locked(folder) as held:
        content = json.loads(folder.read(NAME) or b"")
        assert (content["pid"], content["host"], content["token"]) == (os.getpid(), platform.node(), held.token)
        assert holder(folder) == content
    assert folder.names() == []
    assert holder(folder) is None
    with locked(folder):
        pass


def test_released_when_the_block_fails(folder: Folder) -> None:
    with pytest.raises(KeyError), locked(folder):
        raise KeyError
    assert folder.names() == []


def test_a_second_launch_is_refused_and_told_who_holds_it(
    folder: Folder, other: multiprocessing.process.BaseProcess
) -> None:
    since = json.loads(folder.read(NAME) or b"")["since"]
    began = time.monotonic()
    with pytest.raises(UserError) as caught, locked(folder):
        pytest.fail("two launches hold one study")
    assert time.monotonic() - began < 2
    assert str(caught.value) == (
        f"{folder.uri}: this study is being launched by process {other.pid} on {platform.node()} since {since}; "
        "wait for it, or stop it first"
    )
    assert holder(folder) is not None


@pytest.mark.parametrize("reaped", [True, False], ids=["reaped", "zombie"])
def test_a_dead_process_of_this_host_is_taken_over_at_once(
    folder: Folder, other: multiprocessing.process.BaseProcess, reaped: bool
) -> None:
    assert other.pid is not None
    os.kill(other.pid, signal.SIGKILL)
    if reaped:
        other.join()
    else:
        os.waitid(os.P_PID, other.pid, os.WEXITED | os.WNOWAIT)  # dead, and still in the list of processes
    assert holder(folder) is None
    began = time.monotonic()
    with locked(folder) as held:
        assert time.monotonic() - began < 2
        assert json.loads(folder.read(NAME) or b"")["token"] == held.token


def test_a_process_id_that_was_given_out_again_holds_nothing(folder: Folder) -> None:
    with locked(folder):
        content = json.loads(folder.read(NAME) or b"")
    folder.write(NAME, json.dumps(content | {"created": content["created"] - 60}).encode())
    began = time.monotonic()
    with locked(folder):
        assert time.monotonic() - began < 2


def test_a_machine_of_the_same_name_is_another_machine(folder: Folder) -> None:
    """As containers may have: the process id says nothing of a launch there, only its beats do."""
    with locked(folder):
        content = json.loads(folder.read(NAME) or b"")
    folder.write(NAME, json.dumps(content | {"machine": "another/1", "pid": 2**22 + 1}).encode())
    began = time.monotonic()
    with locked(folder, lease=0.6, beat=0.2):
        assert time.monotonic() - began >= 0.6


def test_another_hosts_lock_that_beats_is_refused(folder: Folder) -> None:
    folder.write(NAME, elsewhere())
    done = threading.Event()

    def beat() -> None:
        count = 0
        while not done.wait(0.2):
            count += 1
            folder.write(NAME, elsewhere(count))

    beater = threading.Thread(target=beat)
    beater.start()
    try:
        with pytest.raises(UserError, match="by process 1 on elsewhere since 2026-01-02"), locked(folder, lease=5):
            pytest.fail("two launches hold one study")
    finally:
        done.set()
        beater.join()
    assert json.loads(folder.read(NAME) or b"")["token"] == "theirs"


def test_another_hosts_silent_lock_is_taken_over_after_its_lease(folder: Folder) -> None:
    folder.write(NAME, elsewhere())
    assert holder(folder) is not None  # not known to be dead yet
    began = time.monotonic()
    with locked(folder, lease=0.6, beat=0.2) as held:
        assert 0.6 <= time.monotonic() - began < 5
        assert json.loads(folder.read(NAME) or b"")["token"] == held.token


def test_another_hosts_lock_that_goes_is_free(folder: Folder) -> None:
    folder.write(NAME, elsewhere())
    timer = threading.Timer(0.4, folder.remove, args=(NAME,))
    timer.start()
    began = time.monotonic()
    with locked(folder, lease=20, beat=0.5):
        assert time.monotonic() - began < 10
    timer.join()


def test_the_holder_shows_that_it_lives(folder: Folder) -> None:
    with locked(folder, beat=0.05):
        first = json.loads(folder.read(NAME) or b"")
        end = time.monotonic() + 10
        while json.loads(folder.read(NAME) or b"")["beat"] < first["beat"] + 3:
            assert time.monotonic() < end, "no beat"
            time.sleep(0.02)


def test_a_holder_that_lost_its_lock_notices_and_leaves_it_alone(folder: Folder) -> None:
    with locked(folder, beat=0.05) as held:
        assert not held.lost.is_set()
        folder.write(NAME, elsewhere())
        assert held.lost.wait(10)
    assert folder.read(NAME) == elsewhere()


def test_a_lock_lost_between_two_beats_is_left_alone_too(folder: Folder) -> None:
    with locked(folder, beat=60):
        folder.write(NAME, elsewhere())
    assert folder.read(NAME) == elsewhere()


def test_a_stopped_launch_is_taken_over_by_a_new_process(folder: Folder) -> None:
    program = "import sys; from kdtune.files import Folder; from kdtune.lock import locked\n"
    program += "with locked(Folder(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
    process = subprocess.Popen(
        [sys.executable, "-c", program, folder.uri], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    with pytest.raises(UserError, match=f"by process {process.pid} on"), locked(folder):
        pytest.fail("two launches hold one study")
    process.kill()
    process.wait()
    with locked(folder):
        pass
    process.communicate()
