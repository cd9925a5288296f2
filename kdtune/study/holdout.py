"""``select_on``: on which images a study's choices are taken: the validation split, or a part of the training split."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, PlainSerializer, PlainValidator

from kdtune.base import Config, Seed
from kdtune.study.names import TEACHER

VAL: Literal["val"] = "val"
USUAL = 0.1  # share that is held out where only the word is given


class Holdout(Config):
    """A part of the training images on which no trial trains; whole sequences, where the dataset knows any."""

    holdout: Annotated[float, Field(gt=0, lt=1)] = USUAL  # share of the images
    seed: Seed = 0  # which


def is_val(value: Any) -> bool:
    """Whether it is the default, which is left out of what is written: older trials keep their ids."""
    return bool(value == VAL)


def _choice(value: Any) -> Any:
    if value == VAL or isinstance(value, Holdout):
        return value
    if value == "holdout":
        return Holdout()
    if isinstance(value, Mapping) and "holdout" in value:
        return Holdout.model_validate(value)
    raise ValueError(f"needs 'val', 'holdout' or {{holdout: SHARE}}; got {value!r}")


SelectOn = Annotated[
    Literal["val"] | Holdout,
    PlainValidator(_choice, json_schema_input_type=Literal["val", "holdout"] | Holdout),
    PlainSerializer(lambda choice: choice if choice == VAL else choice.model_dump(mode="json")),
]


def with_holdout(data: Any) -> Any:
    """A study as a file has it, each of its configurations told where it is trained and evaluated.

    What repeats a choice, as ``final`` does, is evaluated on the validation split, and so is a teacher that nothing is
    chosen of: tables have it beside those. All else is evaluated on what is held out.
    """
    stages = data.get("stages") if isinstance(data, Mapping) else None
    if not isinstance(stages, list | tuple) or is_val(data.get("select_on", VAL)):
        return data
    try:
        _choice(data["select_on"])
    except ValueError:
        return data  # the field tells it
    if not isinstance(data.get("base"), dict) or not all(isinstance(stage, dict) for stage in stages):
        return data
    told = []
    for stage in stages:
        searches = any(stage.get(key) for key in ("grid", "ranges", "together"))
        searches |= not stage.get("start_from") and stage.get("name") != TEACHER
        given = stage.get("set") or {}
        where = {"evaluated_on": "holdout" if searches else VAL}
        told.append({**stage, "set": {**given, **where}} if isinstance(given, dict) else stage)
    return {**data, "base": {"select_on": data["select_on"], **data["base"]}, "stages": told}
