"""One training run, completely: dataset, networks, losses, recipe, seed; and its id."""

import copy
import functools
import operator
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BeforeValidator,
    Field,
    PositiveInt,
    SerializeAsAny,
    ValidationError,
    model_validator,
)

from kdtune.base import Config, LossTerm, Model, Seed, SegmentationDataset, error_at
from kdtune.datasets import DATASETS
from kdtune.losses import LOSSES
from kdtune.models import MODELS
from kdtune.models.external import ExternalModel
from kdtune.registry import Registry
from kdtune.study import names
from kdtune.study.faults import told
from kdtune.study.holdout import VAL, SelectOn, is_val
from kdtune.study.recipe import Recipe

STAGE_REFERENCE = "stage:"  # a checkpoint that a stage of the same study makes, e.g. "stage:teacher"

Value = Any  # a hyperparameter's value: number, text, null, or a mapping for a whole part


def _by_name(registry: Registry, base: type[Config]) -> Callable[[Any], Any]:
    """A validator that makes the class which ``name`` stands for."""

    def validate(value: Any) -> Any:
        if isinstance(value, base):
            return value
        if not isinstance(value, dict) or not isinstance(value.get("name"), str):
            known = ", ".join(registry.names())
            file = ", or its FILE.yaml" if base is SegmentationDataset else ""
            raise ValueError(f"needs a mapping with a 'name', one of: {known}{file}; got {value!r}")
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
    seed: Seed = 0
    # torch's, which change the last digits; the study's own, see ``StudySpec.with_threads``. Left out of what is
    # written where there is none: trials from before it was there keep their ids
    threads: PositiveInt | None = Field(default=None, exclude_if=operator.not_)

    # another student without a teacher, compared beside the tuned one. Left out of what is written where null
    variant: Literal["untuned", "longer"] | None = Field(default=None, exclude_if=operator.not_)
    # the study's own, see ``kdtune.study.holdout``
    select_on: SelectOn = Field(default=VAL, exclude_if=is_val)
    evaluated_on: Literal["val", "holdout"] = Field(default=VAL, exclude_if=is_val)

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
        teacher = self.teacher.model if self.teacher else None
        for name, term in self.active_losses.items():
            asked = (
                ("student", "student", self.student, term.taps),
                ("teacher", "teacher.model", teacher, term.teacher_taps),
            )
            for whose, path, model, wanted in asked:
                lacking = sorted(wanted - {*model.tap_names}) if model else []
                if model and lacking:
                    read = ", ".join(sorted(wanted))
                    raise ValueError(
                        f"losses.{name} reads {read} of the {whose}, but {path} {model.without_tap(lacking[0])}"
                    )
        return self

    @model_validator(mode="after")
    def _variant_is_alone(self) -> Self:
        if self.variant is not None and names.is_distilled(self.method):
            raise ValueError(f"variant: {self.variant} is a student without a teacher, but losses has {self.method}")
        return self

    @model_validator(mode="after")
    def _something_is_held_out(self) -> Self:
        if self.evaluated_on != VAL and self.select_on == VAL:
            raise ValueError("evaluated_on is holdout, but nothing is held out; give the study select_on: holdout")
        return self

    @model_validator(mode="after")
    def _terms_have_what_they_need(self) -> Self:
        needing = [name for name, term in self.active_losses.items() if term.needs_teacher]
        if needing and self.teacher is None:
            raise ValueError(f"losses.{needing[0]} needs a teacher, but teacher is null")
        if not self.active_losses:
            raise ValueError("losses has no term with a weight above 0")
        return self

    @model_validator(mode="after")
    def _batch_norm_has_two_values(self) -> Self:
        if self.student.name == "pspnet" and self.recipe.batch_size == 1 and self.recipe.num_steps:
            raise ValueError(
                "recipe.batch_size is 1: PSPNet pools each image to one cell, and batch norm cannot train on a single "
                "value; take 2 or more"
            )
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
    def teacher_file(self) -> str | None:
        """The file or URI of the teacher that is used, if its weights lie in one."""
        file = self.teacher.checkpoint if self.uses_teacher and self.teacher else None
        return None if file is None or file.startswith((STAGE_REFERENCE, "trial:", "sha256:")) else file

    @property
    def method(self) -> str:
        """``student`` (or its variant), or the active terms beyond the task's own joined: ``pi``, ``pi+pa``."""
        terms = [name for name, term in self.active_losses.items() if not term.task]
        return "+".join(terms) or self.variant or names.ALONE

    @property
    def builders(self) -> set[str]:
        """The functions of other packages that build its networks: code that it runs."""
        models = (self.student, self.teacher.model if self.teacher else None)
        return {model.builder for model in models if isinstance(model, ExternalModel)}

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
        return names.config_id(self.model_dump(mode="json"))

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
