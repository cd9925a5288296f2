"""A study's teacher from a file: fed as the file's record says, or refused with what does not fit."""

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from kdtune.base import Model, Preprocessing, SegmentationDataset, UserError
from kdtune.filesystem.folder import read_file
from kdtune.models.published import layout_of
from kdtune.study.given_model import model_from
from kdtune.study.settings import override
from kdtune.study.spec import StudySpec
from kdtune.study.trial_config import TrialConfig
from kdtune.training.checkpoint_layouts import NETWORKS
from kdtune.training.hub_folder import chooses_code
from kdtune.training.weights import (
    WeightsRecord,
    read_header,
    read_record,
    read_weights,
)

# fields of a model that its weights do not depend on
NOT_ARCHITECTURE = {"init", "preprocessing", "dropout"}
ON_TOP = {"taps", "classifier", "backbone", "output", "aux_output", "image_argument", "classes_argument"}  # of external


# A study and its teacher's file
def fitted(study: StudySpec) -> StudySpec:
    """The study with each teacher fed as its file's record says; files that are not there are left to the launch.

    Raises:
        UserError: a teacher of other classes, of another architecture or in another layout than the study's.
    """
    known: dict[str, WeightsRecord | None] = {}
    for stage in study.stages:
        configs = _with_files(study.loading(stage))
        for config in configs:
            _check(config, known)
        changed = [record.model["preprocessing"] for c in configs if (record := _fed_otherwise(c, known))]
        if changed and changed == [changed[0]] * len(configs):
            study = override(study, {"teacher.model.preprocessing": changed[0]}, only=[stage.name])
    for stage in study.stages:
        for config in _with_files(study.loading(stage)):
            if _fed_otherwise(config, known) and config.teacher:
                raise UserError(
                    f"stage '{stage.name}': teacher {config.teacher.checkpoint} needs a preprocessing of its own; "
                    "sweep `teacher` as a whole, each with its model.preprocessing, or take one teacher per stage"
                )
    return study


def with_own_network(study: StudySpec, file: str) -> StudySpec:
    """The study with the network of a teacher's file in the place of the one that it names, where they differ.

    One that is built by other packages' code is taken only if the study names that builder, or if it is transformers':
    a file chooses no code.

    Raises:
        UserError: the file's record is damaged, or the study's terms read what its network does not have.
    """
    record = read_record(file)
    if record is None:
        return study
    if record.model.get("name") == "external" and record.model.get("builder") not in study.builders:
        if chooses_code(record.model):
            return study
    model = model_from(record.model, f"{file}: its kdtune record")
    for stage in study.stages:
        teachers = [config.teacher for config in study.templates_of(stage) if config.teacher_file == file]
        if teachers and teachers[0] and _comparable(teachers[0].model) != _comparable(model):
            own = model.model_dump(mode="json") | {"init": "random"}
            if own.get("builder") == getattr(teachers[0].model, "builder", ""):  # what the study says of it stays
                own = teachers[0].model.model_dump(mode="json") | {k: own[k] for k in ("arguments", "preprocessing")}
            study = override(study, {"teacher.model": own}, only=[stage.name])
    return study


def network_words(before: StudySpec, after: StudySpec) -> list[str]:
    """A line for each teacher's network of a study that another took the place of."""
    pairs = {
        (was.teacher.model.label, now.teacher.model.label, now.teacher.checkpoint)
        for stage in before.stages
        for was, now in zip(before.templates_of(stage), after.templates_of(after.stage(stage.name)), strict=False)
        if was.teacher and now.teacher and _comparable(was.teacher.model) != _comparable(now.teacher.model)
    }
    return [
        f"teacher {file}: its network is {now}, and takes the place of the study's {was}" for was, now, file in pairs
    ]


def _with_files(configs: list[TrialConfig]) -> list[TrialConfig]:
    return [config for config in configs if config.teacher_file]


def _fed_otherwise(config: TrialConfig, known: Mapping[str, WeightsRecord | None]) -> WeightsRecord | None:
    """The record of the teacher's file, if it says another preprocessing than the configuration."""
    assert config.teacher is not None
    record = known.get(config.teacher.checkpoint)
    if record is None or record.model.get("preprocessing") is None:
        return None
    said = Preprocessing.model_validate(record.model["preprocessing"])
    return record if said != config.teacher.model.preprocessing else None


def _check(config: TrialConfig, known: dict[str, WeightsRecord | None]) -> None:
    """Whether the file's record, or without one its keys, fit the configuration; remembers the record."""
    assert config.teacher is not None
    file, model = config.teacher.checkpoint, config.teacher.model
    if file not in known:
        known[file] = read_record(file)
        if known[file] is None:
            _check_layout(file, model)
    record = known[file]
    if record is None:
        return
    check_classes(file, record, config.dataset)
    given = model_from(record.model, f"{file}: its kdtune record")
    if given.name != model.name:
        raise UserError(_another_kind(file, given, model))
    theirs, ours = _comparable(given), _comparable(model)
    for field in ("builder", *sorted(theirs.keys() | ours.keys())):
        if theirs.get(field) != ours.get(field):
            raise UserError(
                f"teacher {file} has {field}={theirs.get(field)!r}, the study's teacher.model {field}="
                f"{ours.get(field)!r}; give the right file, or --set teacher.model.{field}={in_yaml(theirs.get(field))}"
            )
    named = model.preprocessing
    if _fed_otherwise(config, known) and named != Preprocessing():
        said = Preprocessing.model_validate(record.model["preprocessing"])
        raise UserError(
            f"teacher {file} was trained with {preprocessing_words(said)}, the study's teacher.model.preprocessing is "
            f"{preprocessing_words(named)}; remove it from the study, or give the right file"
        )


def _another_kind(file: str, given: Model, ours: Model) -> str:
    """The line for a network of another package where the study has kdtune's own, or the other way round."""
    builder = getattr(given, "builder", None)
    what = f"a network of another package ({builder})" if builder else f"a network of name '{given.name}'"
    return (
        f"teacher {file} holds {what}, the study's teacher is {ours.label}: give the right file, or write "
        f"{as_written(given)} in the study"
    )


def as_written(model: Model) -> str:
    """The key of a study's file that makes this network its teacher's."""
    return f"`teacher.model: {in_yaml({'name': model.name, **model.model_dump(mode='json', exclude_defaults=True)})}`"


def _check_layout(file: str, model: Model) -> None:
    """A file without a record may be another project's: its weights would load, or not, and mean something else."""
    try:
        header = read_header(file)
        keys = list(header or (read_weights(file) if read_file(file) is not None else {}))
    except UserError:
        raise
    except OSError as error:
        raise UserError(f"{file}: cannot be read: {error.strerror or error}") from None
    layout = layout_of(keys)
    if layout in ("skd", "semseg") or (layout == "torchvision" and model.name != "external"):
        raise UserError(
            f"{file}: this is a checkpoint in the layout of {NETWORKS[layout]}: convert it with: kdtune teacher "  # type: ignore[index]
            f"import {file} -o OUT.safetensors --layout {layout}; then give --teacher OUT.safetensors"
        )


def check_classes(file: str, record: WeightsRecord, dataset: SegmentationDataset) -> None:
    """Whether a file's network tells a dataset's classes apart, in their order.

    Raises:
        UserError: it does not.
    """
    names = tuple(dataset.class_names)
    both = f": give weights that were trained on these classes, in their order{_both(record, names)}"
    if record.num_classes != len(names):
        of = f" of {record.dataset}" if record.dataset else ""
        raise UserError(
            f"{file}: tells {record.num_classes} classes{of} apart, dataset '{dataset.name}' has {len(names)}{both}"
        )
    for i, (theirs, ours) in enumerate(zip(record.classes or (), names, strict=False)):
        if _plain_name(theirs) != _plain_name(ours):
            raise UserError(f"{file}: has '{theirs}' as class {i}, dataset '{dataset.name}' has '{ours}'{both}")


def _both(record: WeightsRecord, names: Sequence[str]) -> str:
    reduced = ", of labels that it reduces by one" if record.source.get("reduce_labels") else ""
    theirs = f"the file's{reduced}: {', '.join(record.classes)}; " if record.classes else ""
    return f" ({theirs}the dataset's: {', '.join(names)})"


def _plain_name(name: str) -> str:
    """A class's name as it is compared: packages write it with spaces, hyphens or underscores."""
    return " ".join(name.replace("_", " ").replace("-", " ").casefold().split())


def _comparable(model: Model) -> dict[str, Any]:
    """What the weights depend on. No stem is the plain one."""
    optional = NOT_ARCHITECTURE | (ON_TOP if model.name == "external" else set())
    fields = {k: v for k, v in model.model_dump(mode="json").items() if k not in optional}
    return fields | ({"stem": fields["stem"] or "plain"} if "stem" in fields else {})


def in_yaml(value: Any) -> str:
    """A value on one line of YAML."""
    return yaml.safe_dump(value, default_flow_style=True, width=1000).removesuffix("...\n").strip()


def preprocessing_words(preprocessing: Preprocessing) -> str:
    """A preprocessing as messages name it."""
    if preprocessing == Preprocessing():
        return "rgb with ImageNet's mean and std"
    return f"{preprocessing.order}, mean {list(preprocessing.mean)}, std {list(preprocessing.std)}"
