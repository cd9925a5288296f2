"""What orchestration costs is measured on trials that go the whole way; their tables are those of one go."""

import itertools
import os
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kdtune.bench import orchestration
from kdtune.bench.figures import told
from kdtune.bench.orchestration import WINDOW
from kdtune.records import rows
from kdtune.records.storage import Storage
from tests.support.launching import kdtune

TRIALS, EVALUATIONS = 60, 5


@pytest.mark.slow
def test_empty_trials_go_the_whole_way(tmp_path: Path) -> None:
    output = tmp_path / "figures.parquet"
    asked = ["--trials", str(TRIALS), "--evaluations", str(EVALUATIONS)]
    done = kdtune("bench", "orchestration", *asked, "--storage", tmp_path / "storage", "-o", output)
    assert done.returncode == 0, done.stderr
    (figures,) = pq.read_table(output).to_pylist()
    (folder,) = (tmp_path / "storage").iterdir()
    storage = Storage(str(tmp_path / "storage"), folder.name)

    assert all(
        f" {name} " in done.stdout for name in figures if not name.endswith(("machine", "_at", "version", "gpu"))
    )
    assert figures["trials"] == TRIALS
    assert figures["seconds_per_trial"] == pytest.approx(figures["seconds"] / TRIALS)
    assert figures["marginal_seconds_late"] is None  # too few trials to tell
    assert 0 < figures["tables_seconds"] < figures["seconds"]
    assert figures["tables_written"] >= 1
    assert figures["driver_mb"] > 100
    size = sum(path.stat().st_size for path in (folder / "journal").iterdir())
    assert figures["journal_kb_per_trial"] == pytest.approx(size / TRIALS / 1024)
    assert figures["relaunch_seconds"] > 0

    records = storage.records()
    assert len(records) == TRIALS
    assert {record["row"]["status"] for record in records.values()} == {"completed"}
    assert [entry["step"] for record in records.values() for entry in record["history"]] == [1, 2, 3, 4, 5] * TRIALS
    plan = storage.plan()["empty"]
    expected = {
        "trials": rows.trials_table([records[id_]["row"] | {"attempt": 1} for id_ in plan]),
        "history": rows.history_table([entry for id_ in plan for entry in records[id_]["history"]]),
    }
    for name, table in expected.items():
        assert storage.table(name).equals(table), name
    assert storage.table("trials")["lr"].to_pylist() == [float(i + 1) for i in range(TRIALS)]
    weights = [os.listdir(folder / "checkpoints" / id_) for id_ in plan]
    assert weights == [["student.safetensors"]] * TRIALS


def test_marginal_time_is_that_of_the_last_trials(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds, cpu = (itertools.accumulate([each] * WINDOW + [3 * each] * WINDOW) for each in (1.0, 0.25))
    monkeypatch.setattr(time, "perf_counter", lambda: next(seconds))
    monkeypatch.setattr(time, "process_time", lambda: next(cpu))
    clock = orchestration._Clock(2 * WINDOW)
    for _ in range(2 * WINDOW):
        clock.trial_ended({})
    assert clock.marginal(2 * WINDOW) == orchestration._Moment(3.0, 0.75)
    assert clock.marginal(WINDOW + 50) == orchestration._Moment(2.0, 0.5)


def test_figures_stand_upright_where_they_are_many(tmp_path: Path) -> None:
    measured = [{"trials": 3, "seconds": 1.25, "late": None}, {"trials": 300, "seconds": 125.4, "late": 0.5}]
    text = told("empty", measured, str(tmp_path / "figures.parquet"), upright=True)
    lines = [line.replace("│", " ").split() for line in text.splitlines() if "│" in line]
    assert lines == [["trials", "3", "300"], ["seconds", "1.25", "125"], ["late", "-", "0.5"]]
    assert pa.types.is_float64(pq.read_schema(tmp_path / "figures.parquet").field("late").type)


@pytest.mark.slow
def test_the_stages_of_a_study_fill_slots(tmp_path: Path) -> None:
    output = tmp_path / "rounds.parquet"
    words = ("--study", "demo", "--slots", "4", "--seconds", "0.1", "-o", output)
    done = kdtune("bench", "orchestration", *words)
    assert done.returncode == 0, done.stderr
    (row,) = pq.read_table(output).to_pylist()
    assert row["trials"] == 53
    assert row["bound"] == 14  # 53 on 4 slots; the longest chain of stages has ten rounds
    assert row["rounds"] >= row["bound"]
    assert 0 < row["idle"] < 1
