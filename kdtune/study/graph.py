"""What each stage of a study waits for, and the longest chain of them.

A stage waits for the stages that it starts from and for those that make weights that its trials load. A stage that
repeats several choices (``final``) waits for each start apart: the trials of a method can run once its own is decided.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from kdtune.study.spec import StudySpec
from kdtune.study.stage import Stage
from kdtune.study.trial_config import STAGE_REFERENCE, TrialConfig

BASE = "base"  # what a stage starts from that names no other


@dataclass(frozen=True)
class Waits:
    """A stage among the others."""

    name: str
    starts: Mapping[str, frozenset[str]]  # start -> the stages that must be decided before its trials can run
    trials: int  # at most
    steps: int  # of each

    @property
    def stages(self) -> frozenset[str]:
        """All that must be decided before its last trial can run."""
        return frozenset().union(*self.starts.values())


@dataclass(frozen=True)
class Chain:
    """Stages of which each waits for the one before."""

    stages: tuple[str, ...]
    steps: int  # that follow each other, if so many trials run at once as were asked for


def graph(study: StudySpec, stages: Sequence[Stage], running: Sequence[str] = ()) -> dict[str, Waits]:
    """What each of these stages waits for, in their order.

    Args:
        study: to which they belong.
        stages: the study's, a given teacher's evaluation among them.
        running: those that a launch runs; what it does not run is decided already, or never. None: all.
    """
    templates = study.templates()
    names = {stage.name for stage in stages if not running or stage.name in running}
    found = {}
    for stage in (stage for stage in stages if stage.name in names):
        starts = {
            start: frozenset({start} | _makers(config)) & names for start, config in _templates(study, stage).items()
        }
        template = templates.get(stage.name)
        steps = template.recipe.num_steps if template else 0  # a given teacher is evaluated alone
        found[stage.name] = Waits(stage.name, starts, study.num_trials(stage), steps)
    return found


def _templates(study: StudySpec, stage: Stage) -> dict[str, TrialConfig]:
    changes = {**stage.set, **stage.first_point}
    return {start: config.replace(changes) for start, config in study.template_starts(stage).items()}


def _makers(config: TrialConfig) -> set[str]:
    """The stages whose weights a trial loads."""
    references = config.checkpoints().values()
    return {ref.removeprefix(STAGE_REFERENCE) for ref in references if ref.startswith(STAGE_REFERENCE)}


def chains(waits: Mapping[str, Waits], at_once: int) -> dict[str, Chain]:
    """The longest chain that begins with each stage, if so many trials run at once and no other stage is in the way.

    Its steps say how urgent the stage is: what the longest chain waits for comes first.
    """
    found: dict[str, Chain] = {}
    for name in reversed(list(waits)):  # a stage stands behind all that it waits for
        after = [found[other] for other, each in waits.items() if name in each.stages]
        longest = max(after, key=lambda chain: chain.steps, default=Chain((), 0))
        own = math.ceil(waits[name].trials / at_once) * max(1, waits[name].steps)
        found[name] = Chain((name, *longest.stages), own + longest.steps)
    return found


def told(waits: Mapping[str, Waits], at_once: int) -> list[str]:
    """The graph as lines of text, and its longest chain."""
    lines = []
    for name, each in waits.items():
        apart = len(set(each.starts.values())) > 1
        when = f"each method after its own start ({', '.join(each.starts)})" if apart else _after(_direct(each, waits))
        lines.append(f"  {name}: {when}")
    longest = max(chains(waits, at_once).values(), key=lambda chain: chain.steps, default=None)
    if longest is not None and len(longest.stages) > 1:
        lines.append(f"  longest chain, with {at_once} at once: {' > '.join(longest.stages)}, {longest.steps:,} steps")
    return lines


def _direct(each: Waits, waits: Mapping[str, Waits]) -> frozenset[str]:
    """What a stage waits for, without what those wait for anyway."""
    return each.stages - frozenset().union(*(waits[name].stages for name in each.stages))


def _after(stages: frozenset[str]) -> str:
    return f"after {', '.join(sorted(stages))}" if stages else "at once"
