"""Killed, interrupted, launched twice: the same command goes on, and the tables equal those of an undisturbed run."""

import os
import re
import shlex
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest

from tests.support.launching import (
    AT_ONCE,
    STUDY,
    end,
    journals,
    kdtune,
    running,
    same_as,
    start,
    start_on_terminal,
    under_way,
    until,
    workers,
    write_study,
)

pytestmark = pytest.mark.slow
LONGER = AT_ONCE.replace("num_steps: 6, eval_every: 2", "num_steps: 24, eval_every: 4")
STAGES = ("--stage", "student", "--stage", "final")
# two stages and no teacher: enough to be interrupted in, short enough to be so several times
SHORT = LONGER.replace(
    "start_from: [student, weight-pi]\n    seeds: [11, 12]", "start_from: [student]\n    seeds: [11, 12]"
)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the study gives when nobody disturbs it, one trial after the other."""
    storage = tmp_path_factory.mktemp("undisturbed")
    words = ("--scheduler", "none", *STAGES, "--max-concurrent", "1", "--threads", "1")
    done = kdtune("launch", write_study(storage, SHORT), "--storage", storage, *words)
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
        end(process)


def test_kill_of_a_worker_and_of_the_driver(undisturbed: Path, launch: Callable, tmp_path: Path) -> None:
    """A worker in the first stage, which costs nothing but its trial's last steps.

    The driver in the second one, while a trial of it is under way; what has finished does not run twice.
    """
    process = launch()
    until(lambda: bool(under_way(tmp_path)))
    victims = workers(process.pid)
    assert victims
    titles = ["".join(victim.cmdline()) for victim in victims]  # what Ray's dashboard shows of them, too
    assert all(re.fullmatch(r"ray::tiny/student lr=(0\.1|1e-2) wd=5e-[46] s0", title) for title in titles), titles
    victims[0].kill()
    until(lambda: any(name.startswith("final-") for name in under_way(tmp_path)))
    assert process.poll() is None
    student = [entry["row"]["status"] for name, entry in journals(tmp_path).items() if name.startswith("student-")]
    assert student == ["completed"] * 4  # the worker's trial went on in another one
    process.kill()
    process.wait()
    hit = running(tmp_path)
    finished_at = {n: e["row"]["finished_at"] for n, e in journals(tmp_path).items() if e["row"]["finished_at"]}
    assert len(finished_at) >= 4
    process = launch()
    _, errors = process.communicate(timeout=240)
    assert process.returncode == 0, errors
    same_as(undisturbed, tmp_path)
    now = journals(tmp_path)
    assert all(now[name]["attempt"] > attempt for name, attempt in hit.items())  # each was gone on with
    assert all(now[name]["row"]["finished_at"] == at for name, at in finished_at.items())


def test_what_again_names_runs_anew_once(tmp_path: Path) -> None:
    """Interrupted and continued as the launch says: what has run anew stands, what has begun anew goes on."""
    words = ("--storage", tmp_path, "--stage", "student", "--scheduler", "none", "--max-concurrent", "1")
    study = write_study(tmp_path, SHORT)
    assert kdtune("launch", study, *words).returncode == 0
    before = {name: entry["attempt"] for name, entry in journals(tmp_path).items()}

    def anew() -> dict[str, float]:
        found = {name: entry for name, entry in journals(tmp_path).items() if entry["attempt"] > before[name]}
        return {name: e["row"]["finished_at"] for name, e in found.items() if e["row"]["status"] == "completed"}

    process = start("launch", study, *words, "--again", "student-*")
    try:
        until(lambda: bool(anew()))
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=240)
    finally:
        end(process)
    stood = anew()
    assert 1 <= len(stood) < len(before)
    told = errors.splitlines()[-1].partition("; continue with: ")[2]
    again = kdtune(*shlex.split(told)[1:])
    assert again.returncode == 0, again.stderr
    assert "of the trials that --again names have begun anew before" in again.stderr
    now = anew()
    assert now.keys() == before.keys()
    assert {name: now[name] for name in stood} == stood


def test_trials_that_are_judged_together(tmp_path: Path) -> None:
    """Three slots or one, a worker and the driver killed on the way: the same trials go on, to the same values."""
    words = ("--stage", "student", "--scheduler", "halving", "--threads", "1", "--storage")
    args = ("launch", write_study(tmp_path, SHORT), *words)
    done = kdtune(*args, tmp_path / "undisturbed", "--max-concurrent", "1")
    assert done.returncode == 0, done.stderr
    rungs = [line for line in done.stderr.splitlines() if " go on" in line]
    assert [line.split(" with ")[0] for line in rungs] == [
        "student: 4 trials are at step 6: the 2",
        "student: 2 trials are at step 12: the 1",
    ]
    process = start(*args, tmp_path, "--max-concurrent", "3")
    try:
        until(lambda: bool(under_way(tmp_path)))
        workers(process.pid)[0].kill()
        until(lambda: any(entry["row"]["status"] == "stopped" for entry in journals(tmp_path).values()))
        process.kill()
    finally:
        end(process)
    done = kdtune(*args, tmp_path)
    assert done.returncode == 0, done.stderr
    same_as(tmp_path / "undisturbed", tmp_path)
    ends = sorted((entry["row"]["step"], entry["row"]["status"]) for entry in journals(tmp_path).values())
    assert ends == [(6, "stopped"), (6, "stopped"), (12, "stopped"), (24, "completed")]
    cuts = pq.read_table(tmp_path / "tiny" / "history.parquet").to_pylist()
    assert sorted(row["step"] for row in cuts if row["rung_cut"] is not None) == [
        6,
        6,
        6,
        6,
        12,
        12,
    ]  # 6: not one of the recipe's
    done = kdtune(*args, tmp_path)
    assert "nothing left to run" in done.stderr
    assert "Ray" not in done.stderr


def test_kill_inside_a_checkpoint_write(tmp_path: Path) -> None:
    """Every process of the launch at once, with half a state on the disk."""
    wide = ("--stage", "student", "--threads", "1", "--set", "student.width=1.0", "--set", "recipe.eval_every=1")
    text = STUDY.replace("[1e-1, 1e-2]", "[1e-1]").replace("[5e-4, 5e-6]", "[5e-4]")
    args = ("launch", write_study(tmp_path, text), "--scheduler", "none", *wide, "--storage")
    done = kdtune(*args, tmp_path / "undisturbed")
    assert done.returncode == 0, done.stderr

    def half_written() -> list[Path]:
        return list(tmp_path.glob("tiny/checkpoints/*/state-*.partial"))

    hit = False
    for _ in range(5):  # a write may end just before the blow
        before = half_written()
        process = start(*args, tmp_path)
        try:
            until(lambda run=process: bool(under_way(tmp_path)) or run.poll() is not None)
            until(lambda old=before, run=process: half_written() != old or run.poll() is not None, every=0.001)
            os.killpg(process.pid, signal.SIGKILL)
        finally:
            end(process)
        hit = half_written() != before
        if hit or not running(tmp_path):
            break
    assert hit
    done = kdtune(*args, tmp_path)
    assert done.returncode == 0, done.stderr
    assert half_written() == []
    same_as(tmp_path / "undisturbed", tmp_path)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_interrupted_once(launch: Callable, tmp_path: Path, number: signal.Signals) -> None:
    process = launch()
    until(lambda: bool(under_way(tmp_path)))
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "continue with: kdtune launch" in errors.splitlines()[-1]
    assert not (tmp_path / "tiny" / "lock.json").exists()
    assert running(tmp_path)  # to go on from


def test_a_terminal_that_goes_away(undisturbed: Path, tmp_path: Path) -> None:
    """It ends the launch in order; a launch by ``nohup`` goes on to its end, though it cannot print any more."""
    words = ("launch", write_study(tmp_path, SHORT), "--storage", tmp_path, "--scheduler", "none", *STAGES[:2])
    for nohup in (False, True):
        before = under_way(tmp_path)
        process, window = start_on_terminal(*words, nohup=nohup)
        try:
            until(lambda old=before: bool(set(under_way(tmp_path)) - {*old}))
            os.close(window)
            assert process.wait(timeout=240) == (0 if nohup else 130)
        finally:
            end(process)
        said = (tmp_path / "tiny" / "launch.log").read_text().splitlines()[-1]
        outcome = "finished" if nohup else "its terminal is gone (SIGHUP); nothing finished is lost"
        assert said.endswith(f"ended: {outcome}")
    same_as(undisturbed, tmp_path, "student")


def test_a_second_launch_is_refused_and_a_second_interrupt_ends_the_first_at_once(
    launch: Callable, tmp_path: Path
) -> None:
    process = launch()
    until(lambda: (tmp_path / "tiny" / "lock.json").exists())
    second = launch()
    _, errors = second.communicate(timeout=60)
    assert second.returncode == 2
    (line,) = errors.splitlines()
    assert f"process {process.pid} on " in line
    until(lambda: bool(under_way(tmp_path)))
    assert process.poll() is None
    below = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGINT)
    time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    began = time.monotonic()
    process.wait(timeout=30)
    assert time.monotonic() - began < 3
    assert process.returncode == 130
    psutil.wait_procs(below, timeout=120)  # Ray's agents look for their raylet now and then
    assert not [each for each in below if each.is_running() and each.status() != psutil.STATUS_ZOMBIE]
    assert running(tmp_path)
