"""Killed, interrupted, launched twice: the same command goes on, and the tables equal those of an undisturbed run."""

import os
import random
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from tests.launching import STUDY, essence, journals, kdtune, start, write_study

pytestmark = pytest.mark.slow
TABLES = ("trials", "history", "optimal", "final")
LONGER = STUDY.replace("num_steps: 6, eval_every: 2", "num_steps: 24, eval_every: 4")
STAGES = ("--stage", "student", "--stage", "final")
# two stages and no teacher: enough to be interrupted in, short enough to be so several times
SHORT = LONGER.replace(
    "start_from: [student, weight-pi]\n    seeds: [11, 12]", "start_from: [student]\n    seeds: [11, 12]"
)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the study gives when nobody disturbs it."""
    storage = tmp_path_factory.mktemp("undisturbed")
    done = kdtune("launch", write_study(storage, SHORT), "--storage", storage, "--scheduler", "none", *STAGES)
    assert done.returncode == 0, done.stderr
    return storage


@pytest.fixture
def launch(tmp_path: Path) -> Iterator[Callable[[], subprocess.Popen[str]]]:
    """Starts the study; whatever is left of its processes is ended with the test."""
    study = write_study(tmp_path, SHORT)
    started: list[subprocess.Popen[str]] = []

    def begin() -> subprocess.Popen[str]:
        started.append(start("launch", study, "--storage", tmp_path, "--scheduler", "none", *STAGES))
        return started[-1]

    yield begin
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def until(condition: Callable[[], bool], seconds: float = 90) -> None:
    """Waits for something that must happen."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def running(storage: Path) -> list[str]:
    """The trials that have a checkpoint and no end yet."""
    return [name for name, entry in journals(storage).items() if entry["row"]["status"] == "running"]


def workers(driver: int) -> list[psutil.Process]:
    """The processes that train, below a launch."""
    below = psutil.Process(driver).children(recursive=True)
    return [process for process in below if "ImplicitFunc" in " ".join(process.cmdline())]


def same_as(undisturbed: Path, storage: Path) -> None:
    for table in TABLES:
        assert essence(storage, table) == essence(undisturbed, table), table


def test_kill_of_the_driver(undisturbed: Path, launch: Callable, tmp_path: Path) -> None:
    """Three times, at random moments at which a trial is under way."""
    dice = random.Random(0)
    hit = []
    for _ in range(3):
        process = launch()
        known = {name: entry["row"]["step"] for name, entry in journals(tmp_path).items()}
        until(lambda known=known: any(journals(tmp_path)[n]["row"]["step"] != known.get(n) for n in running(tmp_path)))
        time.sleep(dice.random())
        hit.append(running(tmp_path))
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    assert any(hit), "no kill met a live trial"
    finished_at = {n: e["row"]["finished_at"] for n, e in journals(tmp_path).items() if e["row"]["finished_at"]}
    process = launch()
    _, errors = process.communicate(timeout=240)
    assert process.returncode == 0, errors
    same_as(undisturbed, tmp_path)
    now = journals(tmp_path)
    assert all(now[name]["row"]["finished_at"] == at for name, at in finished_at.items())  # not run again


def test_kill_of_a_worker(undisturbed: Path, launch: Callable, tmp_path: Path) -> None:
    process = launch()
    until(lambda: bool(running(tmp_path)))
    victims = workers(process.pid)
    assert victims
    victims[0].kill()
    _, errors = process.communicate(timeout=240)
    assert process.returncode == 0, errors
    same_as(undisturbed, tmp_path)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_interrupted_once(undisturbed: Path, launch: Callable, tmp_path: Path, number: signal.Signals) -> None:
    process = launch()
    until(lambda: bool(running(tmp_path)))
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "continue with: kdtune launch" in errors.splitlines()[-1]
    assert not (tmp_path / "tiny" / "lock.json").exists()
    assert running(tmp_path)  # to go on from
    if number == signal.SIGINT:  # what is left behind is the same after both
        process = launch()
        _, errors = process.communicate(timeout=240)
        assert process.returncode == 0, errors
        same_as(undisturbed, tmp_path)


def test_two_launches_at_once(launch: Callable, tmp_path: Path) -> None:
    first = launch()
    until(lambda: (tmp_path / "tiny" / "lock.json").exists())
    second = launch()
    _, errors = second.communicate(timeout=60)
    assert second.returncode == 2
    (line,) = errors.splitlines()
    assert f"process {first.pid} on " in line
    assert first.poll() is None
