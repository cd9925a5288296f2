"""A teacher that is given as a file: not trained but evaluated, before the first stage that needs it."""

from kdtune.study.names import TEACHER
from kdtune.study.spec import StudySpec
from kdtune.study.stage import Stage
from kdtune.study.trial_config import STAGE_REFERENCE, TrialConfig, WarmStart


def stages_to_run(study: StudySpec) -> list[Stage]:
    """The study's stages; with a given teacher, its evaluation in the place of the stage that would train it."""
    given = _given_teachers(study)
    if not given:
        return list(study.stages)
    teacher = given[0].teacher
    assert teacher is not None
    # never used as the start of a stage: evaluating is a trial of no steps that starts from all of the weights
    evaluation = Stage(
        name=TEACHER,
        set={
            "student": teacher.model.model_dump(mode="json") | {"init": "random"},
            "warm_start": WarmStart(checkpoint=teacher.checkpoint, part="all").model_dump(),
            "teacher": None,
            "losses": {"ce": {"weight": 1.0}},
            "recipe.num_steps": 0,
        },
        scheduler="none",
    )
    others = [stage for stage in study.stages if stage.name != TEACHER]
    templates = study.templates()
    first = next(i for i, stage in enumerate(others) if templates[stage.name].uses_teacher)
    return [*others[:first], evaluation, *others[first:]]


def _given_teachers(study: StudySpec) -> list[TrialConfig]:
    """Templates of stages whose teacher is a file, not the work of another stage."""
    return [
        config
        for config in study.templates().values()
        if config.uses_teacher and config.teacher and not config.teacher.checkpoint.startswith(STAGE_REFERENCE)
    ]
