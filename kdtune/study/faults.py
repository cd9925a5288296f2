"""Pydantic's errors in the words of a study's author."""

from collections.abc import Mapping
from typing import Any

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
