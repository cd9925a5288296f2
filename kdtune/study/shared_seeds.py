"""Which seeds a stage may have: the best of several runs is biased upwards, so what repeats a choice has others."""

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from kdtune.base import error_at
from kdtune.study.names import FINAL
from kdtune.study.trial_config import STAGE_REFERENCE

if TYPE_CHECKING:
    from kdtune.study.spec import StudySpec
    from kdtune.study.stage import Stage


def shared_seeds(study: "StudySpec") -> Iterator[Any]:
    """The best of several runs is biased upwards: a stage that repeats a choice must not reuse its seeds."""
    for i, stage in enumerate(study.stages):
        if stage.name == FINAL and stage.axes:
            section = next(name for name in ("grid", "ranges", "together") if getattr(stage, name))
            message = (
                f"stage '{FINAL}' compares choices on seeds that made none, so it cannot search itself: give the "
                "search a stage of its own, with other seeds, and name that in start_from"
            )
            yield error_at(("stages", i, section), message, list(getattr(stage, section)))
        before = sorted(_choices_before(study, stage)) if stage.repeats else []
        sharing = [(name, seed) for name in before for seed in stage.seeds if seed in study.stage(name).seeds]
        if sharing:
            named = " and ".join(f"'{name}'" for name in dict(sharing))
            message = f"shares seed {sharing[0][1]} with stage {named}, whose choice it repeats; take other seeds"
            yield error_at(("stages", i, "seeds"), message, list(stage.seeds))


def _choices_before(study: "StudySpec", stage: "Stage") -> set[str]:
    """The stages whose choices a stage repeats: its ancestors, and those behind the weights that any of them loads.

    A stage that makes weights in a single run has chosen nothing, and may have any seed.
    """
    makers = _choosing_makers(study)
    chain, seen, found = [stage.name], set[str](), set[str]()
    while chain:
        name = chain.pop()
        if name not in seen:
            seen.add(name)
            loaded = _makers(study, study.stage(name)) & makers.keys() if makers else set()
            direct = study.stage(name).start_from
            found |= {*direct, *(maker for maker in loaded if makers[maker])}
            chain += [*direct, *loaded]
    return found - {stage.name}


def _choosing_makers(study: "StudySpec") -> dict[str, bool]:
    """The stages that make weights and come from a choice, each with whether it chooses itself."""
    words = str((study.base, [(stage.set, stage.grid) for stage in study.stages]))
    named = [stage for stage in study.stages if f"{STAGE_REFERENCE}{stage.name}" in words]
    chosen = {stage.name: len(stage.points(["start"], study.seed)) > 1 for stage in named}
    return {stage.name: chosen[stage.name] for stage in named if chosen[stage.name] or stage.start_from}


def _makers(study: "StudySpec", stage: "Stage") -> set[str]:
    """The stages whose weights a stage loads; none of a stage that has a fault, which is told elsewhere."""
    with contextlib.suppress(ValidationError):
        references = [ref for config in study.loading(stage) for ref in config.checkpoints().values()]
        return {ref.removeprefix(STAGE_REFERENCE) for ref in references if ref.startswith(STAGE_REFERENCE)}
    return set()
