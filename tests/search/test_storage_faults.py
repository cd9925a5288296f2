"""Storage that fails, hangs, is shared by two machines or lies on S3: a study ends as if nothing had happened."""

import base64
import contextlib
import os
import shutil
import signal
import stat
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pyarrow import fs

from kdtune.filesystem.folder import Folder
from kdtune.filesystem.lock import LEASE
from kdtune.filesystem.lock import NAME as LOCK
from kdtune.records.storage import Storage
from tests.support.launching import PLAIN, STUDY, command, kdtune, same_as, whole, workers, write_study
from tests.support.machines import on_machine
from tests.support.s3 import SECRET, Server, proxied, use

pytestmark = pytest.mark.slow
TABLES = ("trials", "history", "optimal")
ONE_STAGE = ("--scheduler", "none", "--stage", "student")
AWAY = 30  # seconds


@pytest.fixture
def undisturbed(once: Callable[..., Path]) -> Path:
    """What the study gives when nobody disturbs it."""
    return once("whole", whole)


@pytest.fixture
def begin() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts a command; whatever is left of its processes is ended with the test."""
    started: list[subprocess.Popen[str]] = []

    def start(*words: str | Path, on: tuple[str, str] | None = None) -> subprocess.Popen[str]:
        argv = on_machine(on[0], command(*words), on[1]) if on else command(*words)
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        environment = os.environ | PLAIN
        started.append(subprocess.Popen(argv, text=True, start_new_session=True, env=environment, **pipes))
        return started[-1]

    yield start
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def until_it_trains(process: subprocess.Popen[str], storage: Storage) -> None:
    """Waits for a trial that has a checkpoint and no end yet."""
    end = time.monotonic() + 300
    while not any(record["row"]["status"] == "running" for record in storage.records().values()):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end, "no trial began"
        time.sleep(0.05)


def own_line(stderr: str) -> str:
    """The one that says how it ended."""
    (line,) = [line for line in stderr.splitlines() if line.startswith("kdtune: ")]
    return line


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """Where everything goes that a launch writes outside its storage."""
    home = Path(tempfile.mkdtemp(prefix="kd-", dir="/tmp"))  # Ray's sockets need a short path
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("RAY_TMPDIR", str(home))
    yield home
    shutil.rmtree(home, ignore_errors=True)


def mentions(content: bytes) -> bool:
    """Whether it holds the secret, as it is or as the ways of writing bytes down have it."""
    raw = SECRET.encode()
    shifted = [base64.b64encode(b"x" * n + raw)[(4 if n else 0) : -4] for n in range(3)]
    return any(form in content for form in (raw, raw.hex().encode(), raw.hex().upper().encode(), *shifted))


@contextlib.contextmanager
def watched(home: Path, process: subprocess.Popen[str]) -> Iterator[dict[Path, bool]]:
    """The files that lie there while the process runs and after it, each with whether it ever told the secret."""
    written: dict[Path, bool] = {}
    read: dict[Path, tuple[int, int]] = {}  # size and time of change, as each was when it was read

    def look() -> None:
        for path in home.rglob("*"):
            with contextlib.suppress(OSError):  # it has gone, or is a socket
                found = path.lstat()
                state = found.st_size, found.st_mtime_ns
                if stat.S_ISREG(found.st_mode) and read.get(path) != state:
                    written[path] = written.get(path, False) or mentions(path.read_bytes())
                    read[path] = state

    def watch() -> None:
        while process.poll() is None:
            look()
            time.sleep(0.5)

    thread = threading.Thread(target=watch)
    thread.start()
    yield written
    thread.join()
    read.clear()
    look()


def test_the_search_for_the_secret_finds_it() -> None:
    raw = SECRET.encode()
    held = [b"a" + raw + b"b", raw.hex().encode(), *(base64.b64encode(b"a" * n + raw + b"b") for n in range(4))]
    assert all(map(mentions, held))
    assert not mentions(b"AWS_SECRET_ACCESS_KEY")


def test_s3_hangs_at_a_checkpoint_and_fails_at_a_table(
    server: Server, undisturbed: Path, begin: Callable, home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """For 30 s each, from the very request on. And nothing that is written anywhere tells the credentials."""
    uri = "s3://bucket/faults"
    with proxied(server) as proxy:
        use(monkeypatch, proxy.address)
        hang = proxy.fault(r"^(PUT|POST) /bucket/faults/tiny/checkpoints/.*state-", "hang", AWAY)
        refusal = proxy.fault(r"^(PUT|POST) /bucket/faults/tiny/trials\.parquet", "refuse", AWAY)
        process = begin("launch", write_study(tmp_path), "--storage", uri, *ONE_STAGE)
        with watched(home, process) as written:
            stdout, stderr = process.communicate(timeout=400)
        assert "student: 4 completed" in stderr, stderr
        for fault in (hang, refusal):
            assert fault.began is not None
        print(f"{len(proxy.requests)} requests")
        same_as(undisturbed, uri, "student")
    assert stderr.count("storage is away, trying again: s3://bucket/faults") >= 1
    assert stderr.count("storage is away") == stderr.count("storage is back after") <= 2
    use(monkeypatch, server.address)
    system, _ = fs.FileSystem.from_uri(uri)
    objects = [
        info.path for info in system.get_file_info(fs.FileSelector("bucket/faults", recursive=True)) if info.is_file
    ]
    names = {path.partition("/faults/tiny/")[2].partition("/")[0] for path in objects}
    assert names >= {"study.yaml", "plan.json", "journal", "checkpoints", *(f"{name}.parquet" for name in TABLES)}
    assert LOCK not in names
    assert any(path.name.endswith((".out", ".err", ".log")) for path in written), "Ray's logs are not looked at"
    assert [path for path in objects if mentions(system.open_input_file(path).read())] == []
    assert [path for path, tells in written.items() if tells] == []
    assert not mentions((stdout + stderr).encode())


def test_kill_of_the_driver_on_s3(
    server: Server, undisturbed: Path, begin: Callable, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """With the address and its options in the URI; the tables are read from there."""
    use(monkeypatch, "127.0.0.1:9")  # an endpoint that must not be asked
    uri = f"s3://bucket/killed?endpoint_override={server.address}&scheme=http&region=us-east-1"
    words = ("launch", write_study(tmp_path), "--storage", uri, *ONE_STAGE)
    process = begin(*words)
    storage = Storage(uri, "tiny")
    until_it_trains(process, storage)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    finished = {name: r["row"]["finished_at"] for name, r in storage.records().items() if r["row"]["finished_at"]}
    assert len(finished) < 4
    assert LOCK in storage.folder.names()
    done = kdtune(*words)
    assert done.returncode == 0, done.stderr
    same_as(undisturbed, uri, "student")
    now = storage.records()
    assert all(now[name]["row"]["finished_at"] == at for name, at in finished.items())
    assert LOCK not in storage.folder.names()


def test_two_machines_whose_clocks_are_hours_apart(undisturbed: Path, begin: Callable, tmp_path: Path) -> None:
    """While the first lives, one an hour ahead is refused; when it is dead, one an hour behind takes over."""
    words = ("launch", write_study(tmp_path), "--storage", tmp_path, *ONE_STAGE)
    first = begin(*words, on=("first-machine", ""))
    storage = Storage(str(tmp_path), "tiny")
    until_it_trains(first, storage)
    training = workers(first.pid)
    assert training
    try:
        for worker in training:
            worker.suspend()  # the launch lives, and is not done before the second has looked
        second = begin(*words, on=("second-machine", "+1h"))
        _, stderr = second.communicate(timeout=120)
        assert second.returncode == 2, stderr
        assert f"this study is being launched by process {first.pid} on first-machine" in own_line(stderr)
        assert first.poll() is None
    finally:
        os.kill(first.pid, signal.SIGKILL)
        for worker in training:
            worker.resume()
    first.wait()
    finished = {name: r["row"]["finished_at"] for name, r in storage.records().items() if r["row"]["finished_at"]}
    assert len(finished) < 4
    began = time.monotonic()
    third = begin(*words, on=("second-machine", "-1h"))
    _, stderr = third.communicate(timeout=300)
    assert third.returncode == 0, stderr
    assert time.monotonic() - began > LEASE
    same_as(undisturbed, tmp_path, "student")
    rows = {name: record["row"] for name, record in storage.records().items()}
    assert all(rows[name]["finished_at"] == at for name, at in finished.items())
    others = [row for name, row in rows.items() if name not in finished]
    assert {row["node"] for row in others} == {"second-machine"}
    assert all(abs(time.time() - 3600 - row["finished_at"]) < 600 for row in others)  # the clock was off indeed


def test_a_launch_that_lost_its_study_ends(begin: Callable, tmp_path: Path) -> None:
    """Another machine has taken the lock over while this one could not show that it lives."""
    study = STUDY.replace("num_steps: 6, eval_every: 2", "num_steps: 2000, eval_every: 5")
    process = begin("launch", write_study(tmp_path, study), "--storage", tmp_path, *ONE_STAGE, "--threads", "1")
    storage = Storage(str(tmp_path), "tiny")
    until_it_trains(process, storage)
    theirs = b'{"host": "elsewhere", "pid": 1, "created": 1.0, "token": "theirs", "since": "2026-01-02T03:04:05+00:00"}'
    storage.folder.write(LOCK, theirs)
    _, stderr = process.communicate(timeout=240)
    assert process.returncode == 1, stderr
    assert "Traceback" not in stderr
    assert "another launch has taken this study over; continue with: kdtune launch" in own_line(stderr)
    assert Folder(str(tmp_path / "tiny")).read(LOCK) == theirs
    # what the other one may be running meanwhile was not ended in its name
    assert {record["row"]["status"] for record in storage.records().values()} == {"running"}
