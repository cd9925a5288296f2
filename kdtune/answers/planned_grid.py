"""What a study planned, from its ``study.yaml``: the grid's cells that a table must show, filled or not.

The file is read as it is: building the study from it would import torch and every network and loss.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from kdtune.records.schemas import is_parameter
from kdtune.study.names import MOST_TRIALS, TEACHER, column_at

Value = float | str | None  # of a column


@dataclass(frozen=True)
class PlannedStage:
    """A stage: what it starts from, its seeds, and its axes by their columns in the tables."""

    name: str
    starts: tuple[str, ...] = ()
    seeds: frozenset[int] = frozenset()
    axes: Mapping[str, tuple[Value, ...]] = field(default_factory=dict)  # none of a search that draws its points
    together: tuple[Mapping[str, Value], ...] = ()  # values of some of the axes that are tried only so
    extends: bool = False  # whether it may try more than these, beyond the border
    drawn: bool = False  # whether a search draws its points
    longer: str | None = None  # the start that is trained once more, as long as the dearest method
    fixed: Mapping[str, Value] = field(default_factory=dict)  # of a stage that starts from the study's base

    @property
    def further(self) -> list[str]:
        """Its axes that are further parameters of terms, beside weights and L_PI's temperature."""
        return [name for name, values in self.axes.items() if len(values) > 1 and is_parameter(name)]

    def cells(self, columns: Sequence[str]) -> list[dict[str, Value]]:
        """Every combination of the values of those of these columns that the stage sweeps; none if it sweeps none."""
        swept = [name for name in columns if name in self.axes]
        entries = [{name: entry[name] for name in swept if name in entry} for entry in self.together]
        free = [name for name in swept if not any(name in entry for entry in entries)]
        tried = [entry for i, entry in enumerate(entries) if entry and entry not in entries[:i]] or [{}]
        size = len(tried) * math.prod(len(self.axes[name]) for name in free)
        if not swept or size > MOST_TRIALS:  # none such can be launched
            return []
        grid = itertools.product(*(self.axes[name] for name in free))
        return [entry | dict(zip(free, values, strict=True)) for values in grid for entry in tried]


@dataclass(frozen=True)
class PlannedStudy:
    """A study: its dataset, its student's backbone, its stages by name."""

    study: str
    dataset: str | None = None
    student: str | None = None
    stages: Mapping[str, PlannedStage] = field(default_factory=dict)
    held_out: float | None = None  # share of the training images on which its choices were taken; none: on validation
    on_val: tuple[str, ...] = ()  # in such a study, the stages that are measured on the validation images
    left_out: frozenset[str] = frozenset()  # stages whose ``when`` was not met, and those that start from them alone

    @property
    def chosen_on(self) -> str | None:
        """What a reader must know of its choices; none if they were taken on the validation images."""
        if self.held_out is None:
            return None
        names = ", ".join(self.on_val) or "no stage"
        return (
            f"chosen on {self.held_out:.0%} of the training images, on which no trial trains; measured on the "
            f"validation images: {names}; on these: all other stages"
        )

    def images(self, stage: str) -> str:
        """On which images a stage is measured, in words."""
        held_out = self.held_out is not None and stage not in self.on_val
        return "training images that are held out" if held_out else "validation images"


def planned_study(study: str, data: Mapping[str, Any] | None, left_out: Sequence[str] = ()) -> PlannedStudy:
    """The plan of a study whose ``study.yaml`` holds this; without one, nothing is known of it."""
    try:
        found = _planned(study, data) if data is not None else PlannedStudy(study)
        return replace(found, left_out=frozenset(left_out))
    except (KeyError, TypeError, AttributeError, ValueError):
        return PlannedStudy(study)  # of another version, or damaged: the next launch writes it anew


def _planned(study: str, data: Mapping[str, Any]) -> PlannedStudy:
    base = data["base"]
    student = base["student"]
    stages = {stage["name"]: _stage(stage, base["recipe"]) for stage in data["stages"]}
    choice = data.get("select_on")
    held_out = float(choice["holdout"]) if isinstance(choice, Mapping) else None
    network = student.get("backbone", student["name"])
    return PlannedStudy(study, base["dataset"]["name"], network, stages, held_out, _on_val(data) if held_out else ())


def _on_val(data: Mapping[str, Any]) -> tuple[str, ...]:
    """The stages that are measured on the validation images; of a teacher from a file no stage stands there."""
    found = [stage["name"] for stage in data["stages"] if stage["set"].get("evaluated_on", "val") == "val"]
    taught = any(each.get("teacher") for each in (data["base"], *(stage["set"] for stage in data["stages"])))
    given = taught and TEACHER not in (stage["name"] for stage in data["stages"])
    return (*([TEACHER] if given else []), *found)


def _stage(stage: Mapping[str, Any], recipe: Mapping[str, Any]) -> PlannedStage:
    grid = stage["grid"] if stage["search"] == "grid" else {}
    axes = {column_at(path): _values(path, values) for path, values in grid.items()}
    together = tuple({column_at(path) or path: _value(v) for path, v in e.items()} for e in stage.get("together", ()))
    axes |= {name: tuple(dict.fromkeys(entry[name] for entry in together)) for entry in together for name in entry}
    recipe = {f"recipe.{name}": value for name, value in recipe.items()} if not stage["start_from"] else {}
    fixed = {column_at(path): _values(path, [value]) for path, value in {**recipe, **stage["set"]}.items()}
    return PlannedStage(
        stage["name"],
        tuple(stage["start_from"]),
        frozenset(stage["seeds"]),
        {name: values for name, values in axes.items() if name and values},
        together,
        bool(stage.get("extend")),
        stage["search"] != "grid",
        stage.get("longer"),
        {name: values[0] for name, values in fixed.items() if name and values},
    )


def _values(path: str, values: Sequence[Any]) -> tuple[Value, ...]:
    """The values as tables have them: a term of weight 0 is not used, and has no columns."""
    plain = [_value(value) for value in values if value is None or isinstance(value, int | float | str)]
    if not any(isinstance(value, float) for value in plain):
        plain = ["null" if value is None else value for value in plain]  # of words
    return tuple(value for value in plain if value != 0 or not path.endswith(".weight"))


def _value(value: Any) -> Value:
    """As ``trials`` has it."""
    if isinstance(value, bool):
        return str(value).lower()
    return value if value is None or isinstance(value, str) else float(value)
