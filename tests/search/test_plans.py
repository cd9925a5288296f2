"""A launch of an unchanged study finds its trials by their places; by their contents once anything has changed."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from kdtune.filesystem.lock import Held
from kdtune.records.progress import Reporter
from kdtune.records.storage import Storage
from kdtune.records.trial_record import Planned, new_record
from kdtune.search.conditions import Conditions
from kdtune.search.ledger import Ledger
from kdtune.search.plans import Plans
from kdtune.search.stage_context import StageContext
from kdtune.study.graph import graph
from kdtune.study.spec import StudySpec
from kdtune.training.site import Site
from tests.support.tiny import BASE

FILES = ["a.pt", "b.pt", "c.pt"]
CONTENT = {name: f"sha256:{i}" for i, name in enumerate(FILES)}


def study(grid: Mapping[str, Sequence[Any]], **base: Any) -> StudySpec:
    stages = [{"name": "student", "grid": grid}]
    return StudySpec.model_validate({"name": "tiny", "scheduler": "none", "base": BASE | base, "stages": stages})


def context(spec: StudySpec, where: Storage, references: Mapping[str, str]) -> StageContext:
    return StageContext("tiny", spec.stage("student"), {"base": spec.base}, references, Site(), where, threads=1)


def launched(spec: StudySpec, where: Storage, references: Mapping[str, str], *, status: str = "completed") -> list[str]:
    """The trials that a launch of the study planned and came to the end of."""
    found = context(spec, where, references)
    ids = list[str]()
    for point in spec.stage("student").points(["base"], spec.seed):
        record = new_record(found.planned(point))
        record["row"] |= {"status": status, "miou": 1.0, "step": 6}
        where.claim(record)
        ids.append(record["row"]["trial_id"])
    where.write_plan({"student": ids})
    return ids


def plans(spec: StudySpec, where: Storage, *, unchanged: bool = True) -> Plans:
    ledger = Ledger(spec, where, spec.stages, Held("token"), Reporter(), unchanged=unchanged)
    conditions = Conditions({stage.name: stage for stage in spec.stages}, graph(spec, spec.stages), ledger.winners)
    return Plans(ledger, conditions, unchanged)


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The points of which a trial was made."""
    points = list[Any]()
    whole = StageContext.planned

    def counted(self: StageContext, point: dict[str, Any]) -> Planned:
        points.append(point)
        return whole(self, point)

    monkeypatch.setattr(StageContext, "planned", counted)
    return points


RATES = study({"recipe.lr": [0.1 / i for i in range(1, 41)]})


@pytest.mark.parametrize(
    ("unchanged", "status", "most"), [(True, "completed", 2), (False, "completed", 40), (True, "failed", 40)]
)
def test_how_many_trials_are_made(tmp_path: Path, made: list[Any], unchanged: bool, status: str, most: int) -> None:
    where = Storage(str(tmp_path), "tiny")
    ids = launched(RATES, where, {}, status=status)
    made.clear()
    found = plans(RATES, where, unchanged=unchanged).plan(context(RATES, where, {}), RATES)
    assert len(made) == most
    assert list(found) == ids
    assert list(found.values()) == list(RATES.stage("student").points(["base"], RATES.seed))


@pytest.mark.parametrize("changed", FILES)
def test_a_file_with_another_content(tmp_path: Path, changed: str) -> None:
    """One in the middle of an axis, too."""
    spec = study({"warm_start.checkpoint": FILES}, warm_start={"checkpoint": "a.pt"})
    where = Storage(str(tmp_path), "tiny")
    before = launched(spec, where, CONTENT)
    now = context(spec, where, CONTENT | {changed: "sha256:other"})
    found = list(plans(spec, where).plan(now, spec))
    assert [id_ in before for id_ in found] == [name != changed for name in FILES]


def test_a_teacher_that_only_some_trials_ask(tmp_path: Path) -> None:
    """Its terms weigh nothing in the others."""
    teacher = {"model": BASE["student"], "checkpoint": "a.pt"}
    spec = study(
        {"losses.pi.weight": [0.0, 1.0, 2.0], "recipe.lr": [0.1, 0.01]},
        teacher=teacher,
        losses={"ce": {"weight": 1.0}, "pi": {"weight": 1.0}},
    )
    where = Storage(str(tmp_path), "tiny")
    before = launched(spec, where, CONTENT)
    found = list(plans(spec, where).plan(context(spec, where, {"a.pt": "sha256:other"}), spec))
    assert [id_ in before for id_ in found] == [True, True, False, False, False, False]
