"""What a study is: stages of trials, each trial one complete, frozen configuration.

Nothing here reads files of data or weights; ``kdtune.study.file`` turns YAML into a ``StudySpec``.
"""

import copy
import functools
import hashlib
import itertools
import json
import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BeforeValidator,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    SerializeAsAny,
    ValidationError,
    model_validator,
)

from kdtune.base import Config, LossTerm, Model, SegmentationDataset, did_you_mean, error_at
from kdtune.datasets import DATASETS
from kdtune.losses import LOSSES
from kdtune.models import MODELS
from kdtune.models.external import ExternalModel
from kdtune.registry import Registry
from kdtune.study.names import STUDY_NAME as STUDY_NAME

STAGE_REFERENCE = "stage:"  # a checkpoint that a stage of the same study makes, e.g. "stage:teacher"

TEACHER = "teacher"  # the stage that trains the teacher, or whose row holds a given teacher's own mIoU

WEIGHED = ("teacher", "warm_start")  # the parts of a configuration that hold a checkpoint

Value = Any  # a hyperparameter's value: number, text, null, or a mapping for a whole part
SchedulerName = Literal["asha", "median", "none"]
SearchName = Literal["grid", "random", "tpe"]


def _by_name(registry: Registry, base: type[Config]) -> Callable[[Any], Any]:
    """A validator that makes the class which ``name`` stands for."""

    def validate(value: Any) -> Any:
        if isinstance(value, base):
            return value
        if not isinstance(value, dict) or not isinstance(value.get("name"), str):
            known = ", ".join(registry.names())
            raise ValueError(f"needs a mapping with a 'name', one of: {known}; got {value!r}")
        try:
            cls = registry.resolve(value["name"])
        except ValueError as error:
            details = [error_at(("name",), str(error), value["name"])]
            raise ValidationError.from_exception_data(base.__name__, details) from None
        return cls.model_validate(value)

    return validate


def _terms(value: Any) -> Any:
    """Loss terms by name; an error keeps the name of its term."""
    if not isinstance(value, dict):
        raise ValueError(f"needs a mapping of loss terms, of: {', '.join(LOSSES.names())}; got {value!r}")
    terms: dict[str, LossTerm] = {}
    details = []
    for name, given in value.items():
        try:
            terms[name] = given if isinstance(given, LossTerm) else LOSSES.resolve(name).model_validate(given)
        except ValidationError as error:
            details += [error_at((name, *e["loc"]), told(e), e["input"]) for e in error.errors()]
        except ValueError as error:
            details.append(error_at((name,), str(error), given))
    if details:
        raise ValidationError.from_exception_data("losses", details)
    own = [*LOSSES.table]  # not LOSSES.names(): that asks every installed package, thousands of times per study
    return dict(sorted(terms.items(), key=lambda item: (own.index(item[0]) if item[0] in own else len(own), item[0])))


AnyDataset = Annotated[SerializeAsAny[SegmentationDataset], BeforeValidator(_by_name(DATASETS, SegmentationDataset))]
AnyModel = Annotated[SerializeAsAny[Model], BeforeValidator(_by_name(MODELS, Model))]
AnyLosses = Annotated[dict[str, SerializeAsAny[LossTerm]], BeforeValidator(_terms)]


class Recipe(Config):
    """How a network is trained: SGD, polynomial decay of the rate, random scale, crop and flip."""

    lr: PositiveFloat  # mu(0), the rate before the first step
    weight_decay: NonNegativeFloat
    momentum: NonNegativeFloat = 0.9
    power: PositiveFloat = 0.9  # of the polynomial decay, equation 4
    num_steps: NonNegativeInt  # eta; 0 only evaluates
    batch_size: PositiveInt = 8
    crop: tuple[PositiveInt, PositiveInt] = (512, 512)  # height, width
    scale_min: PositiveFloat = 0.5
    scale_max: PositiveFloat = 2.1
    scale_step: PositiveFloat = 0.1
    flip: bool = True
    eval_every: PositiveInt | None = None  # steps; null: twenty evaluations per trial
    eval_batch_size: PositiveInt = 4
    eval_window: tuple[PositiveInt, PositiveInt] | None = None  # height, width of sliding tiles; null: whole images
    absent_classes: Literal["skip", "zero"] = "skip"  # absent from labels and predictions alike; SKD's code: zero
    bf16: bool = True  # autocast, where the device is a GPU
    channels_last: bool = True  # where the device is a GPU
    compile: bool = False  # torch.compile; worth it on a GPU, and made for one

    @model_validator(mode="after")
    def _scales(self) -> Self:
        if self.scale_max < self.scale_min:
            raise ValueError(f"scale_min <= scale_max must hold, got {self.scale_min} and {self.scale_max}")
        return self

    @property
    def evaluation_steps(self) -> tuple[int, ...]:
        """Steps after which a trial is evaluated; the last step is always among them."""
        every = self.eval_every or max(1, self.num_steps // 20)
        return tuple(sorted({*range(every, self.num_steps + 1, every), self.num_steps}))


class Teacher(Config):
    """The network that is distilled. Known by what its weights are, never by where they lie.

    ``checkpoint`` is ``stage:NAME`` (trained by that stage), a file or URI (``--teacher FILE``), or, once
    resolved, ``trial:ID`` or ``sha256:HEX``.
    """

    model: AnyModel
    checkpoint: str


class WarmStart(Config):
    """Weights that the student starts from, in the place of its own initialisation."""

    checkpoint: str  # as in ``Teacher``
    part: Literal["backbone", "all"] = "backbone"


class TrialConfig(Config):
    """One training run, completely. Equal configs with equal seeds are the same run."""

    dataset: AnyDataset
    student: AnyModel
    teacher: Teacher | None = None
    warm_start: WarmStart | None = None
    losses: AnyLosses
    recipe: Recipe
    seed: NonNegativeInt = 0

    @model_validator(mode="before")
    @classmethod
    def _init_from_a_file(cls, data: Any) -> Any:
        """``student.init: FILE`` is a warm start of the backbone from a random start: one form, one identity."""
        student = data.get("student") if isinstance(data, Mapping) else None
        if not isinstance(student, Mapping) or not is_file(student.get("init")):
            return data
        file, given = student["init"], data.get("warm_start")
        if isinstance(given, Config):
            given = given.model_dump(mode="json")
        made = {"checkpoint": file, "part": "backbone"}
        if given is not None and (not isinstance(given, Mapping) or {"part": "backbone", **given} != made):
            message = f"names the file '{file}', and warm_start other weights; give one of them"
            raise ValidationError.from_exception_data(cls.__name__, [error_at(("student", "init"), message, file)])
        return {**data, "student": {**student, "init": "random"}, "warm_start": made}

    @model_validator(mode="after")
    def _networks_have_the_taps(self) -> Self:
        named = {"student": self.student, "teacher.model": self.teacher.model if self.teacher else None}
        models = {path: model for path, model in named.items() if isinstance(model, ExternalModel)}
        for name, term in self.active_losses.items():
            for path, model in models.items():
                wanted = term.taps if path == "student" else term.teacher_taps
                if lacking := model.lacks(wanted):
                    how = (
                        "aux_output: KEY, the auxiliary logits among what the network returns"
                        if lacking[0] == "aux"
                        else f"taps: {{{lacking[0]}: PATH}}, the path of the submodule that gives it"
                    )
                    raise ValueError(
                        f"losses.{name} reads {', '.join(sorted(wanted))} of the {path.split('.')[0]}, "
                        f"but {path} names no '{lacking[0]}'; add {how}"
                    )
        return self

    @model_validator(mode="after")
    def _terms_have_what_they_need(self) -> Self:
        needing = [name for name, term in self.active_losses.items() if term.needs_teacher]
        if needing and self.teacher is None:
            raise ValueError(f"losses.{needing[0]} needs a teacher, but teacher is null")
        if not self.active_losses:
            raise ValueError("losses has no term with a weight above 0")
        return self

    @property
    def active_losses(self) -> dict[str, LossTerm]:
        """The terms with a weight above 0; the others are not built."""
        return {name: term for name, term in self.losses.items() if term.weight > 0}

    @property
    def uses_teacher(self) -> bool:
        """Whether any active term needs the teacher, so that it is loaded and run."""
        return any(term.needs_teacher for term in self.active_losses.values())

    @property
    def method(self) -> str:
        """``student``, or the active terms beyond the task's own joined: ``pi``, ``pi+pa``."""
        names = [name for name, term in self.active_losses.items() if not term.task]
        return "+".join(names) or "student"

    @property
    def initialisation(self) -> str:
        """What the student's backbone starts from: ``random``, ``imagenet``, a stage that made it, or a file's hash."""
        if self.warm_start is None:
            return self.student.init
        if self.warm_start.checkpoint.startswith("sha256:"):
            return self.warm_start.checkpoint[: len("sha256:") + 12]
        made_by = self.warm_start.checkpoint.removeprefix("trial:").removeprefix(STAGE_REFERENCE)
        return made_by.rsplit("-", 2)[0] if self.warm_start.checkpoint.startswith("trial:") else made_by

    @functools.cached_property
    def config_id(self) -> str:
        """Hash of everything but the seed."""
        text = json.dumps(self.model_dump(mode="json", exclude={"seed"}), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:10]

    def trial_id(self, stage: str) -> str:
        """``<stage>-<config_id>-s<seed>``: the same trial has the same id on every launch."""
        return f"{stage}-{self.config_id}-s{self.seed}"

    def at(self, path: str) -> Value:
        """The value at a dotted path, e.g. ``losses.pi.temperature``.

        Raises:
            KeyError: there is no such path in this configuration.
        """
        value: Any = self
        for key in path.split("."):
            value = value[key] if isinstance(value, Mapping) else _field(value, key, path)
        return value

    def replace(self, changes: Mapping[str, Value]) -> Self:
        """A copy with values at dotted paths replaced, validated as a whole.

        Raises:
            pydantic.ValidationError: an unknown path or a value out of range; the location is the path's.
        """
        data = self.model_dump(mode="json")
        if _chooses_init(changes) and self.warm_start is not None and self.warm_start.part == "backbone":
            data["warm_start"] = None  # a start that is chosen takes the place of the one before, file or not
        for path, value in changes.items():
            *parents, last = path.split(".")
            node = data
            for key in parents:
                if not isinstance(node.get(key), dict):  # absent or null: a part that this change brings in
                    node[key] = {}
                node = node[key]
            node[last] = _plain(value)
        return type(self).model_validate(data)

    def checkpoints(self) -> dict[str, str]:
        """Path -> reference of every checkpoint that this trial loads."""
        found = {}
        if self.uses_teacher and self.teacher is not None:
            found["teacher.checkpoint"] = self.teacher.checkpoint
        if self.warm_start is not None:
            found["warm_start.checkpoint"] = self.warm_start.checkpoint
        return found

    def resolved(self, references: Mapping[str, str]) -> Self:
        """A copy in which checkpoint references (``stage:NAME``, a path) stand for content (``trial:ID``, a hash)."""
        changes = {path: references[ref] for path, ref in self.checkpoints().items() if ref in references}
        return self.replace(changes) if changes else self


def is_file(init: Any) -> bool:
    """Whether an ``init`` names a file of weights: it has a separator or a suffix of one."""
    return isinstance(init, str) and ("/" in init or init.endswith((".pth", ".pt", ".safetensors")))


def _chooses_init(changes: Mapping[str, Value]) -> bool:
    if any(path.split(".")[0] == "warm_start" for path in changes):
        return False
    student = changes.get("student")
    return "student.init" in changes or (isinstance(student, Mapping) and "init" in student)


def _field(value: Any, key: str, path: str) -> Any:
    if not isinstance(value, Config) or key not in type(value).model_fields:
        raise KeyError(path)
    return getattr(value, key)


def _plain(value: Value) -> Value:
    """A copy: a later path may change what lies inside, and must not reach into the stage that gave it."""
    return value.model_dump(mode="json") if isinstance(value, Config) else copy.deepcopy(value)


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


class Halving(Config):
    """ASHA's two numbers. A rung never shortens the learning-rate schedule."""

    # Measured, not inherited: `kdtune bench asha` on the learning rate x weight decay grids of demo (seeds 0 to 2) and
    # camvid-small, see README. In mean over the grids, half and 2 takes 77 % of the steps and finds the full grid's
    # best in 99 % of the orders. A grace of 0.2 takes 53 % and finds it in 51 %, which is worse than running as many
    # random trials to their ends: curves cross until half of the steps. Nine trials a grid are few; measure your own.
    grace: Annotated[float, Field(gt=0, lt=1)] = 0.5  # share of the steps before a trial can be stopped
    reduction_factor: Annotated[float, Field(gt=1)] = 2.0  # at each rung one in this many goes on


class Stage(Config):
    """A grid (or ranges) around one or several starting configurations, run as one experiment."""

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9]*(-[a-z0-9]+)*$")]
    start_from: tuple[str, ...] = ()  # earlier stages; their best configurations are varied. Empty: the base
    set: dict[str, Value] = {}  # fixed changes: dotted path -> value
    grid: dict[str, tuple[Value, ...]] = {}  # dotted path -> values
    ranges: dict[str, Range] = {}  # dotted path -> range
    search: SearchName = "grid"
    samples: PositiveInt | None = None  # number of trials of a random or TPE search
    seeds: Annotated[tuple[NonNegativeInt, ...], Field(min_length=1)] = (0,)
    scheduler: SchedulerName | None = None  # null: the study's; see ``StudySpec.scheduler_of``
    labels: dict[str, str] = {}  # of the nodes that may run it, as Ray selects them: {ray.io/accelerator-type: H100}

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        details = [*self._bad_axes()]
        if details:
            raise ValidationError.from_exception_data("Stage", details)
        if len(set(self.seeds)) != len(self.seeds):
            raise ValueError(f"seeds must differ, got {list(self.seeds)}")
        if self.scheduler not in (None, "none") and len(self.seeds) > 1:
            raise ValueError("a stage of several seeds runs without early stopping: scheduler must be none")
        if self.search == "grid" and self.ranges:
            raise ValueError("ranges need search: random or tpe, with samples")
        if self.search != "grid" and self.samples is None:
            raise ValueError(f"search: {self.search} needs samples, the number of trials")
        if self.search != "grid" and not (self.grid or self.ranges):
            raise ValueError(f"search: {self.search} needs a grid or ranges to draw from")
        if self.search == "tpe" and len(self.seeds) > 1:
            raise ValueError("search: tpe takes one seed: its next point depends on the last results")
        if self.search == "tpe" and len(self.start_from) > 1:
            raise ValueError("search: tpe takes one stage to start from: give each its own stage")
        return self

    def _bad_axes(self) -> Iterator[Any]:
        for section in ("set", "grid", "ranges"):
            if "seed" in getattr(self, section):
                yield error_at((section, "seed"), "seeds stand in the stage's own list, e.g. seeds: [1, 2, 3]")
        for path, values in self.grid.items():
            twice = [value for i, value in enumerate(values) if value in values[:i]]
            if not values:
                yield error_at(("grid", path), "has no values; a grid needs at least one, e.g. [1, 2]")
            if twice:
                yield error_at(("grid", path), f"holds {twice[0]} twice")
            if path in self.ranges:
                yield error_at(("ranges", path), "is in the grid too; give values or a range, not both")

    @property
    def repeats(self) -> bool:
        """Whether it only runs its starts again (over other seeds), choosing nothing."""
        return bool(self.start_from) and not self.grid and not self.ranges

    @property
    def first_point(self) -> dict[str, Value]:
        """The first value of every axis."""
        lows = {path: axis.low for path, axis in self.ranges.items()}
        return {path: values[0] for path, values in self.grid.items()} | lows

    def points(self, starts: Sequence[str], seed: int) -> list[dict[str, Value]]:
        """What varies, one mapping per trial, in the order of the file: start, grid, seed.

        Random points are a pure function of ``seed``: stages with the same axes try the same ones.
        """
        size = math.prod(len(values) for values in self.grid.values())
        generator = random.Random(seed)
        if self.search == "grid":
            drawn = (self._combination(i) for i in range(size))
        elif not self.ranges:  # without repeats: a point drawn again would be a trial that has run
            wanted = (self.samples or 0) * (TRIES if self.conditions else 1)
            drawn = (self._combination(i) for i in generator.sample(range(size), min(wanted, size)))
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
        found = {**choices, **floats}
        return dict(sorted(found.items(), key=lambda item: item[0] in self.conditions))

    def config(self, starts: Mapping[str, TrialConfig], point: Mapping[str, Value]) -> TrialConfig:
        """One trial: the start, then ``set``, then the point."""
        changes = {path: value for path, value in point.items() if path != "start"}
        return starts[point["start"]].replace({**self.set, **changes})


class StudySpec(Config):
    """A study: what every trial shares, and the stages in the order in which they run."""

    name: Annotated[str, Field(pattern=rf"^{STUDY_NAME}$")]
    description: str = ""
    needs_gpu: bool = False  # launch says so before the first step where there is none
    seed: NonNegativeInt = 0  # shuffles the grids, draws the samples
    scheduler: SchedulerName = "asha"  # of the stages of one seed
    halving: Halving = Halving()
    gpus_per_trial: PositiveFloat = 1.0  # share of a GPU, where there is one
    max_concurrent: PositiveInt | None = None  # trials at once; null: one per GPU (share), or up to 8 per processor
    country_iso_code: Annotated[str, Field(pattern="^[A-Z]{3}$")] = "DEU"  # whose electricity is used
    base: TrialConfig
    stages: Annotated[tuple[Stage, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _stages_fit(self) -> Self:
        details = []
        seen: dict[str, Stage] = {}
        for i, stage in enumerate(self.stages):
            if stage.name in seen:
                details.append(error_at(("stages", i, "name"), f"'{stage.name}' is the name of two stages"))
            for j, start in enumerate(stage.start_from):
                if start not in seen:
                    known = ", ".join(seen) or "none, it is the first"
                    message = f"starts from unknown stage '{start}'{did_you_mean(start, seen)}; earlier stages: {known}"
                    details.append(error_at(("stages", i, "start_from", j), message, start))
            seen[stage.name] = stage
        if not details:
            details = [*self._shared_seeds(), *self._bad_points()]
        if details:
            raise ValidationError.from_exception_data("study", details)
        return self

    def stage(self, name: str) -> Stage:
        """The stage of that name.

        Raises:
            KeyError: there is none.
        """
        return next(stage for stage in self.stages if stage.name == name)

    def ancestors(self, stage: Stage) -> set[str]:
        """The names of all stages whose choices lead to this one."""
        direct = set(stage.start_from)
        return direct.union(*(self.ancestors(self.stage(name)) for name in direct))

    def scheduler_of(self, stage: Stage) -> SchedulerName:
        """Early stopping of a stage.

        None with several seeds, for their mean would compare unlike runs; none where nothing is chosen, for a method
        that was stopped would be missing from the comparison.
        """
        return "none" if len(stage.seeds) > 1 or stage.repeats else stage.scheduler or self.scheduler

    def _shared_seeds(self) -> Iterator[Any]:
        """The best of several runs is biased upwards: a stage that repeats a choice must not reuse its seeds."""
        for i, stage in enumerate(self.stages):
            for name in sorted(self.ancestors(stage)) if stage.repeats else []:
                shared = sorted(set(stage.seeds) & set(self.stage(name).seeds))
                if shared:
                    message = f"shares seed {shared[0]} with stage '{name}', whose choice it repeats; take other seeds"
                    yield error_at(("stages", i, "seeds"), message, list(stage.seeds))

    def _bad_points(self) -> Iterator[Any]:
        """Every value of every stage is tried on a template of each of its starts before anything is launched."""
        templates: dict[str, TrialConfig] = {}
        for i, stage in enumerate(self.stages):
            starts = [templates[name] for name in stage.start_from] or [self.base]
            faults = (fault for start in starts for fault in self._faults(i, stage, start))
            fault = next(faults, None)
            if fault is None:
                templates[stage.name] = starts[0].replace({**stage.set, **stage.first_point})
                fault = self._no_such_maker(i, stage, templates)
            templates.setdefault(stage.name, starts[0])
            if fault is not None:
                yield fault

    def _faults(self, i: int, stage: Stage, start: TrialConfig) -> Iterator[Any]:
        first = stage.first_point
        trials: list[tuple[tuple[str | int, ...], dict[str, Value]]] = [((), first)]
        for path, values in stage.grid.items():
            trials += [(("grid", path, j), {**first, path: value}) for j, value in enumerate(values)]
        for path, axis in stage.ranges.items():  # a value between the ends shows a field of whole numbers
            trials += [(("ranges", path), {**first, path: axis.at(share)}) for share in (1.0, 0.381966)]
        for where, point in trials:
            try:
                start.replace({**stage.set, **point})
            except ValidationError as error:
                yield _blame(i, stage, where, error)

    def _no_such_maker(self, i: int, stage: Stage, templates: Mapping[str, TrialConfig]) -> Any:
        """An error if this stage brings in a checkpoint that no earlier stage makes."""
        earlier = [name for name in templates if name != stage.name]
        inherited = [reference for name in earlier for reference in templates[name].checkpoints().values()]
        for path, reference in templates[stage.name].checkpoints().items():
            name = reference.removeprefix(STAGE_REFERENCE)
            if reference.startswith(STAGE_REFERENCE) and name not in earlier and reference not in inherited:
                known = ", ".join(earlier) or "none, it is the first"
                message = f"is made by unknown stage '{name}'{did_you_mean(name, earlier)}; earlier stages: {known}"
                return error_at(_source(i, stage, path), f"{path} {message}", reference)
        return None

    def templates(self) -> dict[str, TrialConfig]:
        """One configuration per stage, as it would be if the first value of every grid were the best."""
        made: dict[str, TrialConfig] = {}
        for stage in self.stages:
            start = made[stage.start_from[0]] if stage.start_from else self.base
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
        return {name: made[name] for name in stage.start_from} or {"base": self.base}


def _blame(i: int, stage: Stage, where: tuple[str | int, ...], error: ValidationError) -> Any:
    """The line of a stage that made a configuration invalid: the grid's value, the ``set`` entry, or the stage."""
    first = error.errors()[0]
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


PLAIN_WORDS = {  # pydantic's kind of error -> what a study's author reads
    "tuple_type": "needs a list, e.g. [1, 2]",
    "list_type": "needs a list, e.g. [1, 2]",
    "dict_type": "needs a mapping",
    "model_type": "needs a mapping",
    "model_attributes_type": "needs a mapping",
    "too_short": "needs at least one value",
    "missing": "is missing",
}


def told(fault: Mapping[str, Any]) -> str:
    """One of pydantic's errors in a study, without its place: what is wrong, what is allowed, what was given."""
    if fault["type"] in ("study", "value_error"):  # ours: says it all
        return str(fault["msg"]).removeprefix("Value error, ").replace("\n", " ")
    message = PLAIN_WORDS.get(fault["type"], fault["msg"][:1].lower() + fault["msg"][1:])
    whole = fault["type"] == "missing" or isinstance(fault["input"], dict)  # too much to repeat
    return message if whole else f"{message}; got {fault['input']!r}"


def shuffled(items: Sequence[Any], *seed: int | str) -> list[Any]:
    """A copy in an order that only the seed decides: ASHA stops nothing when the worst come first."""
    copy = list(items)
    random.Random("/".join(map(str, seed))).shuffle(copy)
    return copy
