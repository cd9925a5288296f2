"""Seeds that a launch adds to a finished comparison (``--seeds``), and that later launches keep."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from kdtune.base import UserError
from kdtune.study.faults import told
from kdtune.study.spec import StudySpec


def with_seeds(study: StudySpec, data: dict[str, Any], stages: Sequence[str], number: int) -> None:
    """Changes a study as data: these stages have so many seeds, new ones behind their own, that no other stage has.

    Raises:
        UserError: none of them is named, one chooses, or has more seeds already.
    """
    if not stages:
        raise UserError(f"--seeds {number} needs the stage whose seeds they are: add --stage final")
    used = {seed for stage in study.stages for seed in stage.seeds}
    for name in stages:
        stage = study.stage(name)
        if not stage.repeats:
            raise UserError(
                f"--seeds {number}: stage '{name}' searches; seeds are added to a stage that repeats choices, as final"
            )
        if number < len(stage.seeds):
            raise UserError(
                f"--seeds {number}: stage '{name}' has {len(stage.seeds)}, and the number is that of all; give more"
            )
        seeds = list(stage.seeds)
        while len(seeds) < number:
            seeds.append(next(seed for seed in range(max(stage.seeds) + 1, 2**31) if seed not in used))
            used.add(seeds[-1])
        more = next(each for each in data["stages"] if each["name"] == name)
        more |= {"seeds": seeds, "added_seeds": len(seeds) - len(stage.seeds)}


def with_kept_seeds(study: StudySpec, before: Mapping[str, Any] | None) -> StudySpec:
    """The study with the seeds that earlier launches added to its stages; ``before``: as it was last launched.

    That lies on storage, where others may have changed it: seeds that the study may not have are left out, and said.
    """
    earlier = {stage["name"]: stage for stage in before["stages"]} if before is not None else {}
    stages = []
    for stage in study.stages:
        then = earlier.get(stage.name, {})
        added, seeds = then.get("added_seeds", 0), then.get("seeds", ())
        own = stage.seeds[: len(stage.seeds) - stage.added_seeds]
        more = isinstance(added, int) and isinstance(seeds, list) and added > stage.added_seeds
        keeps = more and tuple(seeds[: len(seeds) - added]) == own
        stages.append(stage.model_dump(mode="json") | ({"seeds": seeds, "added_seeds": added} if keeps else {}))
    data = study.model_dump(mode="json")
    if stages == data["stages"]:
        return study
    try:
        return StudySpec.model_validate(data | {"stages": stages})
    except ValidationError as error:
        logging.getLogger("kdtune").warning("study.yaml: its added seeds are left out: %s", told(error.errors()[0]))
        return study
