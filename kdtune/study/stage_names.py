"""Whether the stages of a study name each other rightly."""

from collections.abc import Iterator, Sequence
from typing import Any

from pydantic_core import InitErrorDetails

from kdtune.base import error_at
from kdtune.text import did_you_mean


def wrong_names(stages: Sequence[Any]) -> Iterator[InitErrorDetails]:
    """An error for each name that two stages have, and for each that no earlier stage has.

    ``stages``: as a file has them, for what is wrong otherwise must not hide this; what is none is passed over.
    """
    names = [stage.get("name") if isinstance(stage, dict) else None for stage in stages]
    twice = [i for i, name in enumerate(names) if isinstance(name, str) and name in names[:i]]
    yield from (error_at(("stages", i, "name"), f"'{names[i]}' is the name of two stages") for i in twice)
    if twice:
        return  # one of them may be meant by a name that no stage has
    seen: dict[str, None] = {}
    for i, stage in enumerate(stages):
        if not isinstance(stage, dict):
            continue
        starts, when, own = stage.get("start_from"), stage.get("when"), stage.get("name")
        named: list[tuple[tuple[str | int, ...], str, Any]] = []
        if isinstance(starts, list | tuple):
            named += [(("start_from", j), "starts from", start) for j, start in enumerate(starts)]
        if isinstance(when, dict):
            named += [(("when", key), "is", when.get(key)) for key in ("stage", "beats")]
        for where, verb, name in named:
            if isinstance(name, str) and name not in seen:
                known = ", ".join(seen) or "none, it is the first"
                message = f"{verb} unknown stage '{name}'{did_you_mean(name, seen)}; earlier stages: {known}"
                yield error_at(("stages", i, *where), message, name)
        if isinstance(own, str):
            seen[own] = None
