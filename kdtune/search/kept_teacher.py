"""``--teacher-store``: how much of each node's disk the teacher's outputs may take, and which are worth keeping."""

import re

from kdtune.base import LossTerm, UserError
from kdtune.study.spec import StudySpec
from kdtune.study.trial_config import TrialConfig
from kdtune.training.site import TeacherStore
from kdtune.training.teacher_store import default_limit, store_folder

UNITS = {"": 1.0, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}


def teacher_store(given: str | None, study: StudySpec) -> TeacherStore | None:
    """What ``--teacher-store`` asks for; none for ``off``.

    Raises:
        UserError: it is neither a size nor ``off``.
    """
    if given == "off":
        return None
    return TeacherStore(None if given is None else _bytes(given), digested_terms(study))


def _bytes(given: str) -> float:
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)B?", given.strip().upper())
    if found is None:
        raise UserError(f"--teacher-store {given}: neither a size, e.g. 20GB, nor off")
    return float(found.group(1)) * UNITS[found.group(2)]


def digested_terms(study: StudySpec) -> list[LossTerm]:
    """The terms of any trial of the study whose digests can be kept, each with other fields than its weight once."""
    found: dict[str, LossTerm] = {}
    for config in _configs(study):
        for term in config.losses.values():
            if term.digested:
                found.setdefault(term.digest_name, term)
    return list(found.values())


def _configs(study: StudySpec) -> list[TrialConfig]:
    """The templates of all stages, and one for every value of an axis that says how such a term is computed."""
    found = []
    for stage in study.stages:
        for template in study.templates_of(stage):
            digested = {f"losses.{name}" for name, term in template.losses.items() if term.digested}
            axes = [path for path in stage.grid if path.rpartition(".")[0] in digested and not path.endswith(".weight")]
            found += [template, *(template.replace({path: value}) for path in axes for value in stage.grid[path])]
    return found


def told(store: TeacherStore | None, study: StudySpec, *, joined: bool) -> str | None:
    """A line for the log: where, and how much; none for a study without a teacher.

    Raises:
        UserError: others could change what lies in this node's cache.
    """
    if store is None or not any(config.uses_teacher for config in study.templates().values()):
        return None
    where = "each node's KDTUNE_CACHE" if joined else str(store_folder())
    if store.limit is not None:
        room = f"up to {store.limit / 1e9:g} GB"
    elif joined:
        room = "as much as it leaves free"
    else:
        room = f"up to {default_limit(store_folder()) / 1e9:.0f} GB, as much as it leaves free"
    return f"what the teacher computes is kept in {where} for all trials ({room}; --teacher-store SIZE or off)"
