"""A stage: the points that it tries, from a grid, from ranges or by a search that draws them."""

import functools
import itertools
import json
import math
import operator
import random
import sys
from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import (
    Field,
    NonNegativeInt,
    PositiveInt,
    ValidationError,
    model_validator,
)

from kdtune.base import Config, Seed, error_at
from kdtune.study.budget import Budget, as_changes
from kdtune.study.condition import When
from kdtune.study.names import MOST_TRIALS
from kdtune.study.schedulers import Scheduler
from kdtune.study.trial_config import TrialConfig, Value
from kdtune.study.widening import Entry, axis

SearchName = Literal["grid", "random", "tpe"]

TRIES = 20  # draws per wanted sample, where points may repeat


class Range(Config):
    """A continuous axis, for random search and TPE."""

    low: float
    high: float
    log: bool = False

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if not self.low < self.high or (self.log and self.low <= 0):
            raise ValueError(f"low < high must hold, and low > 0 if log, got low={self.low}, high={self.high}")
        return self

    def at(self, share: float) -> float:
        """The value at a share (0 to 1) of the way from low to high."""
        if self.log:
            return math.exp(math.log(self.low) + share * (math.log(self.high) - math.log(self.low)))
        return self.low + share * (self.high - self.low)


class Stage(Config):
    """A grid (or ranges) around one or several starting configurations, run as one experiment."""

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9]*(-[a-z0-9]+)*$")]
    start_from: tuple[str, ...] = ()  # earlier stages; their best configurations are varied. Empty: the base
    set: dict[str, Value] = {}  # fixed changes: dotted path -> value
    grid: dict[str, tuple[Value, ...]] = {}  # dotted path -> values
    # values that change together, such as all weights by one factor: each entry, dotted path -> value, is combined with
    # every point of the grid. Left out of what is written where there are none
    together: tuple[dict[str, Value], ...] = Field(default=(), exclude_if=operator.not_)
    # how often its one axis is widened by a step, where its best lies at the border; see ``kdtune.study.widening``
    extend: NonNegativeInt = Field(default=0, exclude_if=operator.not_)
    budget: Budget | None = Field(default=None, exclude_if=operator.not_)  # of each trial; ``set`` gets what it means
    when: When | None = Field(default=None, exclude_if=operator.not_)  # else it is left out, see ``condition``
    # one of its starts, a student alone: when all others have ended it is trained as long as the dearest of them took
    longer: str | None = Field(default=None, exclude_if=operator.not_)
    ranges: dict[str, Range] = {}  # dotted path -> range
    search: SearchName = "grid"
    samples: PositiveInt | None = None  # number of trials of a random or TPE search
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1)] = (0,)
    # how many of them, the last ones, ``launch --seeds`` added. Left out of what is written where there are none
    added_seeds: NonNegativeInt = Field(default=0, exclude_if=operator.not_)
    scheduler: Scheduler | None = None  # null: the study's; see ``StudySpec.scheduler_of``
    labels: dict[str, str] = {}  # of the nodes that may run it, as Ray selects them: {ray.io/accelerator-type: H100}

    @model_validator(mode="before")
    @classmethod
    def _budget_is_set(cls, data: Any) -> Any:
        changes = as_changes(data.get("budget")) if isinstance(data, Mapping) else {}
        given = data.get("set", {}) if changes else None
        return {**data, "set": {**given, **changes}} if isinstance(given, dict) else data

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        details = [*self._bad_axes()]
        if details:
            raise ValidationError.from_exception_data("Stage", details)
        if len(set(self.seeds)) != len(self.seeds):
            raise ValueError(f"seeds must differ, got {list(self.seeds)}")
        if self.added_seeds >= len(self.seeds):
            raise ValueError(f"added_seeds: {self.added_seeds} of {len(self.seeds)} seeds leave none of its own")
        if self.scheduler not in (None, "none") and len(self.seeds) > 1:
            raise ValueError("a stage of several seeds runs without early stopping: scheduler must be none")
        if self.search != "grid" and self.together:
            raise ValueError(f"search: {self.search} cannot draw values that change together; leave out together")
        if self.search == "grid" and self.ranges:
            raise ValueError("ranges need search: random or tpe, with samples, here or as --search tpe --samples N")
        if self.search != "grid" and self.samples is None:
            raise ValueError(f"search: {self.search} needs samples, the number of trials")
        if self.search != "grid" and not (self.grid or self.ranges):
            raise ValueError(f"search: {self.search} needs a grid or ranges to draw from")
        _refuse_what_follows(self)
        if self.most_trials > MOST_TRIALS:
            raise ValueError(
                f"comes to {self.most_trials} trials, and a stage has at most {MOST_TRIALS}: give fewer values, or "
                "search: random with samples, or make several stages of it"
            )
        if self.search == "tpe" and len(self.seeds) > 1:
            raise ValueError("search: tpe takes one seed: its next point depends on the last results")
        if self.search == "tpe" and len(self.start_from) > 1:
            raise ValueError("search: tpe takes one stage to start from: give each its own stage")
        return self

    def _bad_axes(self) -> Iterator[Any]:
        for section in ("set", "grid", "ranges"):
            if "seed" in getattr(self, section):
                yield error_at((section, "seed"), "seeds stand in the stage's own list, e.g. seeds: [1, 2, 3]")
            for path, one in (("threads", "one number"), ("select_on", "one")):
                if path in getattr(self, section):
                    yield error_at((section, path), f"is {one} for the whole study: it stands beside its name")
        for path, values in self.grid.items():
            twice = list(_twice(values))
            if not values:
                yield error_at(("grid", path), "has no values; a grid needs at least one, e.g. [1, 2]")
            if twice:
                yield error_at(("grid", path), f"holds {twice[0]} twice")
            if path in self.ranges:
                yield error_at(("ranges", path), "is in the grid too; give values or a range, not both")
        for j, entry in enumerate(self.together):
            if not entry or entry.keys() != self.together[0].keys():
                yield error_at(("together", j), "each entry of together has the same paths, and at least one")
            for path in entry:
                if path in self.grid or path.split(".")[0] not in ("losses", "recipe"):
                    yield error_at(("together", j, path), "together holds paths of losses and recipe, none of the grid")

    @property
    def repeats(self) -> bool:
        """Whether it only runs its starts again (over other seeds), choosing nothing."""
        return bool(self.start_from) and not self.axes

    @property
    def one_axis(self) -> list[Entry]:
        """The points of its axis, if it has one alone and that is no range."""
        return axis(self.grid, self.together)

    @property
    def axes(self) -> tuple[str, ...]:
        """The dotted paths that it searches."""
        return (*self.grid, *self.ranges, *(self.together[0] if self.together else ()))

    @property
    def first_point(self) -> dict[str, Value]:
        """The first value of every axis."""
        lows = {path: axis.low for path, axis in self.ranges.items()}
        firsts = {path: values[0] for path, values in self.grid.items()}
        return firsts | lows | (self.together[0] if self.together else {})

    @property
    def most_trials(self) -> int:
        """Counted without listing any: of a grid exactly, of a search at most."""
        each = (max(1, len(self.start_from)) + bool(self.longer)) * len(self.seeds)
        if self.search != "grid":
            return each * (self.samples or 0)
        axes = {path: len(values) for path, values in self.grid.items()}
        weights = {*self.conditions.values()}
        points = math.prod(n for path, n in axes.items() if path not in self.conditions.keys() | weights)
        for weight in weights:
            dependent = math.prod(axes[path] for path, its in self.conditions.items() if its == weight)
            zero = 0 in self.grid[weight]
            points *= (axes[weight] - zero) * dependent + zero
        return each * points * max(1, len(self.together))

    def points(self, starts: Sequence[str], seed: int) -> list[dict[str, Value]]:
        """What varies, one mapping per trial, in the order of the file: start, grid, seed.

        Random points are a pure function of ``seed``: stages with the same axes try the same ones.
        """
        size = math.prod(len(values) for values in self.grid.values())
        generator = random.Random(seed)
        if self.search == "grid":
            drawn = (self._combination(i) | entry for i in range(size) for entry in self.together or ({},))
        elif not self.ranges:  # without repeats: a point drawn again would be a trial that has run
            wanted = (self.samples or 0) * (TRIES if self.conditions else 1)
            if size <= sys.maxsize:
                numbers = generator.sample(range(size), min(wanted, size))
            else:  # more than a range can have: none is drawn twice, in all likelihood
                numbers = [generator.randrange(size) for _ in range(wanted)]
            drawn = (self._combination(i) for i in numbers)
        else:
            drawn = (
                self._combination(generator.randrange(size))
                | {path: axis.at(generator.random()) for path, axis in self.ranges.items()}
                for _ in range(TRIES * (self.samples or 0))
            )
        distinct: dict[str, dict[str, Value]] = {}
        for combination in map(self.live, drawn):
            distinct.setdefault(json.dumps(combination, sort_keys=True, default=str), combination)
            if len(distinct) == self.samples and self.search != "grid":
                break
        return [
            {"start": start, **combination, "seed": s}
            for start, combination, s in itertools.product(starts, distinct.values(), self.seeds)
        ]

    @functools.cached_property
    def conditions(self) -> dict[str, str]:
        """Axis -> the axis of the weight that it needs above 0, such as a temperature and its term's weight."""
        axes = {*self.grid, *self.ranges}
        terms = {path: ".".join([*path.split(".")[:2], "weight"]) for path in axes if path.startswith("losses.")}
        return {path: weight for path, weight in terms.items() if weight in axes and weight != path}

    def live(self, point: Mapping[str, Value]) -> dict[str, Value]:
        """The point without the hyperparameters of terms whose weight in it is 0: they would change nothing."""
        dead = {path for path, weight in self.conditions.items() if point.get(weight) == 0}
        return {path: value for path, value in point.items() if path not in dead}

    def holds(self, point: Mapping[str, Value]) -> bool:
        """Whether its axes, as far as the point has them, allow the values there."""
        chosen = all(point[path] in values for path, values in self.grid.items() if path in point)
        ranges = {path: axis for path, axis in self.ranges.items() if path in point}
        return chosen and all(axis.low <= point[path] <= axis.high for path, axis in ranges.items())

    def _combination(self, index: int) -> dict[str, Value]:
        """The grid's point of that number; the last axis runs fastest."""
        chosen = {}
        for path, values in reversed(self.grid.items()):
            index, i = divmod(index, len(values))
            chosen[path] = values[i]
        return dict(reversed(chosen.items()))

    def distributions(self) -> dict[str, Any]:
        """The axes as Optuna's distributions; a weight comes before what depends on it."""
        from optuna.distributions import CategoricalDistribution, FloatDistribution

        choices = {path: CategoricalDistribution(values) for path, values in self.grid.items()}
        floats = {path: FloatDistribution(r.low, r.high, log=r.log) for path, r in self.ranges.items()}
        return dict(sorted({**choices, **floats}.items(), key=lambda item: item[0] in self.conditions))

    def config(self, starts: Mapping[str, TrialConfig], point: Mapping[str, Value]) -> TrialConfig:
        """One trial: the start, then ``set``, then the point."""
        changes = {path: value for path, value in point.items() if path != "start"}
        return starts[point["start"]].replace({**self.set, **changes})


def _refuse_what_follows(stage: Stage) -> None:
    """Trials that follow from what the others came to need a stage of their kind."""
    if stage.extend and (stage.search != "grid" or not stage.one_axis):
        raise ValueError("extend widens a grid of one axis, of two values or more: give it one, or leave extend out")
    if stage.extend and len(stage.start_from) > 1:
        raise ValueError("extend takes one stage to start from: give each its own stage")
    if stage.longer is not None and (stage.longer not in stage.start_from or not stage.repeats):
        raise ValueError(
            f"longer is one of the starts of a stage that repeats them, such as final; got '{stage.longer}', it starts "
            f"from {', '.join(stage.start_from) or 'none'}{', and searches' if stage.axes else ''}"
        )


def _twice(values: Sequence[Value]) -> Iterator[Value]:
    """The values that stand there before, too."""
    hashed: set[Value] = set()
    others: list[Value] = []  # lists and mappings
    for value in values:
        known = hashed if isinstance(value, Hashable) else others
        if value in known:
            yield value
        elif isinstance(value, Hashable):
            hashed.add(value)
        else:
            others.append(value)


def shuffled(items: Sequence[Any], *seed: int | str) -> list[Any]:
    """A copy in an order that only the seed decides: ASHA stops nothing when the worst come first."""
    copy = list(items)
    random.Random("/".join(map(str, seed))).shuffle(copy)
    return copy
