"""``kdtune bench growth``: what a study of many trials costs, its readers and its launch, on a folder and on S3."""

import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ParamSpec, TypeVar
from unittest import mock

import psutil

from kdtune.base import RunError
from kdtune.bench.counted_store import BUCKET, KINDS, Store, counted_store
from kdtune.bench.figures import told
from kdtune.bench.orchestration import no_training
from kdtune.bench.synthetic_study import EVALUATIONS, STAGE, ended, fill, planned, synthetic_study, untrained
from kdtune.records.journal import follow
from kdtune.records.live_tables import TableWriter
from kdtune.records.rows import Row
from kdtune.records.storage import Storage
from kdtune.study.file import dump
from kdtune.training.site import Site

COMMANDS = ("launch", "launch --dry-run", "status", "results", "report")
TRIAL_SECONDS = 10.0  # from one trial's end to the next, of the launch whose tables are measured

COLUMNS = ("place", "trials", "what", "cpu_s", "cpu_more", "mib", "mib_more", "files", *KINDS, "kib")

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True)
class _Place:
    """Where studies lie."""

    name: str
    root: str
    store: Store | None = None  # the server behind it; none: a folder

    def counts(self) -> Counter[str]:
        """Requests since this was last asked, with the bytes that they brought."""
        return self.store.counts() if self.store else Counter()

    def row(self, trials: int | None, what: str, given: Row, per: int = 1) -> Row:
        """A line of the table, with the requests until now; these and their bytes are divided by ``per``."""
        counts = self.counts()
        row: Row = dict.fromkeys(COLUMNS) | {"place": self.name, "trials": trials, "what": what}
        if self.store:
            row |= {kind: counts[kind] / per for kind in KINDS} | {"kib": counts["bytes"] / 1024 / per}
        return row | given


def growth(counts: Sequence[int], places: Sequence[str], output: str | None) -> str:
    """What commands take on finished studies of so many trials, and a launch that has as many to write tables of.

    A line is a command in a process of its own: processor seconds, peak of memory, both also as what is ``more`` than
    on a study of one trial, which imports the same; files opened (of a folder) or requests by kind (of S3), and KiB
    written, of ``report`` those of its page. Then, per trial: the tables of a study that runs from its first trial to
    its last. At last, on S3, an evaluation of a running trial; its state is not among what is written.

    Raises:
        UserError: S3 is asked for, and moto is not installed.
        RunError: a command failed.
    """
    measured: list[Row] = []
    for name in places:
        with _place(name) as place:
            alone = _commands(place, 1, {})
            measured += alone
            for trials in counts:
                measured += _commands(place, trials, {row["what"]: row for row in alone})
                measured.append(_in_process(_tables, place, trials))
            measured += [_in_process(_running_trial, place)] if place.store else []
    return told(f"studies of {EVALUATIONS} evaluations a trial", measured, output)


@contextmanager
def _place(name: str) -> Iterator[_Place]:
    if name == "s3":
        with counted_store() as store:
            yield _Place(name, f"s3://{BUCKET}/runs", store)
    else:
        with tempfile.TemporaryDirectory() as folder:
            yield _Place(name, folder)


def _in_process(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """The result of work in a process of its own, whose memory and connections go with it."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
        return process.submit(work, *args, **kwargs).result()


def _commands(place: _Place, trials: int, alone: Mapping[str, Row]) -> list[Row]:
    """Every command on a study of that size; ``alone``: the same on that of one trial."""
    _in_process(_fill, place.root, trials)
    rows = [_command(place, trials, command) for command in COMMANDS]
    for row in rows:
        one = alone.get(row["what"], row)
        row |= {"cpu_more": row["cpu_s"] - one["cpu_s"], "mib_more": row["mib"] - one["mib"]}
    return rows


def _fill(root: str, trials: int) -> None:
    study = synthetic_study(trials)
    fill(Storage(root, study.name), study)


def _command(place: _Place, trials: int, command: str) -> Row:
    """A command on the finished study.

    Raises:
        RunError: it failed.
    """
    study = synthetic_study(trials)
    with tempfile.TemporaryDirectory() as folder:
        file, seen, page = Path(folder, "study.yaml"), Path(folder, "seen.json"), Path(folder, "report.html")
        file.write_text(dump(study))
        words = [*command.split(), "--storage", place.root]
        words += [str(file)] if command.startswith("launch") else [study.name]
        words += ["-o", str(page)] if command == "report" else []
        place.counts()
        probe = [sys.executable, "-m", "kdtune.bench.probe", str(seen), f"{place.root}/{study.name}/"]
        process = subprocess.Popen([*probe, *words], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        errors = process.stderr.read() if process.stderr else ""
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode or (command == "launch" and "nothing left to run" not in errors):
            raise RunError(f"{command} of {trials} trials ended with status {process.returncode}: {errors}")
        given: Row = json.loads(seen.read_text())
        if place.store:
            given.pop("files")
        if page.exists():
            given["kib"] = page.stat().st_size / 1024
        return place.row(trials, command, given | {"cpu_s": used.ru_utime + used.ru_stime})


def _tables(place: _Place, trials: int) -> Row:
    """What the tables of a running study take, in mean over its trials, of which one ends every ``TRIAL_SECONDS``."""
    study = synthetic_study(trials, f"running-{trials}")
    todo, writer = planned(study), TableWriter(Storage(place.root, study.name), study)
    plan = {STAGE: [trial.trial_id for trial in todo]}
    place.counts()
    clock, ahead, seconds = time.monotonic, 0.0, 0.0

    def now() -> float:
        return clock() + ahead

    written = psutil.Process().io_counters().write_chars
    with mock.patch("time.monotonic", now):  # the trials' time goes by, but nobody waits for it
        for i, trial in enumerate(todo):
            record = ended(trial, i)
            ahead += TRIAL_SECONDS
            began = time.process_time()
            writer.add(record)
            if writer.due() or i == len(todo) - 1:
                writer.write(plan)
            seconds += time.process_time() - began
    written = psutil.Process().io_counters().write_chars - written
    given: Row = {} if place.store else {"kib": written / trials / 1024}
    return place.row(trials, "tables, of a trial", given | {"cpu_s": seconds / trials}, trials)


def _running_trial(place: _Place) -> Row:
    """An evaluation of a trial that runs through its journal, in mean over all that it has, its begin and end too."""
    trial = untrained()
    place.counts()
    evaluations = len(list(follow(trial, Site(), Storage(place.root, trial.study), trainer=no_training)))
    return place.row(None, "an evaluation", {}, evaluations)
