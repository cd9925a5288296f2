"""How a launch departs from its file: ``--teacher`` follows the rules of ``--set``, which it is short for."""

from pathlib import Path

from kdtune.search.options import Options, adjusted
from kdtune.study.settings import kept_searches
from tests.support.small_study import small


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
