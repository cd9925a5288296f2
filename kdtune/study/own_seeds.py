"""Seeds of a stage that only repeats what others chose, where its author gives none."""

import itertools
from collections.abc import Mapping
from typing import Any

NUMBER = 3  # the fewest of which a standard deviation says something


def with_own_seeds(data: Any) -> Any:
    """A study as a file has it, each such stage with the smallest seeds that no earlier stage of the file has.

    What follows it in the file changes nothing, so a stage that is added there runs none of its trials anew.
    """
    stages = data.get("stages") if isinstance(data, Mapping) else None
    if not isinstance(stages, list | tuple) or not all(isinstance(stage, dict) for stage in stages):
        return data
    used: set[int] = set()
    made = []
    for stage in stages:
        if stage.get("start_from") and not (stage.keys() & {"grid", "ranges", "together", "seeds", "search"}):
            free = (seed for seed in itertools.count() if seed not in used)
            stage = {**stage, "seeds": list(itertools.islice(free, NUMBER))}
        seeds = stage.get("seeds", [0])
        used |= {seed for seed in seeds if isinstance(seed, int)} if isinstance(seeds, list | tuple) else set()
        made.append(stage)
    return {**data, "stages": made}
