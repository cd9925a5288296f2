"""A study of seconds that still trains networks, and the command line as a process: what the launch tests share."""

import contextlib
import fcntl
import json
import os
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa

from kdtune.api import results
from kdtune.records.storage import Storage
from tests.support import forked

STUDY = """
name: tiny
max_concurrent: 1
halving: {grace: 0.3, reduction_factor: 2}
base:
  dataset: {name: demo, size: [32, 48], num_train: 8, num_val: 4}
  student: {name: pspnet, backbone: resnet18, width: 0.0625}
  losses: {ce: {weight: 1.0}}
  recipe: {lr: 1e-2, weight_decay: 5e-4, crop: [32, 48], batch_size: 4, num_steps: 6, eval_every: 2}
stages:
  - name: teacher
    set: {student.width: 0.125, recipe.num_steps: 8}
  - name: student
    grid: &lr_wd
      recipe.lr: [1e-1, 1e-2]
      recipe.weight_decay: [5e-4, 5e-6]
  - name: distill
    set:
      teacher: {model: {name: pspnet, backbone: resnet18, width: 0.125}, checkpoint: "stage:teacher"}
      losses.pi: {weight: 0.5, temperature: 1.0}
    grid: *lr_wd
  - name: temperature
    start_from: [distill]
    grid: {losses.pi.temperature: [1, 4]}
    seeds: [1, 2]
  - name: weight-pi
    start_from: [temperature]
    grid: {losses.pi.weight: [1e-1, 2]}
  - name: final
    start_from: [student, weight-pi]
    seeds: [11, 12]
  - name: initialization
    start_from: [student, weight-pi]
    seeds: [21]
"""
AT_ONCE = STUDY.replace("max_concurrent: 1\n", "")  # two trials at once, each in a worker that has to start
STEPS = 90  # of the trials that only report
TRIALS = {"teacher": 1, "student": 4, "distill": 4, "temperature": 4, "weight-pi": 2, "final": 4, "initialization": 2}

# What two runs of the same study may differ in: when, where and how fast.
INCIDENTAL = {
    "train_seconds", "images_per_second", "peak_memory_mb", "teacher_steps_run", "teacher_steps_read",
    "energy_alone_kwh", "energy_kwh", "co2_kg", "node", "started_at",
    "finished_at", "seconds", "inference_kwh", "inference_co2_kg", "inference_images",
    "attempt",
}  # fmt: skip


def whole(storage: Path) -> None:
    """The tiny study, launched once as a user does, every trial run to its end; ``once`` shares it among all tests."""
    asked = {"KDTUNE_DASHBOARD": "1"}  # as without the variable
    done = kdtune("launch", write_study(storage), "--storage", storage, "--scheduler", "none", env=asked)
    assert done.returncode == 0, done.stderr
    (storage / "stdout").write_text(done.stdout)
    (storage / "stderr").write_text(done.stderr)


def write_study(folder: Path, text: str = STUDY) -> Path:
    """The study as a file."""
    path = folder / "tiny.yaml"
    path.write_text(text)
    return path


def command(*words: str | Path) -> list[str]:
    """``kdtune WORDS`` as this environment has it."""
    return [sys.executable, "-m", "kdtune", *map(str, words)]


PLAIN = {"KDTUNE_DASHBOARD": "0"}  # Ray starts sooner without, and nobody looks


def kdtune(*words: str | Path, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Runs a command to its end; with ``env`` in a new process, else in one that has imported what it needs."""
    environment = os.environ | PLAIN | (env or {})
    if env is None:
        return forked.run([*map(str, words)], environment, 300)
    return subprocess.run(command(*words), capture_output=True, text=True, timeout=300, env=environment, check=False)


def start(*words: str | Path, env: dict[str, str] | None = None) -> subprocess.Popen[str]:
    """Starts a command in a process group of its own, so that a test can end all that it started."""
    environment = os.environ | PLAIN | (env or {})
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command(*words), text=True, start_new_session=True, env=environment, **pipes)


def start_on_terminal(*words: str | Path, nohup: bool) -> tuple[subprocess.Popen[bytes], int]:
    """Starts a command on a terminal of its own; to close the file that comes back is to close its window."""
    window, terminal = os.openpty()

    def before() -> None:
        fcntl.ioctl(terminal, termios.TIOCSCTTY, 0)
        signal.signal(signal.SIGHUP, signal.SIG_IGN if nohup else signal.SIG_DFL)

    streams = {"stdin": terminal, "stdout": terminal, "stderr": terminal}
    environment = os.environ | PLAIN
    process = subprocess.Popen(
        command(*words),
        start_new_session=True,
        preexec_fn=before,
        env=environment,
        **streams,  # type: ignore[call-overload]
    )
    os.close(terminal)
    return process, window


def end(process: subprocess.Popen[str] | subprocess.Popen[bytes]) -> None:
    """Ends a command and all that it started, if there is anything left of them."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def as_text(row: dict[str, Any]) -> str:
    """A row as something that can be sorted."""
    return json.dumps(row, sort_keys=True, default=str)


def essence(storage: str | Path, table: str, study: str = "tiny") -> list[dict[str, Any]]:
    """A table without what may differ between two runs, in a fixed order."""
    found: pa.Table = results(study, str(storage)).table(table)
    kept = found.drop_columns([name for name in found.column_names if name in INCIDENTAL])
    return sorted(kept.to_pylist(), key=as_text)


def journals(storage: Path, study: str = "tiny") -> dict[str, dict[str, Any]]:
    """The journal of every trial, as it is on storage now."""
    return Storage(str(storage), study).records()


def until(condition: Callable[[], bool], seconds: float = 240, every: float = 0.05) -> None:
    """Waits for something that must happen."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(every)


def running(storage: Path) -> dict[str, int]:
    """The trials that a worker has begun and that have no end yet, each with its attempt."""
    found = journals(storage).items()
    return {name: entry["attempt"] for name, entry in found if entry["row"]["status"] == "running"}


def under_way(storage: Path) -> list[str]:
    """Of these, the ones that have a checkpoint."""
    found = journals(storage).items()
    return [name for name, entry in found if entry["row"]["status"] == "running" and entry["states"]]


def workers(driver: int, name: str = "ray::tiny/") -> list[psutil.Process]:
    """The processes below a launch that do something: that train trials of the tiny study, if nothing else is asked."""
    found = []
    for process in psutil.Process(driver).children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            found += [process] if name in " ".join(process.cmdline()) else []
    return found


def same_as(undisturbed: Path, storage: str | Path, *stages: str) -> None:
    """Whether the tables, or of these stages the rows, equal those of a run that nobody disturbed."""
    for table in ("trials", "history", "optimal", *(() if stages else ("final",))):
        found, wanted = (_of(stages, essence(where, table)) for where in (storage, undisturbed))
        assert found == wanted, table


def _of(stages: Sequence[str], rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows of these stages (none: all), without the columns that only other stages fill."""
    if not stages:
        return rows
    return [{name: value for name, value in row.items() if value is not None} for row in rows if row["stage"] in stages]


def slow_to_stop(config: dict[str, Any]) -> None:
    """Reports until it is stopped, then needs longer than Tune's own two seconds to end."""
    from ray import tune

    try:
        for step in (30, 60, 90):
            status = "running" if step < STEPS else "completed"
            tune.report({"trial": str(config["x"]), "step": step, "score": float(config["x"]), "status": status})
    finally:
        time.sleep(4)
