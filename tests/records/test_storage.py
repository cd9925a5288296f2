"""The storage of a study: journals, states, and tables as the interface names them."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import duckdb
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from kdtune.answers.query import summary
from kdtune.base import UserError
from kdtune.filesystem.folder import Folder, absolute
from kdtune.records.launched import read_launch
from kdtune.records.live_tables import TableWriter
from kdtune.records.rows import distillation_terms
from kdtune.records.storage import WEIGHTS, Record, Storage
from kdtune.records.stored_study import TABLES
from kdtune.remote import logs
from kdtune.training.weights import read_weights
from tests.support.tiny import NETWORK, config, finished, study

TEXT, WHOLE, REAL, TIME = "string", "int64", "double", "timestamp[us, tz=UTC]"
LAMBDAS = {f"lambda_{name}": REAL for name in distillation_terms()}
OF_TERMS = {"convention_pi": TEXT, "upsample_pi": TEXT}  # of the terms that there are
HYPERPARAMETERS = {"lr": REAL, "weight_decay": REAL, "temperature": REAL, **LAMBDAS, **OF_TERMS}
SCHEMAS = {  # a change here is a change of the interface: it belongs into CHANGELOG.md
    "trials": {
        **dict.fromkeys(("study", "stage", "trial_id", "config_id", "start", "method", "config", "status"), TEXT),
        **HYPERPARAMETERS,
        **{
            "init": TEXT,
            "network": TEXT,
            "teacher_network": TEXT,
            "seed": WHOLE,
            "threads": WHOLE,
            "miou": REAL,
            "miou_best": REAL,
            "step": WHOLE,
            "steps_total": WHOLE,
        },
        **{"per_class_iou": "list<element: double>"},
        **dict.fromkeys(("train_seconds", "images_per_second", "peak_memory_mb"), REAL),
        **{"teacher_steps_run": WHOLE, "teacher_steps_read": WHOLE},
        **dict.fromkeys(("energy_kwh", "energy_alone_kwh", "co2_kg"), REAL),
        **{"inference_kwh": REAL, "inference_co2_kg": REAL, "inference_images": WHOLE},
        **dict.fromkeys(("node", "device", "error"), TEXT),
        **{"started_at": TIME, "finished_at": TIME, "attempt": WHOLE, "numerics": WHOLE, "weights_sha256": TEXT},
        "image_counts_sha256": TEXT,
        **{"kdtune_version": TEXT, "torch_version": TEXT},
    },
    "history": {
        **dict.fromkeys(("study", "stage", "trial_id"), TEXT),
        **{"step": WHOLE, "miou": REAL, "loss": REAL, "grad_norm_ce": REAL, "loss_ce": REAL},
        **{"lr_now": REAL, "seconds": REAL},
    },
    "optimal": {
        **dict.fromkeys(("study", "stage", "trial_id"), TEXT),
        **HYPERPARAMETERS,
        **{"miou": REAL, "miou_std": REAL, "seeds": WHOLE, "trials": WHOLE, "trials_stopped": WHOLE},
        "parameters": TEXT,
    },
    "final": {
        **{"study": TEXT, "method": TEXT, "miou_mean": REAL, "miou_std": REAL, "seeds": WHOLE},
        **{"best": "bool", "within_one_std": "bool"},
    },
    "emissions": {
        **{"study": TEXT, "model": TEXT, "phase": TEXT, "miou": REAL, "images": WHOLE},
        **{"energy_kwh": REAL, "co2_kg": REAL, "country": TEXT, "measured": "bool"},
    },
    "nodes": {
        **dict.fromkeys(("study", "launch", "node"), TEXT),
        **dict.fromkeys(("seconds", "energy_kwh", "co2_kg", "trials_kwh", "idle_kwh"), REAL),
        **dict.fromkeys(("cpu_kwh", "ram_kwh", "gpu_kwh", "meter_cpu_seconds"), REAL),
        **{"country": TEXT, "measured": "bool"},
    },
}
PI = {"teacher": {"model": NETWORK, "checkpoint": "stage:teacher"}, "losses.pi": {"weight": 0.5}}


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(str(tmp_path), "tiny")


@pytest.fixture
def records() -> list[Record]:
    """A trial or two of every stage, one of them still running."""
    return [
        finished("teacher", 80.0),
        finished("student", 60.0, {"recipe.lr": 0.1}),
        finished("student", 61.0, {"recipe.lr": 0.01}),
        finished("distill", None, PI, status="diverged"),
        finished("distill", 62.0, PI | {"losses.pi.temperature": 2.0}),
        finished("final", 63.0, {"seed": 11}),
        finished("final", 64.0, {"seed": 12}),
        finished("student", 99.0, {"recipe.lr": 0.3}, status="running"),
    ]


def write(storage: Storage, records: Sequence[Record], plan: dict[str, list[str]] | None = None) -> dict[str, Record]:
    """The tables of these journals; planned in their order unless a plan is given."""
    by_id = {record["row"]["trial_id"]: record for record in records}
    whole: dict[str, list[str]] = {}
    for id_, record in by_id.items():
        whole.setdefault(record["row"]["stage"], []).append(id_)
    writer = TableWriter(storage, study())
    for record in records:
        writer.add(record)
    writer.write(plan if plan is not None else whole)
    return by_id


@pytest.fixture
def folder(storage: Storage, records: list[Record]) -> Path:
    """The study's folder, all tables written."""
    write(storage, records)
    assert storage.folder.local is not None
    return storage.folder.local


@pytest.mark.parametrize("name", TABLES)
def test_schemas_are_the_interfaces(folder: Path, name: str) -> None:
    schema = pq.read_schema(folder / f"{name}.parquet")
    assert {field.name: str(field.type) for field in schema} == SCHEMAS[name]
    assert schema.names == list(SCHEMAS[name])
    assert not schema.metadata  # no index of pandas


@pytest.mark.parametrize("name", TABLES)
def test_an_empty_study_has_the_same_tables(storage: Storage, name: str) -> None:
    write(storage, [])
    schema = {field.name: str(field.type) for field in storage.table(name).schema}
    variable = {"loss_ce", "grad_norm_ce", *OF_TERMS}
    assert schema == {key: kind for key, kind in SCHEMAS[name].items() if key not in variable}
    assert storage.table(name).num_rows == 0


@pytest.mark.parametrize("name", TABLES)
def test_every_table_is_read_by_pyarrow_pandas_and_duckdb(folder: Path, name: str) -> None:
    path = folder / f"{name}.parquet"
    count = {"trials": 7, "history": 7, "optimal": 3, "final": 1, "emissions": 6, "nodes": 0}[name]
    assert pq.read_table(path).num_rows == count
    frame = pd.read_parquet(path)
    assert list(frame.columns) == list(SCHEMAS[name])
    assert list(frame.index) == list(range(count))
    found = duckdb.sql(f"select * from read_parquet('{path}')")
    assert found.columns == list(SCHEMAS[name])
    assert len(duckdb.sql(f"select study from read_parquet('{path}')").fetchall()) == count


def test_values_arrive_in_duckdb(folder: Path) -> None:
    query = f"select stage, avg(miou), max(len(per_class_iou)) from '{folder}/trials.parquet' group by 1 order by 1"
    assert duckdb.sql(query).fetchall() == [
        ("distill", 62.0, 3),
        ("final", 63.5, 3),
        ("student", 60.5, 3),
        ("teacher", 80.0, 3),
    ]


def test_times_are_utc(folder: Path) -> None:
    row = pq.read_table(folder / "trials.parquet").to_pylist()[0]
    assert row["started_at"] == datetime(2026, 1, 2, 3, 4, 5, 250_000, tzinfo=UTC)
    frame = pd.read_parquet(folder / "trials.parquet")
    assert str(frame["started_at"].dt.tz) == "UTC"
    found = duckdb.sql(f"select distinct epoch(finished_at - started_at) from '{folder}/trials.parquet'").fetchall()
    assert found == [(0.75,)]


def test_rows_come_in_the_order_of_the_plan(storage: Storage, records: list[Record]) -> None:
    ids = [record["row"]["trial_id"] for record in records]
    plan = {"teacher": [ids[0]], "student": [ids[2], "not-run-yet", ids[1], ids[7]], "distill": [ids[4], ids[3]]}
    write(storage, records, plan | {"final": ids[5:7]})
    expected = [ids[i] for i in (0, 2, 1, 4, 3, 5, 6)]
    assert storage.table("trials")["trial_id"].to_pylist() == expected
    assert storage.table("history")["trial_id"].to_pylist() == expected
    assert storage.folder.read("superseded.parquet") is None


def test_rows_that_the_plan_no_longer_holds_are_superseded(storage: Storage, records: list[Record]) -> None:
    ids = [record["row"]["trial_id"] for record in records]
    plan = {"teacher": [ids[0]], "student": [ids[1]]}
    write(storage, records, plan)
    assert storage.table("trials")["trial_id"].to_pylist() == ids[:2]
    assert storage.table("history")["trial_id"].to_pylist() == ids[:2]
    old = storage.table("superseded")
    assert old["trial_id"].to_pylist() == sorted(ids[2:7])
    assert {field.name: str(field.type) for field in old.schema} == SCHEMAS["trials"]
    assert [row["stage"] for row in storage.table("optimal").to_pylist()] == ["student"]
    write(storage, records)  # the plan holds them again
    assert storage.table("superseded").num_rows == 0
    assert storage.table("trials").num_rows == 7


def test_nulls_are_nulls(folder: Path) -> None:
    rows = {row["trial_id"]: row for row in pq.read_table(folder / "trials.parquet").to_pylist()}
    alone = [row for row in rows.values() if row["method"] == "student"]
    assert {(row["temperature"], row["lambda_pi"]) for row in alone} == {(None, None)}
    assert [row["miou"] for row in rows.values() if row["status"] == "diverged"] == [None]
    assert rows[alone[0]["trial_id"]]["per_class_iou"] == [1.5, None, 3.0]


def test_journals_come_back_and_hold_no_nan(storage: Storage, records: list[Record]) -> None:
    for record in records:
        storage.write_record(record)
    assert storage.records() == {record["row"]["trial_id"]: record for record in records}
    assert storage.record("no-such-trial") is None
    broken = finished("student", float("nan"))
    with pytest.raises(ValueError, match="JSON compliant"):
        storage.write_record(broken)
    assert storage.record(broken["row"]["trial_id"]) is None


def test_other_files_in_the_journal_are_not_trials(storage: Storage) -> None:
    storage.write_record(finished("student", 1.0))
    for name in ("notes.txt", "notes.json", "a.b.json", ".1.json.4711-1.partial"):
        (storage.folder / "journal").write(name, b"mine")
    assert len(storage.records()) == 1


def test_the_highest_attempt_is_the_trial(storage: Storage) -> None:
    record = finished("student", 1.0)
    id_ = record["row"]["trial_id"]
    for attempt in range(1, 12):  # as numbers, not as text: 10 comes after 9
        storage.claim(record)
        assert record["attempt"] == attempt
        assert not storage.overtaken(record)
        assert storage.record(id_) == storage.records()[id_] == record
    assert storage.overtaken(record | {"attempt": 10})
    storage.withdraw(record)
    assert storage.record(id_) == record | {"attempt": 10}


def test_states_are_told_whole_from_damaged(storage: Storage) -> None:
    record = finished("student", 1.0)
    id_ = record["row"]["trial_id"]
    written = storage.write_state(id_, 1, 5, {"step": 5, "weights": torch.arange(3.0)})
    found = storage.read_state(id_, written)
    assert found is not None
    assert found["step"] == 5
    assert torch.equal(found["weights"], torch.arange(3.0))
    assert storage.write_state(id_, 1, 6, {}, [written])["file"] != written["file"]
    storage.remove_state(id_, 1, written)  # of this attempt: it is written over in its turn
    storage.remove_state(id_, 2, {"file": "state-1-1.pt"})
    storage.write_weights(id_, config().student.build(12))
    checkpoints = storage.folder / "checkpoints" / id_
    assert checkpoints.names() == ["state-1-0.pt", WEIGHTS]
    checkpoints.write("state-1-0.pt", (checkpoints.read("state-1-0.pt") or b"")[:-10])
    assert storage.read_state(id_, written) is None
    storage.remove_states(id_)
    assert storage.read_state(id_, written) is None
    assert checkpoints.names() == [WEIGHTS]
    assert storage.checkpoint_uri(id_) == f"{storage.root}/tiny/checkpoints/{id_}/{WEIGHTS}"
    assert read_weights(storage.checkpoint_uri(id_)).keys() == config().student.build(12).state_dict().keys()


def test_a_trial_is_found_without_a_list_of_the_journal(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    """A list per trial would cost the square of their number."""
    record = finished("student", 1.0)
    id_ = record["row"]["trial_id"]

    def forbidden(self: Folder, unfinished: bool = False) -> list[str]:
        raise AssertionError("listed")

    monkeypatch.setattr(Folder, "names", forbidden)
    for expected in (1, 2, 3, 4):
        storage.claim(record)
        found = storage.record(id_)
        assert found is not None
        assert found["attempt"] == expected
    assert storage.record(id_.replace("-s0", "-s01")) is None


def test_thousands_of_journals_are_read_in_parts(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kdtune.records.journal_files.AT_ONCE", 3)
    records = [finished("student", float(i), {"recipe.lr": 0.01 * (i + 1)}) for i in range(8)]
    for record in records:
        storage.claim(record)
    storage.claim(records[4])
    journal = storage.folder / "journal"
    journal.write(f"{records[5]['row']['trial_id']}.2.json", b'{"row": ')  # damaged: the attempt before it counts
    assert storage.records() == {record["row"]["trial_id"]: record for record in records}


def test_study_and_plan_come_back(storage: Storage) -> None:
    assert (storage.read_study(), storage.plan()) == (None, {})
    storage.write_study(study(), {"kdtune": "0.1.0", "cuda": None})
    storage.write_plan({"student": ["a", "b"], "distill": []})
    assert storage.read_study() == json.loads(study().model_dump_json())
    assert storage.plan() == {"student": ["a", "b"], "distill": []}
    assert b"cuda: null" in (storage.folder.read("study.yaml") or b"")


@pytest.mark.parametrize("content", [b"", b'{"student": [', b"\x00\xff"])
def test_files_that_are_cut_off(folder: Path, storage: Storage, content: bytes) -> None:
    """What is made anew, or only adds to results, is named and skipped; what binds a study to its data is not."""
    storage.write_energy("launch", [])
    for name in ("plan.json", "energy/launch.json", "launch.json"):
        (folder / name).write_bytes(content)
    assert (storage.plan(), storage.energy(), read_launch(storage.folder)) == ({}, {}, None)
    for name in ("study.yaml", "trials.parquet", "data.json"):
        (folder / name).write_bytes(content)
    with pytest.raises(UserError, match=r"trials\.parquet: damaged; launched again"):
        storage.table("trials")
    assert storage.read_study() is None
    storage.folder.write("launch.log", b"what it said\n")
    said: list[str] = []
    logs("tiny", storage.root, None, follow=False, write=said.append, note=pytest.fail)
    assert said == ["what it said\n"]
    with pytest.raises(UserError, match=r"data\.json: damaged, .* remove the file"):
        storage.data()


def test_no_results_say_what_to_do(storage: Storage) -> None:
    with pytest.raises(UserError, match=r"no results of study 'tiny' there; launch it first, or name"):
        storage.table("optimal")


def test_a_storage_that_cannot_be_written_is_one_line(tmp_path: Path, storage: Storage) -> None:
    storage.check_writable()
    assert storage.folder.names() == []
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot write there: Not a directory; .*--storage"):
        Storage(str(tmp_path / "file"), "tiny").check_writable()


def test_a_hint_names_the_storage_unless_commands_look_there_anyway(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KDTUNE_STORAGE", "/my runs")
    assert Storage("/my runs", "tiny").words == "tiny"
    monkeypatch.delenv("KDTUNE_STORAGE")
    assert Storage("/my runs", "tiny").words == "tiny --storage '/my runs'"
    assert Storage(absolute("~/kdtune"), "tiny").words == "tiny"


def test_tables_are_arrow(folder: Path, storage: Storage) -> None:
    assert isinstance(storage.table("trials"), pa.Table)
    assert storage.table("trials").equals(pq.read_table(folder / "trials.parquet"))


def test_a_launch_ends_without_a_table_that_nobody_can_read(
    storage: Storage, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("kdtune.answers.query.READABLE", 3)
    for count in (3, 4):
        write(storage, [finished("student", 50.0, {"recipe.lr": 0.01 * (i + 1)}) for i in range(count)])
        print(summary(storage, styled=False), end="")
    readable, long = capsys.readouterr().out.split(
        f"kdtune results tiny --storage {storage.root} --table grid --format csv"
    )
    assert "tiny: student, mIoU [%]" in readable
    assert readable.endswith("tiny: grid of 4 values: ")
    assert "mIoU [%] by" not in long
    assert "best configuration of each stage" in long


@pytest.mark.parametrize("name", ["journal", "checkpoints", "logs", "energy"])
def test_a_folder_that_cannot_be_written_is_named_before_anything_starts(tmp_path: Path, name: str) -> None:
    storage = Storage(str(tmp_path), "tiny")
    storage.check_writable()
    assert storage.folder.names() == storage.folder.folders() == []
    (tmp_path / "tiny" / name).write_text("")  # in the folder's place: what root cannot write either
    with pytest.raises(UserError, match=rf"tiny/{name}: cannot write there: File exists; give another folder"):
        storage.check_writable()
