"""Trials that are judged together, from what their journals say: what a launch that continues makes of them."""

from pathlib import Path

import pytest

from kdtune.records.journal_files import PART, Record
from kdtune.records.progress import Reporter
from kdtune.records.storage import Storage
from kdtune.search.course import Offer
from kdtune.search.judging import Judging
from tests.search.test_ledger import ledger
from tests.support.tiny import finished, study

RATES = (0.1, 0.01, 0.02, 0.03)


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(str(tmp_path), "tiny")


def begun(storage: Storage, mious: list[float | None], status: str, steps: list[int]) -> list[Record]:
    """Journals of the stage ``student``, a trial each, evaluated at these steps."""
    records = []
    for rate, miou in zip(RATES, mious, strict=False):
        record = finished("student", miou, {"recipe.lr": rate}, status=status, error=None, step=steps[-1])
        record["history"] = [record["history"][0] | {"step": step} for step in steps]
        storage.claim(record)
        records.append(record)
    return records


def judging(storage: Storage, records: list[Record], rungs: tuple[float, ...]) -> tuple[Judging, list[str]]:
    known = study()
    stage = known.stage("student").model_copy(update={"grid": {"recipe.lr": RATES[: len(records)]}})
    halving = {"name": "halving", "rungs": rungs}
    known = type(known).model_validate(
        known.model_dump() | {"scheduler": halving, "stages": [stage.model_dump(), known.stages[0].model_dump()]}
    )
    ids = [record["row"]["trial_id"] for record in records]
    kept = ledger(storage)
    kept.set_plan("student", ids)
    stages = {each.name: each for each in known.stages}
    return Judging(known, stages, storage, Reporter(), kept, set()), ids


def test_what_has_failed_is_tried_again_by_the_next_launch_and_counts_as_last_in_this(storage: Storage) -> None:
    records = begun(storage, [30.0, 20.0], "completed", [3, 6])
    records += [finished("student", None, {"recipe.lr": RATES[2]}, status="failed", error="out of memory")]
    records[2]["history"] = []
    storage.claim(records[2])
    rule, ids = judging(storage, records, (0.5,))
    stage = rule.stages["student"]
    assert rule.kept(stage, rule.ledger.past("student"), ids) == {*ids[:2]}
    halves = rule.halves(stage, ids, ids[2:], lambda id_: Offer(id_, {}))
    offer = halves.take("tune")
    assert offer is not None
    assert offer.trial_id == ids[2]
    storage.claim(records[2])  # it fails once more
    rule.ledger.ended(records[2])
    halves.over(ids[2])
    assert halves.take("tune") is None
    assert halves.open == []


def test_a_rung_before_the_first_evaluation_is_decided_by_that(storage: Storage) -> None:
    """The rungs have changed since the trials began."""
    records = begun(storage, [30.0, 20.0, 25.0], "running", [4])
    rule, ids = judging(storage, records, (1 / 3, 5 / 6))
    halves = rule.halves(rule.stages["student"], ids, ids, lambda id_: Offer(id_, {}))
    assert {offer.trial_id for offer in (halves.take("a"), halves.take("b")) if offer} == {ids[0], ids[2]}
    assert halves.take("c") is None
    assert storage.records()[ids[1]]["row"]["status"] == "stopped"


def test_a_cut_is_kept_whatever_file_its_evaluation_lies_in(storage: Storage) -> None:
    steps = list(range(1, PART + 1))
    records = begun(storage, [30.0, 20.0], "running", steps)
    rule, ids = judging(storage, records, (0.5,))
    rule._decided(ids[0], PART, 20.0, True)
    found = storage.record(ids[0])
    assert found is not None
    assert [entry.get("rung_cut") for entry in found["history"]] == [*[None] * (PART - 1), 20.0]
