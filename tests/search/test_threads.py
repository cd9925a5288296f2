"""The number of threads of a study's trials: given, else what it began with, else decided as it begins."""

import json
from pathlib import Path
from typing import Any

import pytest

from kdtune.base import UserError
from kdtune.search.options import Options, adjusted
from kdtune.search.threads import Threads, known
from kdtune.study.spec import StudySpec
from tests.support.small_study import small


@pytest.fixture
def study(tmp_path: Path) -> StudySpec:
    """Stages of 2, 2 and 4 trials."""
    return small(tmp_path)


def nodes(monkeypatch: pytest.MonkeyPatch, *kinds: dict[str, int]) -> None:
    """A cluster in name only."""
    monkeypatch.setattr("ray.nodes", lambda: [{"Alive": True, "Labels": {}, "Resources": kind} for kind in kinds])
    total = {name: sum(kind.get(name, 0) for kind in kinds) for name in ("CPU", "GPU")}
    monkeypatch.setattr("ray.cluster_resources", lambda: total)


def record(**config: Any) -> dict[str, Any]:
    return {"row": {"config": json.dumps(config)}}


def test_what_is_given_comes_first(study: StudySpec) -> None:
    two = adjusted(study, Options(threads=2))
    assert known(two, {"threads": 3}, []) == known(two, None, [record(threads=3)]) == Threads(two)
    assert two.threads == 2


@pytest.mark.parametrize("number", [3, None])
def test_then_what_the_study_began_with(study: StudySpec, number: int | None) -> None:
    """None, too: of a study that began on GPUs, or before there was a number."""
    began = {} if number is None else {"threads": number}
    by_file = known(study, began, [record(threads=5)])
    by_trials = known(study, None, [record(**began)])  # its file is damaged
    assert by_file == by_trials
    assert (by_file.study.threads, by_file.open) == (number, False)
    assert by_file.decided(joined=False) == by_file


@pytest.mark.parametrize("number", ["x", 0, -1, 1.5, True, [2]])
def test_a_number_of_others_that_is_none_is_one_line(study: StudySpec, number: object) -> None:
    with pytest.raises(UserError, match=r"small/study\.yaml: threads is .*, no number of them; give --threads N"):
        known(study, {"threads": number}, [])


@pytest.mark.parametrize(
    ("cluster", "number"),
    [
        ([{"CPU": 8}], 2),  # four at once in the largest stage
        ([{"CPU": 2}], 1),
        ([{"CPU": 1}, {"CPU": 3}], 1),
        ([{"CPU": 16}, {"CPU": 8, "GPU": 1}], None),
    ],
)
def test_else_it_is_what_the_largest_stage_leaves_for_a_trial(
    study: StudySpec, cluster: list[dict[str, int]], number: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    nodes(monkeypatch, *cluster)
    new = known(study, None, [])
    assert (new.study, new.open) == (study, True)
    decided = new.decided(joined=False)
    assert (decided.study.threads, decided.open) == (number, False)
    assert decided.study.name == study.name


def test_the_largest_stage_counts_though_another_runs(study: StudySpec, monkeypatch: pytest.MonkeyPatch) -> None:
    """And a stage whose nodes are not there does not."""
    nodes(monkeypatch, {"CPU": 8})
    away = study.stages[2].model_copy(update={"labels": {"kind": "away"}})
    most = study.stages[1].model_copy(update={"seeds": (0, 1, 2, 3)})
    spec = study.model_copy(update={"stages": (study.stages[0], most, away)})
    assert known(spec, None, []).decided(joined=True).study.threads == 1
    needy = spec.model_copy(update={"needs_gpu": True, "max_concurrent": 2})
    assert known(needy, None, []).decided(joined=True).study.threads is None  # an autoscaler will start GPUs


def test_what_is_said(study: StudySpec, monkeypatch: pytest.MonkeyPatch) -> None:
    nodes(monkeypatch, {"CPU": 8})
    three = adjusted(study, Options(threads=3))
    assert [*known(study, None, []).decided(joined=False).lines(study.stages)] == [
        "2 threads per trial, from now on part of the study"
    ]
    assert [*Threads(three).lines(study.stages)] == ["3 threads per trial"]
    kept = known(study, {"threads": 3}, [])
    assert [*kept.lines(study.stages)] == ["3 threads per trial, as the study began"]
    nodes(monkeypatch, {"CPU": 1}, {"CPU": 2})
    assert [*kept.lines(study.stages)] == [
        "trials compute with 3 threads, as the study began, on nodes of 2 processors"
    ]
    nodes(monkeypatch, {"CPU": 2, "GPU": 1})
    assert [*kept.lines(study.stages)] == []
    assert [*known(study, {}, []).lines(study.stages)] == []
