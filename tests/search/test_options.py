"""How a launch departs from its file: ``--teacher`` follows the rules of ``--set``, which it is short for."""

from pathlib import Path

import pytest

from kdtune.base import UserError
from kdtune.search.kept_teacher import digested_terms, teacher_store
from kdtune.search.options import Options, adjusted
from kdtune.study.settings import kept_searches
from kdtune.study.spec import StudySpec
from tests.support.small_study import small
from tests.support.tiny import BASE, NETWORK

PI = {"teacher": {"model": NETWORK, "checkpoint": "t.pth"}, "losses.pi": {"weight": 0.5}}


def test_a_teacher_that_was_searched_is_not_set_again(tmp_path: Path) -> None:
    axis = "losses.pi.temperature: [1, 2]"
    spec = small(tmp_path, (axis, "teacher.checkpoint: [a.pt, b.pt]"), ("[student, distill]", "[distill]"))
    free = spec.stages[1].model_copy(update={"name": "other", "grid": {}})
    spec = spec.model_copy(update={"stages": (*spec.stages, free)})
    options = Options(teacher="c.pt", settings={"recipe.num_steps": 4})
    assert options.changes == {"recipe.num_steps": 4, "teacher.checkpoint": "c.pt"}
    changed = adjusted(spec, options)
    used = {
        stage.name: [c.teacher.checkpoint for c in changed.templates_of(stage) if c.teacher] for stage in changed.stages
    }
    assert used == {"student": [], "distill": ["a.pt"], "final": ["a.pt"], "other": ["c.pt"]}
    assert changed.stage("distill").grid == {"teacher.checkpoint": ("a.pt", "b.pt")}
    (line,) = kept_searches(spec, options.changes)
    assert line == (
        "--set teacher.checkpoint=c.pt: in stage other only; distill searches it, and final starts from what is found"
    )


@pytest.mark.parametrize(("given", "limit"), [(None, None), ("20GB", 20e9), ("1.5t", 1.5e12), ("300 MB", 3e8)])
def test_the_teachers_store_has_a_size(given: str | None, limit: float | None, tmp_path: Path) -> None:
    store = teacher_store(given, small(tmp_path))
    assert store is not None
    assert store.limit == limit


def test_the_teachers_store_is_off_or_a_size(tmp_path: Path) -> None:
    assert teacher_store("off", small(tmp_path)) is None
    with pytest.raises(UserError, match=r"--teacher-store lots: neither a size, e\.g\. 20GB, nor off"):
        teacher_store("lots", small(tmp_path))


def test_digests_are_those_of_every_term_of_the_study() -> None:
    """Once for each way in which a term is computed; a weight changes none."""
    pools = {"losses.pa": {"weight": 1.0}, "losses.ifv": {"weight": 0.0}, "losses.fitnet": {"weight": 1.0}}
    stages = [
        {"name": "distill", "set": PI | pools, "grid": {"losses.pa.pool": [0.25, 0.5], "losses.pa.weight": [1, 2]}},
    ]
    spec = StudySpec.model_validate({"name": "tiny", "base": BASE, "stages": stages})
    found = sorted(type(term).__name__ for term in digested_terms(spec))
    assert found == ["IntraClassVariation", "PairWise", "PairWise"]
