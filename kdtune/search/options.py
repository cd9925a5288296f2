"""How a launch departs from its study's file: stages, search, early stopping, a teacher, values of ``--set``."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from kdtune.base import UserError
from kdtune.filesystem.folder import Folder
from kdtune.search.added_seeds import with_seeds
from kdtune.search.kept_teacher import teacher_store
from kdtune.study.faults import told
from kdtune.study.settings import override
from kdtune.study.spec import StudySpec
from kdtune.study.trial_config import Value
from kdtune.text import did_you_mean
from kdtune.training.energy_counter import check_country
from kdtune.training.hub_folder import weights_of

if TYPE_CHECKING:
    from kdtune.loading.pack import PackMode


@dataclass(frozen=True)
class Options:
    """How a launch departs from the study's file; none changes it."""

    stages: Sequence[str] = ()
    search: str | None = None
    samples: int | None = None
    seeds: int | None = None  # in all, of the stages named
    scheduler: str | None = None
    teacher: str | None = None
    settings: Mapping[str, Value] = field(default_factory=dict)
    max_concurrent: int | None = None
    gpus_per_trial: float | None = None
    threads: int | None = None
    country: str | None = None
    loggers: Sequence[str] = ()
    pack: "PackMode" = "always"
    teacher_store: str | None = None  # a size, or "off"; none: as much as it leaves free
    again: Sequence[str] = ()  # trials that run anew
    mixed: bool = False  # whether trials of other numerics may stand beside new ones

    @property
    def changes(self) -> dict[str, Value]:
        """What they set at dotted paths of a configuration; ``--teacher`` is short for one of these."""
        return {**self.settings, **({} if self.teacher is None else {"teacher.checkpoint": weights_of(self.teacher)})}

    @property
    def words(self) -> list[str]:
        """Those that change no study, as the command line of a launch elsewhere has them."""
        several = {"--stage": self.stages, "--log": self.loggers, "--again": self.again}
        words = [word for option, values in several.items() for value in values for word in (option, value)]
        words += ["--pack", self.pack, *(["--teacher-store", self.teacher_store] if self.teacher_store else [])]
        return [*words, *(["--mixed"] if self.mixed else [])]


def adjusted(study: StudySpec, options: Options) -> StudySpec:
    """The study with the launch's options in it.

    Raises:
        UserError: an option names a stage, path or country that is not there, is no size, or leaves no trial.
    """
    if options.country is not None:
        check_country(options.country, "--country")
    of_network = {path: value for path, value in options.changes.items() if path.startswith("teacher.model")}
    others = {path: value for path, value in options.changes.items() if path not in of_network}
    if others:
        study = override(study, others)
    teacher_store(options.teacher_store, study)  # whether it is a size
    has_file = any(config.uses_teacher for config in study.templates().values()) and _has_a_teachers_file(study)
    if has_file and options.teacher is not None:
        from kdtune.training.teachers import with_own_network

        study = with_own_network(study, others["teacher.checkpoint"])
    if of_network:
        study = override(study, of_network)
    if has_file:
        from kdtune.training.teachers import fitted  # torch is imported now, not for studies without such a file

        study = fitted(study)
    _refuse_unknown(study, options.stages)
    if options.samples is not None and options.samples < 1:
        raise UserError(f"--samples {options.samples}: leaves no trial; give 1 or more")
    data = _changed(study, options)
    if options.samples is not None and all(stage["search"] == "grid" for stage in data["stages"]):
        raise UserError("--samples needs --search random or tpe: every stage of this study is a grid")
    if data == study.model_dump(mode="json"):
        return study  # valid already: every value of every grid would be tried again
    try:
        return StudySpec.model_validate(data)
    except ValidationError as error:
        message = told(error.errors()[0])
        raise UserError(f"these options do not fit study '{study.name}': {message}") from None


def _has_a_teachers_file(study: StudySpec) -> bool:
    """Whether a teacher's weights may lie in a file now: a local one that is not there is told by the launch."""
    files = {config.teacher_file for stage in study.stages for config in study.loading(stage)}
    places = [Folder(file).split() for file in files if file]
    return any(folder.local is None or os.path.exists(folder.local / name) for folder, name in places)


def _refuse_unknown(study: StudySpec, stages: Sequence[str]) -> None:
    """Raises UserError if the study lacks one of these stages."""
    names = [stage.name for stage in study.stages]
    for name in stages:
        if name not in names:
            raise UserError(
                f"--stage {name}: study '{study.name}' has no such stage{did_you_mean(name, names)}; "
                f"there are: {', '.join(names)}"
            )


def _changed(study: StudySpec, options: Options) -> dict[str, Any]:
    """The study as data, with the options in it."""
    changes: dict[str, Any] = {
        "max_concurrent": options.max_concurrent,
        "gpus_per_trial": options.gpus_per_trial,
        "threads": options.threads,
        "country_iso_code": options.country,
    }
    changes = {key: value for key, value in changes.items() if value is not None}
    data = study.model_dump(mode="json") | changes
    if options.scheduler is not None:
        data["scheduler"] = options.scheduler
    for stage in data["stages"]:
        if options.scheduler is not None and len(stage["seeds"]) == 1:
            stage["scheduler"] = options.scheduler
        if options.search is not None and _searched(stage):
            stage["search"] = options.search
            if options.search != "grid":
                stage.pop("extend", None)  # it draws from the grid's values alone
        if options.samples is not None and stage["search"] != "grid":
            stage["samples"] = options.samples
    if options.seeds is not None:
        with_seeds(study, data, options.stages, options.seeds)
    return data


def _searched(stage: Mapping[str, Any]) -> bool:
    """Whether another search can take the grid's place: one seed, one start, and more than one value to choose from."""
    values = sum(len(axis) for axis in stage["grid"].values())
    return (
        len(stage["seeds"]) == 1
        and len(stage["start_from"]) <= 1
        and (values > len(stage["grid"]) or bool(stage["ranges"]))
    )
