"""A study: its stages in order, and every value of every stage tried before anything is launched.

Nothing here reads files of data or weights; ``file`` turns YAML into a ``StudySpec``.
"""

import contextlib
import functools
import itertools
import math
import operator
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Self

from pydantic import (
    AfterValidator,
    Field,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    model_validator,
)

from kdtune.base import Config, Seed, error_at
from kdtune.study.faults import told
from kdtune.study.holdout import VAL, SelectOn, is_val, with_holdout
from kdtune.study.names import LONGER, STUDY_NAME
from kdtune.study.own_seeds import with_own_seeds
from kdtune.study.schedulers import Halving, Scheduler, SchedulerName, scheduler_name
from kdtune.study.shared_seeds import shared_seeds
from kdtune.study.stage import Stage
from kdtune.study.stage_names import wrong_names
from kdtune.study.trial_config import STAGE_REFERENCE, TrialConfig, Value
from kdtune.study.widening import all_beyond
from kdtune.text import did_you_mean

REST = 0.01  # of a GPU that shares of two digits may leave over


def _whole_shares(gpus: float) -> float:
    """GPUs are whole, or one is divided among 1/gpus trials."""
    if gpus >= 1:
        if gpus != int(gpus):
            raise ValueError(f"whole GPUs or a share of one, got {gpus:g}: give {int(gpus)} or {int(gpus) + 1}")
        return gpus
    trials = int(1 / gpus + 1e-9)
    if 1 / trials - gpus > REST:
        shares = " or ".join(f"{math.floor(100 / n) / 100:g}" for n in (trials + 1, trials))
        rest = 100 * (1 - trials * gpus)
        raise ValueError(f"{trials} x {gpus:g} leaves {rest:.0f} % of a GPU unused: give {shares}")
    return gpus


WEIGHED = ("teacher", "warm_start")  # the parts of a configuration that hold a checkpoint


class StudySpec(Config):
    """A study: what every trial shares, and the stages in the order in which they run."""

    name: Annotated[str, Field(pattern=rf"^{STUDY_NAME}$")]
    description: str = ""
    needs_gpu: bool = False  # launch says so before the first step where there is none
    seed: Seed = 0  # shuffles the grids, draws the samples
    scheduler: Scheduler = "asha"  # of the stages of one seed
    halving: Halving = Halving()
    # on which images the best is chosen, see ``kdtune.study.holdout``
    select_on: SelectOn = Field(default=VAL, exclude_if=is_val)
    gpus_per_trial: Annotated[PositiveFloat, AfterValidator(_whole_shares)] = 1.0  # GPUs, or the share of one
    max_concurrent: PositiveInt | None = None  # trials at once; null: one per GPU (share), or up to 8 per processor
    # of each trial's computation; null: decided where the study first starts. Left out of what is written where null
    threads: PositiveInt | None = Field(default=None, exclude_if=operator.not_)
    stall_after: PositiveFloat | None = 120.0  # seconds without a sign of life before a trial counts as stalled
    country_iso_code: Annotated[str, Field(pattern="^[A-Z]{3}$")] = "DEU"  # whose electricity is used
    base: TrialConfig
    stages: Annotated[tuple[Stage, ...], Field(min_length=1)]

    _repeats_have_seeds = model_validator(mode="before")(staticmethod(with_own_seeds))
    _trials_know_the_holdout = model_validator(mode="before")(staticmethod(with_holdout))

    @model_validator(mode="after")
    def _stages_fit(self) -> Self:
        details = []
        for key, own in (("threads", None), ("select_on", self.select_on), ("evaluated_on", VAL)):
            if getattr(self.base, key) != own:
                one = "one number" if key == "threads" else "one"
                message = f"is {one} for the whole study: it stands beside name and stages"
                details.append(error_at(("base", key), message, getattr(self.base, key)))
        named = [*wrong_names([stage.model_dump() for stage in self.stages])]
        details += [*named, *self._bad_points()]
        if not named:
            details += [*_unknown_sizes(self), *shared_seeds(self)]
        if details or (details := [*_unlike_lengths(self)]):
            raise ValidationError.from_exception_data("study", details)
        return self

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """A copy with other values; its templates are made anew."""
        copied = super().model_copy(update=update, deep=deep)
        copied.__dict__.pop("_templates", None)
        return copied

    def stage(self, name: str) -> Stage:
        """The stage of that name.

        Raises:
            KeyError: there is none.
        """
        return next(stage for stage in self.stages if stage.name == name)

    def ancestors(self, stage: Stage) -> set[str]:
        """The names of all stages whose choices lead to this one."""
        found: set[str] = set()
        waiting = [*stage.start_from]
        while waiting:
            name = waiting.pop()
            if name not in found:
                found.add(name)
                waiting += self.stage(name).start_from
        return found

    def scheduler_of(self, stage: Stage) -> SchedulerName:
        """Early stopping of a stage.

        None with several seeds, for their mean would compare unlike runs; none where nothing is chosen, for a method
        that was stopped would be missing from the comparison.
        """
        return scheduler_name("none" if len(stage.seeds) > 1 or stage.repeats else stage.scheduler or self.scheduler)

    def _bad_points(self) -> Iterator[Any]:
        """Every value of every stage is tried on a template of each of its starts before anything is launched.

        What starts from a stage that has no template for its faults is not judged: it would be blamed for them. Of what
        starts from a stage that is not there, the recipe's values are, which hang on no start.
        """
        templates: dict[str, TrialConfig] = {}
        names = [stage.name for stage in self.stages]
        for i, stage in enumerate(self.stages):
            if not templates.keys() >= set(stage.start_from):
                if not set(stage.start_from) <= set(names):
                    yield from itertools.islice(self._faults(i, stage, self.base, only="recipe"), 1)
                continue
            starts = [templates[name] for name in stage.start_from] or [self.base]
            fault = next((fault for start in starts for fault in self._faults(i, stage, start)), None)
            with contextlib.suppress(ValidationError):
                templates[stage.name] = starts[0].replace({**stage.set, **stage.first_point})
                if len({*names}) == len(names):  # else one of those of the same name may be meant
                    fault = fault or self._no_such_maker(i, stage, templates)
                fault = fault or _not_alone(i, stage, templates)
                if names.count(stage.name) > 1:
                    del templates[stage.name]  # which of the two is meant is not known
            if fault is not None:
                yield fault

    def _faults(self, i: int, stage: Stage, start: TrialConfig, only: str | None = None) -> Iterator[Any]:
        first = stage.first_point
        trials: list[tuple[tuple[str | int, ...], dict[str, Value]]] = [((), first)]
        for path, values in stage.grid.items():
            trials += [(("grid", path, j), {**first, path: value}) for j, value in enumerate(values)]
        for path, axis in stage.ranges.items():  # a value between the ends shows a field of whole numbers
            trials += [(("ranges", path), {**first, path: axis.at(share)}) for share in (1.0, 0.381966)]
        trials += [(("together", j), {**first, **entry}) for j, entry in enumerate(stage.together)]
        trials += [(("extend",), {**first, **entry}) for entry in all_beyond(stage.one_axis, stage.extend)]
        for where, point in trials:
            try:
                start.replace({**stage.set, **point})
            except ValidationError as error:
                found = [each for each in error.errors() if only in (None, each["loc"][0] if each["loc"] else "")]
                if found:
                    yield _blame(i, stage, where, found[0])

    def _no_such_maker(self, i: int, stage: Stage, templates: Mapping[str, TrialConfig]) -> Any:
        """An error if this stage brings in a checkpoint that no earlier stage makes."""
        earlier = [each.name for each in self.stages[:i]]
        judged = [templates[name] for name in earlier if name in templates]
        inherited = [reference for template in judged for reference in template.checkpoints().values()]
        for path, reference in templates[stage.name].checkpoints().items():
            name = reference.removeprefix(STAGE_REFERENCE)
            if reference.startswith(STAGE_REFERENCE) and name not in earlier and reference not in inherited:
                known = ", ".join(earlier) or "none, it is the first"
                message = f"is made by unknown stage '{name}'{did_you_mean(name, earlier)}; earlier stages: {known}"
                return error_at(_source(i, stage, path), f"{path} {message}", reference)
        return None

    def templates(self) -> dict[str, TrialConfig]:
        """One configuration per stage, as it would be if the first value of every grid were the best."""
        return dict(self._templates)

    @functools.cached_property
    def _templates(self) -> dict[str, TrialConfig]:
        made: dict[str, TrialConfig] = {}
        for stage in self.stages:
            start = made[stage.start_from[0]] if stage.start_from else self.with_threads(self.base)
            made[stage.name] = start.replace({**stage.set, **stage.first_point})
        return made

    def templates_of(self, stage: Stage) -> list[TrialConfig]:
        """The stage's template for each of its starts."""
        changes = {**stage.set, **stage.first_point}
        return [start.replace(changes) for start in self.template_starts(stage).values()]

    def loading(self, stage: Stage) -> list[TrialConfig]:
        """The stage's templates, and one more for every value of its axes that may name a file of weights."""
        made = self.templates_of(stage)
        axes = {p: v for p, v in stage.grid.items() if p.split(".")[0] in WEIGHED or p in ("student", "student.init")}
        return [*made, *(t.replace({path: value}) for t in made for path, values in axes.items() for value in values)]

    def template_starts(self, stage: Stage) -> dict[str, TrialConfig]:
        """What a stage would start from, for counting trials before any has run."""
        made = self.templates()
        return {name: made[name] for name in stage.start_from} or {"base": self.with_threads(self.base)}

    @property
    def builders(self) -> list[str]:
        """The functions of other packages that its networks are built by: code that it runs."""
        return sorted({name for stage in self.stages for config in self.loading(stage) for name in config.builders})

    def num_trials(self, stage: Stage) -> int:
        """Of a stage, before any has run; at most, where a search draws them."""
        if stage.search != "random":
            return stage.most_trials
        return len(stage.points(list(self.template_starts(stage)), self.seed))

    def with_threads(self, config: TrialConfig) -> TrialConfig:
        """The configuration with this study's number of threads, which is part of what each of its trials is."""
        return config if config.threads == self.threads else config.replace({"threads": self.threads})


def _unknown_sizes(study: StudySpec) -> Iterator[Any]:
    """Who is judged together must be known before the first of them is."""
    for i, stage in enumerate(study.stages):
        if stage.search == "tpe" and study.scheduler_of(stage) == "halving":
            message = "tpe draws a point when another has ended, and halving judges all of them at once: give asha"
            yield error_at(("stages", i, "scheduler"), message, stage.scheduler or study.scheduler)


def _unlike_lengths(study: StudySpec) -> Iterator[Any]:
    """Trials that end by a budget have different numbers of steps: at one step they are not equally far."""
    templates = study.templates()
    for i, stage in enumerate(study.stages):
        if templates[stage.name].recipe.budget and study.scheduler_of(stage) != "none":
            message = (
                "trials of a budget are of different lengths, and early stopping compares them by steps: give none"
            )
            yield error_at(("stages", i, "scheduler"), message, stage.scheduler or study.scheduler)


def _not_alone(i: int, stage: Stage, templates: Mapping[str, TrialConfig]) -> Any:
    """An error if what a stage trains longer is not a student alone."""
    if stage.longer is not None:
        try:
            templates[stage.longer].replace({**stage.set, "variant": LONGER})
        except ValidationError as error:
            return error_at(("stages", i, "longer"), told(error.errors()[0]), stage.longer)
    return None


def _blame(i: int, stage: Stage, where: tuple[str | int, ...], first: Mapping[str, Any]) -> Any:
    """The line of a stage that made a configuration invalid: the grid's value, the ``set`` entry, or the stage."""
    path = ".".join(str(part) for part in first["loc"])
    loc = ("stages", i, *where) if where else _source(i, stage, path)
    named = not path or path in loc  # by the line's own path
    return error_at(loc, told(first) if named else f"{path}: {told(first)}", first["input"])


def _source(i: int, stage: Stage, path: str) -> tuple[str | int, ...]:
    """Where a stage gives what stands at a path of its configurations: in its grid, ranges or ``set``, or nowhere."""
    for section in ("grid", "ranges", "set"):
        for key in getattr(stage, section):
            if path and (path == key or path.startswith(key + ".") or key.startswith(path + ".")):
                return ("stages", i, section, key)
    return ("stages", i)
