"""Tables that grow trial by trial are those of one go, and no trial is converted twice."""

import random
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from kdtune.records import live_tables, rows
from kdtune.records.live_tables import GrowingTable, TableWriter
from kdtune.records.rows import Row
from kdtune.records.settled import settled
from kdtune.records.storage import Record, Storage
from tests.support.tiny import NETWORK, finished, study

TEACHER: dict[str, Any] = {"teacher": {"model": NETWORK, "checkpoint": "stage:teacher"}}
TERMS = ("pi", "pa", "ho", "cwd")


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(str(tmp_path), "tiny")


def some_trial(generator: random.Random, number: int) -> Record:
    """A trial of any stage, of any terms, with any number of evaluations; a few are diverged or still running."""
    chosen = generator.sample(TERMS, generator.randrange(3))
    changes = {"recipe.lr": 0.001 * (number + 1)} | {f"losses.{name}.weight": 0.5 for name in chosen}
    status = generator.choice(["completed"] * 4 + ["diverged", "stopped", "running"])
    record = finished(
        generator.choice(["student", "distill", "final"]),
        None if status == "diverged" else generator.uniform(10, 90),
        changes | (TEACHER if chosen else {}),
        status=status,
    )
    (entry,) = record["history"]
    losses = {f"{kind}_{name}": generator.random() for name in chosen for kind in ("loss", "grad_norm")}
    record["history"] = [entry | losses | {"step": step} for step in range(generator.randrange(1, 6))]
    return record


def in_one_go(records: dict[str, Record], plan: dict[str, list[str]]) -> dict[str, pa.Table]:
    """What the tables are, from all journals at once."""
    done = {
        id_: record | {"row": record["row"] | {"attempt": record["attempt"]}}
        for id_, record in records.items()
        if record["row"]["status"] in rows.FINISHED
    }
    stages = {stage: [done[id_]["row"] for id_ in ids if id_ in done] for stage, ids in plan.items()}
    current = [row for of_stage in stages.values() for row in of_stage]
    planned = {row["trial_id"] for row in current}
    return {
        "trials": rows.trials_table(current),
        "history": rows.history_table([e for row in current for e in done[row["trial_id"]]["history"]]),
        "optimal": rows.optimal_table(study(), stages),
        "final": rows.final_table(study(), stages["final"]),
        "superseded": rows.trials_table([done[id_]["row"] for id_ in sorted(done) if id_ not in planned]),
    }


@pytest.mark.parametrize("seed", range(5))
def test_any_sequence_of_trials_gives_the_tables_of_one_go(storage: Storage, seed: int) -> None:
    """New trials, replaced ones (with other columns and numbers of rows), plans that shrink and change their order.

    From time to time the launch ends: the next one reads the tables, and the journals of what is not settled in them.
    """
    generator = random.Random(seed)
    writer, records, aside = TableWriter(storage, study()), dict[str, Record](), set[str]()
    plan: dict[str, list[str]] = {"student": [], "distill": [], "final": []}
    for _ in range(12):
        for _ in range(generator.randrange(5)):
            record = some_trial(generator, generator.randrange(12))
            row = record["row"]
            if row["status"] == "running" and row["trial_id"] in records:
                continue  # a trial that has ended is never put back
            record["attempt"] = records[row["trial_id"]]["attempt"] + 1 if row["trial_id"] in records else 1
            records[row["trial_id"]] = record
            writer.add(record)
        for stage in plan:
            ids = [id_ for id_, record in records.items() if record["row"]["stage"] == stage]
            plan[stage] = generator.sample(ids, generator.randint(len(ids) // 2, len(ids)))
        if generator.random() < 0.4:
            past = settled(storage)
            writer, aside = TableWriter(storage, study(), past), {*past.aside}
            for id_, record in records.items():
                if not past.holds(id_, record["attempt"]):
                    writer.add(record)
        for id_ in {id_ for ids in plan.values() for id_ in ids} & aside:  # part of the study again
            writer.add(records[id_])
            aside.remove(id_)
        writer.write(plan)
        for name, expected in in_one_go(records, plan).items():
            if name == "superseded" and not expected.num_rows and storage.folder.read(f"{name}.parquet") is None:
                continue
            found = storage.table(name)
            assert found.schema.equals(expected.schema), name
            assert found.equals(expected), name


def test_the_teachers_own_trials_are_the_teachers(storage: Storage) -> None:
    """Whatever the stage is called that trains it, and whatever an earlier version wrote into the journal."""
    spec = study()
    stages = [{"name": "big"}, {"name": "student"}]
    teacher = {"model": NETWORK, "checkpoint": "stage:big"}
    stages[1] |= {"set": {"teacher": teacher, "losses.pi": {"weight": 1.0}}}
    spec = spec.model_validate(spec.model_dump(mode="json") | {"stages": stages})
    writer = TableWriter(storage, spec)
    records = [finished("big", 50.0), finished("student", 40.0)]
    for record in records:
        assert record["row"]["method"] == "student"
        writer.add(record)
    writer.write({record["row"]["stage"]: [record["row"]["trial_id"]] for record in records})
    assert storage.table("trials").select(["stage", "method"]).to_pylist() == [
        {"stage": "big", "method": "teacher"},
        {"stage": "student", "method": "student"},
    ]


def test_every_row_is_converted_once(storage: Storage) -> None:
    converted: list[int] = []

    def counting(given: Sequence[Row]) -> pa.Table:
        converted.append(len(given))
        return rows.history_table(given)

    table = GrowingTable(counting, rows.history_schema)
    for number in range(100):
        record = finished("student", 50.0, {"recipe.lr": 0.001 * (number + 1)})
        table.put(record["row"]["trial_id"], record["history"] * 3)
        assert table.table([record["row"]["trial_id"]]).num_rows == 3
    assert sum(converted) == 300


def test_replaced_rows_do_not_pile_up() -> None:
    table = GrowingTable(rows.history_table, rows.history_schema)
    for number in range(50):
        record = finished("student", float(number))
        table.put("one", record["history"] * 10)
        table.put("two", record["history"])
        assert table.table(["two", "one"])["miou"].to_pylist() == [float(number)] * 11
        assert table._table.num_rows <= 2 * 11


def test_what_has_not_changed_is_not_written_again(storage: Storage) -> None:
    writer, record = TableWriter(storage, study()), finished("student", 50.0)
    id_ = record["row"]["trial_id"]
    writer.add(record)
    assert writer.write({"student": [id_]}) is not None
    storage.folder.remove("trials.parquet")
    writer.add(finished("student", 51.0, {"recipe.lr": 0.3}, status="running"))
    assert writer.write({"student": [id_]}) is None
    assert storage.folder.read("trials.parquet") is None
    assert writer.write({"student": []}) is not None  # the plan no longer holds it
    assert (storage.table("trials").num_rows, storage.table("superseded").num_rows) == (0, 1)
    writer.add(record)
    assert writer.write({"student": []}) is not None
    assert TableWriter(storage, study()).write({}) is not None  # a new launch cannot know what is there


def test_writings_are_further_apart_the_longer_they_take(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    writer = TableWriter(storage, study())
    assert not writer.due()
    now[0] += live_tables.EVERY
    assert writer.due()
    monkeypatch.setattr(Storage, "write_tables", lambda self, tables: now.__setitem__(0, now[0] + 3.0) or 10)
    writer.add(finished("student", 50.0))
    assert writer.write({}) == pytest.approx(3.0)
    now[0] += live_tables.SHARE * 3.0 - 0.5
    assert not writer.due()
    now[0] += 1.0
    assert writer.due()


def test_a_reader_never_sees_half_a_table(storage: Storage) -> None:
    writer, seen, done = TableWriter(storage, study()), list[int](), threading.Event()
    writer.write({})

    def read() -> None:
        while not done.is_set():
            seen.append(storage.table("trials").num_rows)  # a file that is not whole has no footer, and raises

    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(read)
        ids: list[str] = []
        for number in range(40):
            record = finished("student", 50.0, {"recipe.lr": 0.001 * (number + 1)})
            writer.add(record)
            ids.append(record["row"]["trial_id"])
            writer.write({"student": ids})
        done.set()
        reading.result()
    assert seen == sorted(seen)
    assert len(set(seen)) > 1
