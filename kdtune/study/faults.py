"""Pydantic's errors in the words of a study's author."""

from collections.abc import Mapping
from typing import Any

from kdtune.base import Config

PLAIN_WORDS = {  # pydantic's kind of error -> what a study's author reads
    "tuple_type": "needs a list, e.g. [1, 2]",
    "list_type": "needs a list, e.g. [1, 2]",
    "dict_type": "needs a mapping",
    "too_short": "needs at least one value",
    "missing": "is missing",
}
EXAMPLES = {  # of a mapping, by its key
    "set": "{recipe.lr: 0.01}",
    "grid": "{recipe.lr: [0.1, 0.01]}",
    "labels": "{ray.io/accelerator-type: H100}",
}


def told(fault: Mapping[str, Any]) -> str:
    """One of pydantic's errors in a study, without its place: what is wrong, what is allowed, what was given."""
    if fault["type"] in ("study", "value_error"):  # ours: says it all
        return str(fault["msg"]).removeprefix("Value error, ").replace("\n", " ")
    if fault["type"] in ("model_type", "model_attributes_type"):
        message = f"needs a mapping of: {', '.join(_keys(fault['ctx']['class_name']))}"
    else:
        message = PLAIN_WORDS.get(fault["type"], fault["msg"][:1].lower() + fault["msg"][1:])
    if fault["type"] == "dict_type" and (example := EXAMPLES.get(str([*fault["loc"], ""][-2]))):
        message += f", e.g. {example}"
    whole = fault["type"] == "missing" or isinstance(fault["input"], dict)  # too much to repeat
    return message if whole else f"{message}; got {fault['input']!r}"


def _keys(name: str, of: type[Config] = Config) -> list[str]:
    """The keys of a part of a study, by the name of its class."""
    found = [list(kind.model_fields) if kind.__name__ == name else _keys(name, kind) for kind in of.__subclasses__()]
    return next(filter(None, found), [])
