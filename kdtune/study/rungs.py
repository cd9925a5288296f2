"""Where the trials of a stage pause to be judged together."""

from kdtune.study.schedulers import SuccessiveHalving
from kdtune.study.spec import StudySpec
from kdtune.study.stage import Stage


def successive_halving(study: StudySpec, stage: Stage) -> SuccessiveHalving:
    """The rungs of a stage whose scheduler is ``halving``: its own, else the study's."""
    given = (stage.scheduler, study.scheduler)
    return next((each for each in given if isinstance(each, SuccessiveHalving)), SuccessiveHalving())


def rungs_of(study: StudySpec, stage: Stage) -> tuple[int, ...]:
    """The steps of its rungs; none under another scheduler, nor for a trial that has no other beside it."""
    template = study.templates().get(stage.name)
    if template is None or study.scheduler_of(stage) != "halving" or study.num_trials(stage) < 2:
        return ()
    return successive_halving(study, stage).steps(template.recipe.num_steps)
