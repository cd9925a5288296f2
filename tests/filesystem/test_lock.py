"""The lock: one launch per study, whatever happened to the last one."""

import contextlib
import json
import multiprocessing
import os
import platform
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from kdtune.base import UserError
from kdtune.filesystem.folder import Folder
from kdtune.filesystem.lock import NAME, Holder, alive_here, locked, may_be_of, read_holder
from tests.support.machines import on_machine
from tests.support.s3 import Server, environment, proxied, use

FORK = multiprocessing.get_context("fork")


def holder(folder: Folder) -> Holder | None:
    """Who holds the study, or none; a dead process of this host holds nothing."""
    content = folder.read(NAME)
    found = read_holder(content) if content else None
    return None if found is None or alive_here(found) is False else found


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
    program = "import sys; from kdtune.filesystem.folder import Folder; from kdtune.filesystem.lock import locked\n"
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


# on an object store


HOLD = """
import sys
from kdtune.base import UserError
from kdtune.filesystem.folder import Folder
from kdtune.filesystem.lock import locked
print("ready", flush=True)
for line in sys.stdin:
    uri, beat, lease, seconds = line.split()
    try:
        with locked(Folder(uri), beat=float(beat), lease=float(lease)) as held:
            print("held", flush=True)
            lost = held.lost.wait(float(seconds))
        print("lost" if lost else "kept", flush=True)
    except UserError as error:
        print("refused", error, flush=True)
"""


class Launcher:
    """A process on another machine that takes the lock when it is told to, and tells what came of it."""

    def __init__(self, machine: str) -> None:
        argv = on_machine(machine, [sys.executable, "-c", HOLD])
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        env = os.environ | environment("127.0.0.1:9")  # the endpoint is in each URI
        self.process = subprocess.Popen(argv, text=True, env=env, **pipes)

    def tell(self, uri: str, beat: float, lease: float, seconds: float) -> None:
        """To hold the lock for some seconds, or until it has lost it."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{uri} {beat} {lease} {seconds}\n")
        self.process.stdin.flush()

    def hear(self) -> str:
        """The next thing that it says."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()


@pytest.fixture(scope="module")
def machines() -> Iterator[list[Launcher]]:
    """Three of them."""
    found = [Launcher(f"machine-{number}") for number in range(3)]
    assert [launcher.hear() for launcher in found] == ["ready"] * 3
    yield found
    for launcher in found:
        launcher.process.kill()
        launcher.process.communicate()


@pytest.mark.slow
@pytest.mark.parametrize("i", [0, *(pytest.param(i, marks=pytest.mark.soak) for i in range(1, 8))])
def test_one_of_several_launches_at_once_on_s3(
    server: Server, machines: list[Launcher], monkeypatch: pytest.MonkeyPatch, i: int
) -> None:
    """From several machines, all of which saw no lock before any wrote one; the others are told who has it."""
    use(monkeypatch, server.address)
    with proxied(server) as proxy:
        uri = f"s3://bucket/race-{i}?endpoint_override={proxy.address}&scheme=http"
        writes = proxy.fault(f"^PUT .*race-{i}/{NAME}", "hang", 1.5, alone=True)
        for launcher in machines:
            launcher.tell(uri, 0.5, 6, 8)
        said = [launcher.hear() for launcher in machines]
        (winner,) = [number for number, line in enumerate(said) if line == "held"]
        assert all(f"on machine-{winner} since" in line for number, line in enumerate(said) if number != winner)
        assert machines[winner].hear() == "kept"
        assert writes.began is not None
        assert Folder(f"s3://bucket/race-{i}").names() == []


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["hang", "refuse"])
def test_a_holder_whose_storage_was_away_notices_who_took_over(
    server: Server, machines: list[Launcher], monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """It was away for the holder alone; what it was about to write does not undo the takeover."""
    use(monkeypatch, server.address)
    with proxied(server) as proxy:
        plain = f"s3://bucket/taken-{kind}"
        machines[0].tell(f"{plain}?endpoint_override={proxy.address}&scheme=http", 0.3, 30, 120)
        assert machines[0].hear() == "held"
        fault = proxy.fault("", kind, 600)
        with locked(Folder(plain), lease=2, beat=0.5) as held:
            fault.seconds = 0
            assert machines[0].hear() == "lost"
            assert not held.lost.is_set()
            assert json.loads(Folder(plain).read(NAME) or b"")["token"] == held.token


@pytest.mark.slow
def test_storage_that_is_away_is_no_sign_of_death(
    server: Server, machines: list[Launcher], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who waits for a lease does not count the time in which it could not look: the holder could not write, either."""
    with proxied(server) as theirs, proxied(server) as ours:
        use(monkeypatch, server.address)
        machines[0].tell(f"s3://bucket/both?endpoint_override={theirs.address}&scheme=http", 2, 30, 40)
        assert machines[0].hear() == "held"
        folder = Folder(f"s3://bucket/both?endpoint_override={ours.address}&scheme=http")
        before = folder.read(NAME)
        while folder.read(NAME) == before:
            time.sleep(0.05)
        away = threading.Timer(0.7, lambda: (theirs.fault("", "refuse", 20), ours.fault("", "refuse", 14)))
        away.start()
        with pytest.raises(UserError, match="on machine-0 since"), locked(folder, lease=13, beat=1):
            pytest.fail("two launches hold one study")
        away.join()
        assert machines[0].hear() == "kept"


def test_a_full_disk_keeps_the_lock_as_it_was(tmp_path: Path) -> None:
    """No beat can be written, and the file still says whose it is; who ends frees it."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no right to mount a small file system here")
    try:
        with locked(Folder(str(disk)), beat=0.05) as held:
            with contextlib.suppress(OSError), (disk / "filler").open("wb", buffering=0) as filler:
                while True:
                    filler.write(b"x" * 512)
            content = (disk / NAME).read_bytes()
            time.sleep(0.5)
            assert (disk / NAME).read_bytes() == content
            assert json.loads(content)["token"] == held.token
            assert not held.lost.is_set()
            with pytest.raises(OSError, match="No space left"):
                Folder(str(disk)).write("trials.parquet", b"x")
            assert sorted(path.name for path in disk.iterdir()) == ["filler", NAME]
        assert [path.name for path in disk.iterdir()] == ["filler"]
    finally:
        subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.parametrize("content", [b"", b'{"host": "else', b"[]", b"{}"])
def test_a_damaged_lock_is_taken_over_unless_somebody_writes_it_anew(folder: Folder, content: bytes) -> None:
    folder.write(NAME, content)
    began = time.monotonic()
    with locked(folder, lease=0.5, beat=0.1) as held:
        assert time.monotonic() - began >= 0.5
        assert json.loads(folder.read(NAME) or b"")["token"] == held.token


def test_a_holder_mends_its_damaged_lock(folder: Folder) -> None:
    with locked(folder, lease=5, beat=0.1) as held:
        folder.write(NAME, b'{"host": "else')
        while b"token" not in (folder.read(NAME) or b""):
            time.sleep(0.01)
        assert json.loads(folder.read(NAME) or b"")["token"] == held.token
        assert not held.lost.is_set()


def test_whose_a_lock_may_be() -> None:
    """A worker ends when another launch has the study, not while its own lock is damaged."""
    assert may_be_of(elsewhere(), "theirs")
    assert not may_be_of(elsewhere(), "ours")
    assert may_be_of(elsewhere()[:20], "ours")
