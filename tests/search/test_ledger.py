"""What a launch reads of what earlier ones left: rows of what is settled, journals of the rest."""

from pathlib import Path

import pytest

from kdtune.base import RunError, UserError
from kdtune.filesystem.lock import Held
from kdtune.records.progress import Reporter
from kdtune.records.storage import Storage
from kdtune.search.ledger import Ledger
from tests.support.tiny import finished, study, write_tables


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    """Two trials that have ended, of which the study has had only the first since."""
    storage = Storage(str(tmp_path), "tiny")
    records = {}
    for rate in (0.01, 0.02):
        record = finished("student", 100 * rate, {"recipe.lr": rate})
        storage.claim(record)
        records[record["row"]["trial_id"]] = record
    write_tables(storage, {"student": [next(iter(records))]}, records)
    return storage


def ledger(storage: Storage, reporter: Reporter | None = None) -> Ledger:
    found = Ledger(study(), storage, study().stages, Held("token"), reporter or Reporter())
    found.begin_writing()
    return found


def test_what_is_settled_is_not_read_again(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    before = storage.records()
    read = list[str]()
    whole = type(storage.folder).read

    def watched(self: object, name: str) -> bytes | None:
        read.append(name)
        return whole(self, name)  # type: ignore[arg-type]

    monkeypatch.setattr(type(storage.folder), "read", watched)
    found = ledger(storage)
    assert not [name for name in read if name.endswith(".json") and name.split(".")[0] in before]
    assert {id_: record["row"]["miou"] for id_, record in found.records.items()} == {
        id_: record["row"]["miou"] for id_, record in before.items()
    }


@pytest.mark.parametrize("damaged", [False, True])
def test_a_superseded_trial_that_is_wanted_again(storage: Storage, damaged: bool) -> None:
    """Its row alone is not enough: without its journal it runs again."""
    ids = sorted(storage.records(), key=lambda id_: storage.records()[id_]["row"]["lr"])
    if damaged:
        (storage.folder / "journal").write(f"{ids[1]}.1.json", b'{"row": ')
    found = ledger(storage)
    found.set_plan("student", ids)
    assert list(found.past("student")) == (ids[:1] if damaged else ids)
    found.write_tables()
    for name in ("trials", "history"):
        assert storage.table(name)["trial_id"].to_pylist() == (ids[:1] if damaged else ids)


def test_of_trials_that_leave_those_are_said_that_had_begun(storage: Storage) -> None:
    """Of a start that is not decided yet some may have been planned before, and will be again."""
    said: list[tuple[str, int]] = []

    class Says(Reporter):
        def superseded(self, stage: str, count: int) -> None:
            said.append((stage, count))

    begun = [*storage.finished()]
    found = ledger(storage, Says())
    found.set_plan("student", [*begun, "student-0-s1"])
    found.set_plan("student", begun)
    assert said == []
    found.set_plan("student", [])
    assert said == [("student", 1)]


def test_a_stage_whose_trials_have_all_failed_is_no_success(tmp_path: Path) -> None:
    """Though nothing starts from it, and so no other stage misses its result."""
    where = Storage(str(tmp_path), "tiny")
    records = [
        finished("student", miou, {"recipe.lr": lr}, status=status, error=error)
        for lr, miou, status, error in (
            (0.1, None, "failed", "ValueError: no (net.py:3)"),
            (0.01, 9.0, "completed", None),
        )
    ]
    ids = [record["row"]["trial_id"] for record in records]
    for record in records:
        where.claim(record)
    found = ledger(where)
    found.set_plan("student", ids)
    found.refuse_failed(["student"])  # one has come to something
    found.set_plan("student", ids[:1])
    with pytest.raises(
        RunError, match=r"^stage 'student': its only trial failed; ValueError: no \(net\.py:3\); `kdtune"
    ):
        found.refuse_failed(["student"])
    found.refuse_failed(["final"])  # not begun


def test_a_table_that_is_none_and_has_no_digest_is_one_line(storage: Storage) -> None:
    storage.folder.remove("digests.json")
    storage.folder.write("trials.parquet", b"damaged")
    with pytest.raises(UserError, match=r"trials\.parquet: damaged; launched again"):
        storage.finished()
    assert set(ledger(storage).records) == set(storage.records())


@pytest.mark.parametrize("before", [False, True])
def test_a_trial_that_two_starts_come_to_keeps_its_last_attempt(tmp_path: Path, before: bool) -> None:
    """Whether or not an earlier launch had begun it."""
    where = Storage(str(tmp_path), "tiny")
    record = finished("student", 9.0)
    id_ = record["row"]["trial_id"]
    if before:
        where.claim(finished("student", None, status="running"))
        record["attempt"] = 1
    found = ledger(where)
    found.set_plan("student", [id_], {id_: "one"})
    where.claim(record)
    found.ended(record)
    found.set_plan("student", [id_], {id_: "other"})
    kept = found.records[id_]
    assert (kept["row"]["status"], kept["row"]["start"], kept["attempt"]) == ("completed", "other", 1 + before)
