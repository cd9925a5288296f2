"""Studies in every state that they can be in: how far each stage is, and what has become of each method of ``final``.

Trials, plans and tables are those of a real study; measurements are made up, and no trial is run.
"""

import functools
import itertools
import random
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass

from kdtune.records.storage import Record, Storage
from kdtune.records.trial_record import Planned
from kdtune.study.spec import StudySpec
from tests.support import report_study

NAME = "cityscapes-resnet"  # of which the paper prints tables, to be set beside
SEARCHES = ("student", "distill", "temperature", "weight-pa")
STARTS = ("student", "temperature", "weight-pa")  # of the comparison
STAGES = (*SEARCHES, "final", "initialization")
METHODS = ("student", "pi", "pi+pa")
SEEDS = (11, 12, 13)
PROGRESS = ("nothing", "some", "all")
LEVELS = {"student": 40.0, "pi": 41.0, "pi+pa": 41.5}  # mIoU [percent]
SCATTER = {"student": 1.0, "pi": 0.6, "pi+pa": -0.7}  # what the fates' deviations are multiplied by
FATES = {  # of a method's seeds: their mIoU above its level [points]; a word: how it ended; none: not run (yet)
    "ended": (0.31, -0.24, 0.07),
    "no seed": (None, None, None),
    "one seed": (0.31, None, None),
    "two seeds": (0.31, -0.24, None),
    "failed": ("failed", "failed", "failed"),
    "diverged once": (0.31, "diverged", 0.07),
    "stopped once": ("stopped", -0.24, 0.07),
    "without variance": (0.25, 0.25, 0.25),
    "tied": ("tied", "tied", "tied"),  # with every other tied method
}
TIES = (42.5, 41.75, 42.0)
Fate = Sequence[float | str | None]


@dataclass(frozen=True)
class State:
    """How far each stage is; of ``final``, where it is none, what has become of each method."""

    progress: Mapping[str, str]
    fates: Mapping[str, str] | None = None

    def __str__(self) -> str:
        if self.fates is not None:
            return ", ".join(f"{method} {fate}" for method, fate in self.fates.items())
        return ", ".join(f"{stage} {done}" for stage, done in self.progress.items())


def all_states() -> list[State]:
    """Every combination of the stages' progress, and of the methods' fates."""
    found = [State(dict(zip(STAGES, done, strict=True))) for done in itertools.product(PROGRESS, repeat=len(STAGES))]
    fates = itertools.product(FATES, repeat=len(METHODS))
    return [*found, *(_fated(words) for words in fates)]


def pairs() -> list[State]:
    """Few of them, in which any two stages are in each two states of progress, any two methods have any two fates."""
    found = []
    for a, b, c in itertools.product(range(3), repeat=3):
        levels = (a, b, c, (a + b + c) % 3, (a + 2 * b) % 3, (a + 2 * c) % 3)
        found.append(State({stage: PROGRESS[at] for stage, at in zip(STAGES, levels, strict=True)}))
    words = list(FATES)
    chosen = [(a, b, words[(i + j) % len(words)]) for (i, a), (j, b) in itertools.product(enumerate(words), repeat=2)]
    return [*found, *map(_fated, chosen)]


def _fated(words: Sequence[str]) -> State:
    done = dict.fromkeys(SEARCHES, "all") | {"final": "as below", "initialization": "nothing"}
    return State(done, dict(zip(METHODS, words, strict=True)))


@functools.cache
def study() -> StudySpec:
    """Four searches over a grid of two, the comparison of their winners, and one of initial weights."""
    base = report_study.demo().base.replace({"warm_start": None}).model_dump(mode="json")
    teacher = {"model": base["student"], "checkpoint": "stage:teacher"}
    taught = {"teacher": teacher, "losses.pi": {"weight": 1.0, "temperature": 1.0}}
    grid = {"recipe.lr": [0.1, 0.2]}
    stages = [
        {"name": "teacher"},
        {"name": "student", "grid": grid},
        {"name": "distill", "set": taught, "grid": grid},
        {"name": "temperature", "start_from": ["distill"], "seeds": [1, 2], "grid": {"losses.pi.temperature": [1, 2]}},
        {"name": "weight-pa", "start_from": ["temperature"], "grid": {"losses.pa.weight": [0.1, 1.0]}},
        {"name": "final", "start_from": list(STARTS), "seeds": list(SEEDS)},
        {"name": "initialization", "start_from": ["student", "distill"], "seeds": [21, 22]},
    ]
    return StudySpec.model_validate({"name": NAME, "base": base, "stages": stages})


@functools.cache
def trials() -> dict[str, list[Planned]]:
    """Stage -> its trials, around the first configuration that its starts could choose."""
    return {stage.name: report_study.planned(study(), stage.name) for stage in study().stages}


@functools.cache
def _ended(stage: str, i: int, status: str) -> Record:
    return report_study.ended(trials()[stage][i], 2, random.Random(f"{stage}-{i}"), status=status)


def _record(stage: str, i: int, status: str = "completed", miou: float | None = None) -> Record:
    record = deepcopy(_ended(stage, i, status))
    if miou is not None:
        record["row"] |= {"miou": miou, "miou_best": miou}
        record["history"][-1]["miou"] = miou
    return record


def _records(state: State) -> Iterator[Record]:
    yield _record("teacher", 0)
    for stage, done in state.progress.items():
        count = {"nothing": 0, "some": 1, "all": len(trials()[stage])}.get(done, 0)
        yield from (_record(stage, i) for i in range(count))
    for i, trial in enumerate(trials()["final"] if state.fates is not None else ()):
        assert state.fates is not None
        method, seed = trial.config.method, SEEDS.index(trial.config.seed)
        outcome = FATES[state.fates[method]][seed]
        if isinstance(outcome, float):
            yield _record("final", i, miou=LEVELS[method] + SCATTER[method] * outcome)
        elif outcome == "tied":
            yield _record("final", i, miou=TIES[seed])
        elif outcome is not None:
            yield _record("final", i, str(outcome))


def write(storage: Storage, state: State) -> None:
    """A study in that state, as a launch leaves it."""
    plan = {stage: [trial.trial_id for trial in planned] for stage, planned in trials().items()}
    report_study.save(storage, study(), plan, list(_records(state)))
