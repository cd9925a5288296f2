"""What each stage of a study waits for, and the longest chain of stages.

A stage waits for the stages that it starts from, for those that make weights that its trials load, and for those that
its ``when`` compares. One that starts from several waits for each apart: its trials from one of them can run as soon as
that one is decided.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from kdtune.study.spec import StudySpec
from kdtune.study.stage import Stage
from kdtune.study.trial_config import STAGE_REFERENCE, TrialConfig


@dataclass(frozen=True)
class Waits:
    """A stage among the others."""

    name: str
    starts: Mapping[str, frozenset[str]]  # start -> the stages that must be decided before its trials can run
    trials: int  # at most, without those that follow
    steps: int  # of each
    following: int = 0  # trials that wait for all its others: of the student that is trained longer

    @property
    def stages(self) -> frozenset[str]:
        """All that must be decided before its last trial can run."""
        return frozenset().union(*self.starts.values())

    def blocked_by(self, decided: Collection[str]) -> frozenset[str]:
        """Those of them that are not decided yet."""
        return self.stages.difference(decided)


@dataclass(frozen=True)
class Chain:
    """Stages of which each waits for the one before."""

    stages: tuple[str, ...]
    steps: int  # that follow each other


def graph(study: StudySpec, stages: Sequence[Stage]) -> dict[str, Waits]:
    """What each of these stages waits for, in their order.

    ``stages``: the study's, or those of them that are looked at; a given teacher's evaluation may be among them. What
    is not among them is waited for by none.
    """
    templates = study.templates()
    names = {stage.name for stage in stages}
    found = {}
    for stage in stages:
        compared = {stage.when.stage, stage.when.beats} if stage.when else set()
        needed = {start: {start, *_makers(config), *compared} for start, config in _templates(study, stage).items()}
        starts = {start: names & each for start, each in needed.items()}
        template = templates.get(stage.name)
        steps = template.recipe.num_steps if template else 0  # a given teacher is evaluated alone
        frozen = {start: frozenset(each) for start, each in starts.items()}
        following = len(stage.seeds) if stage.longer else 0
        found[stage.name] = Waits(stage.name, frozen, study.num_trials(stage) - following, steps, following)
    return found


def _templates(study: StudySpec, stage: Stage) -> dict[str, TrialConfig]:
    changes = {**stage.set, **stage.first_point}
    return {start: config.replace(changes) for start, config in study.template_starts(stage).items()}


def _makers(config: TrialConfig) -> set[str]:
    """The stages whose weights a trial loads."""
    references = config.checkpoints().values()
    return {ref.removeprefix(STAGE_REFERENCE) for ref in references if ref.startswith(STAGE_REFERENCE)}


def chains(waits: Mapping[str, Waits], at_once: int | None = None) -> dict[str, Chain]:
    """The longest chain that begins with each stage, if no other stage were in its way.

    ``at_once``: trials that run at once; none: as many as there are. Its steps say how urgent a stage is.
    """
    found: dict[str, Chain] = {}
    for name in reversed(list(waits)):  # a stage stands behind all that it waits for
        each = waits[name]
        own = _steps(each, len(each.starts), at_once) + _rounds(each.following, each, at_once)
        behind = [other for other in waits if other in found and name in waits[other].stages]
        after = [_begun_by(name, waits[other], found[other], at_once) for other in behind]
        longest = max(after, key=lambda chain: chain.steps, default=Chain((), 0))
        found[name] = Chain((name, *longest.stages), own + longest.steps)
    return found


def _begun_by(name: str, other: Waits, whole: Chain, at_once: int | None) -> Chain:
    """The chain of another stage, without those of its trials that do not wait for the stage of this name."""
    starts = sum(name in needed for needed in other.starts.values())
    spared = _steps(other, len(other.starts), at_once) - _steps(other, starts, at_once)
    return Chain(whole.stages, whole.steps - spared)


def _steps(stage: Waits, starts: int, at_once: int | None) -> int:
    """Steps that follow each other when the trials from so many of a stage's starts run."""
    return _rounds(stage.trials * starts // len(stage.starts), stage, at_once)


def _rounds(trials: int, stage: Waits, at_once: int | None) -> int:
    return math.ceil(trials / (at_once or max(1, trials))) * max(1, stage.steps)


def told(waits: Mapping[str, Waits], at_once: int | None = None) -> list[str]:
    """The graph as lines of text: one for all stages that wait for the same, and the longest chain; or none.

    A line may be long: whoever prints it breaks it.
    """
    alike: dict[str, list[str]] = {}
    for name, each in waits.items():
        if each.stages:
            apart = " (each start apart)" if len({*each.starts.values()}) > 1 else ""
            alike.setdefault(f"{', '.join(_direct(each, waits))}{apart}", []).append(name)
    if not alike:
        return []
    longest = max(chains(waits, at_once).values(), key=lambda chain: chain.steps)
    how = f"{at_once} at once" if at_once else "if all that can run at once do"
    chain = f"longest chain, {how}: {' > '.join(longest.stages)}, {longest.steps:,} steps"
    lines = [f"{', '.join(names)} wait{'s' * (len(names) == 1)} for {what}" for what, names in alike.items()]
    lines += [f"{name}'s longer student waits for all others of it" for name, each in waits.items() if each.following]
    return [*lines, chain]


def _direct(each: Waits, waits: Mapping[str, Waits]) -> list[str]:
    """What a stage waits for, in the study's order, without what those wait for anyway."""
    behind = frozenset[str]().union(*(_behind(name, waits) for name in each.stages))
    return [name for name in waits if name in each.stages - behind]


def _behind(name: str, waits: Mapping[str, Waits]) -> frozenset[str]:
    """All that must be decided before a stage can be."""
    direct = waits[name].stages
    return direct.union(*(_behind(other, waits) for other in direct))
