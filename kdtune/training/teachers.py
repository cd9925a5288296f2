"""Teachers from files: published checkpoints made kdtune's own, and a study's teacher fitted to its file's record."""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import yaml
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from kdtune.base import Model, Preprocessing, SegmentationDataset, UserError, did_you_mean
from kdtune.datasets import DATASETS
from kdtune.filesystem.folder import Folder, read_file
from kdtune.models.backbones import INVERTED, RESNETS, BasicBlock
from kdtune.models.published import from_semseg, from_skd, layout_of
from kdtune.study.file import Loader, override
from kdtune.study.spec import STAGE_REFERENCE, AnyModel, StudySpec, TrialConfig, told
from kdtune.training.weights import (
    Weights,
    WeightsRecord,
    load_weights,
    read_header,
    read_record,
    read_weights,
    weights_bytes,
)

Layout = Literal["skd", "semseg", "torchvision", "kdtune"]

NETWORKS: dict[Layout, str] = {
    "skd": "SKD's Res_pspnet",
    "semseg": "semseg's PSPNet",
    "torchvision": "a segmentation network of torchvision",
    "kdtune": "kdtune's PSPNet",
}

# SKD reads with OpenCV, which gives BGR, and only subtracts: train_and_eval.py, IMG_MEAN.
CAFFE = Preprocessing(order="bgr", mean=(104.00698793, 116.66876762, 122.67891434), std=(1.0, 1.0, 1.0))

# What the paper's studies name as their teacher -> where its authors have it, its layout, its dataset.
PUBLISHED: dict[str, tuple[str, Layout, str]] = {
    "published/skd-cityscapes": (
        "the 'teacher weight' that the README of github.com/irfanICMLL/structure_knowledge_distillation links",
        "skd",
        "cityscapes",
    ),
    "published/semseg-voc": (
        "the PSPNet101 for PASCAL VOC 2012 among the trained models that the README of github.com/hszhao/semseg links",
        "semseg",
        "voc",
    ),
    "published/semseg-ade20k": (
        "the PSPNet101 for ADE20K among the trained models that the README of github.com/hszhao/semseg links",
        "semseg",
        "ade20k",
    ),
}

NOT_ARCHITECTURE = {"init", "preprocessing", "dropout"}  # fields of a model that its weights do not depend on


def absent(path: str, reference: str) -> str:
    """The line for a checkpoint that is not there."""
    if reference in PUBLISHED:
        where, layout, dataset = PUBLISHED[reference]
        return (
            f"{path}: '{reference}' does not come with kdtune: get {where}, convert it with: kdtune teacher import "
            f"FILE -o OUT.safetensors --layout {layout} --dataset {dataset}; then launch with --teacher OUT.safetensors"
        )
    if path.startswith("warm_start"):
        return f"{path}: no such file '{reference}'; give student.init or warm_start.checkpoint a file of weights"
    return f"{path}: no such file '{reference}'; give a checkpoint with --teacher FILE"


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


def _with_files(configs: list[TrialConfig]) -> list[TrialConfig]:
    references = (STAGE_REFERENCE, "trial:", "sha256:")
    return [c for c in configs if c.uses_teacher and c.teacher and not c.teacher.checkpoint.startswith(references)]


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
    theirs = _comparable(model_from(record.model, f"{file}: its kdtune record"))
    ours = _comparable(model)
    for field in theirs.keys() | ours.keys():
        if theirs.get(field) != ours.get(field):
            raise UserError(
                f"teacher {file} has {field}={theirs.get(field)!r}, the study's teacher.model {field}="
                f"{ours.get(field)!r}; give the right file, or --set teacher.model.{field}={_yaml(theirs.get(field))}"
            )
    named = model.preprocessing
    if _fed_otherwise(config, known) and named != Preprocessing():
        said = Preprocessing.model_validate(record.model["preprocessing"])
        raise UserError(
            f"teacher {file} was trained with {_preprocessing(said)}, the study's teacher.model.preprocessing is "
            f"{_preprocessing(named)}; remove it from the study, or give the right file"
        )


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
    if record.num_classes != len(names):
        of = f" of {record.dataset}" if record.dataset else ""
        raise UserError(
            f"{file}: tells {record.num_classes} classes{of} apart, dataset '{dataset.name}' has {len(names)}: give "
            "weights that were trained on these classes"
        )
    for i, (theirs, ours) in enumerate(zip(record.classes or (), names, strict=False)):
        if theirs != ours:
            raise UserError(
                f"{file}: has '{theirs}' as class {i}, dataset '{dataset.name}' has '{ours}': give weights that were "
                "trained on these classes, in their order"
            )


def _comparable(model: Model) -> dict[str, Any]:
    """What the weights depend on. No stem is the plain one."""
    fields = {k: v for k, v in model.model_dump(mode="json").items() if k not in NOT_ARCHITECTURE}
    return fields | ({"stem": fields["stem"] or "plain"} if "stem" in fields else {})


def _yaml(value: Any) -> str:
    return yaml.safe_dump(value, default_flow_style=True, width=1000).removesuffix("...\n").strip()


def _preprocessing(preprocessing: Preprocessing) -> str:
    if preprocessing == Preprocessing():
        return "rgb with ImageNet's mean and std"
    return f"{preprocessing.order}, mean {list(preprocessing.mean)}, std {list(preprocessing.std)}"


def model_from(fields: Any, where: str) -> Model:
    """A network as a study names it; ``where`` begins the line of an error."""
    try:
        model: Model = TypeAdapter(AnyModel).validate_python(fields)
        return model
    except ValidationError as error:
        fault = error.errors()[0]
        at = ".".join(str(part) for part in fault["loc"] if not str(part).startswith("function-"))
        raise UserError(f"{where}: {f'{at}: ' if at else ''}{told(fault)}") from None


# Checkpoints of others


@dataclass(frozen=True)
class Import:
    """What ``kdtune teacher import`` was asked for."""

    file: str
    output: str
    layout: Layout
    dataset: str | None = None
    model: str | None = None  # YAML, or a file of it; none: from the keys
    plain_bn: bool = False  # skd: trained with ordinary BatchNorm
    force: bool = False


def import_weights(asked: Import) -> Iterator[str]:
    """Converts a published checkpoint into a file for ``--teacher``; yields what it found, line by line.

    Raises:
        UserError: not a checkpoint of that layout, of other classes than the dataset's, damaged, or the output is
            there already.
    """
    folder, name = Folder(asked.output).split()
    if not name.endswith(".safetensors"):
        raise UserError(f"-o {asked.output}: the output is a safetensors file: give it a name that ends so")
    if not asked.force and read_file(asked.output) is not None:
        raise UserError(f"{asked.output}: is there already; --force replaces it")
    weights = read_weights(asked.file)
    state = _renamed(weights, asked)
    _check_numbers(asked.file, weights)
    fields = given_model(asked.model) if asked.model else INFER[asked.layout](state, asked.file)
    if asked.layout == "skd":
        fields = {"preprocessing": CAFFE.model_dump(), **fields}
    model = model_from(fields, f"--model {asked.model}" if asked.model else asked.file)
    classes = _num_classes(model, state, asked)
    dataset = _dataset(asked.dataset, asked.file, classes)
    network = model.model_copy(update={"init": "random"}).build(classes)
    load_weights(network, {k: v.float() if v.is_floating_point() else v for k, v in state.items()}, asked.file)
    record = WeightsRecord(
        model=model.model_dump(mode="json"),
        num_classes=classes,
        dataset=asked.dataset,
        classes=tuple(dataset.class_names) if dataset else None,
        source={"layout": asked.layout, "sha256": hashlib.sha256(read_file(asked.file) or b"").hexdigest()},
    )
    try:
        folder.write(name, weights_bytes(network, record))
    except OSError as error:
        raise UserError(f"{asked.output}: cannot be written: {error.strerror or error}") from None
    shown = {k: v for k, v in record.model.items() if v is not None and k not in ("init", "preprocessing")}
    yield f"model: {_yaml(shown)}"
    yield f"classes: {classes}{f', {asked.dataset}' if asked.dataset else ''}"
    yield f"preprocessing: {_preprocessing(model.preprocessing)}"
    yield f"weights: {asked.output}"
    yield f"next: kdtune launch STUDY --teacher {asked.output}"


def _renamed(weights: Weights, asked: Import) -> Weights:
    """The weights under kdtune's keys, or the refusal of another layout."""
    looks = layout_of(weights)
    wanted = asked.layout
    convert: dict[Layout, Callable[[Weights], Weights]] = {
        "skd": lambda state: from_skd(state, inplace_abn=not asked.plain_bn),
        "semseg": from_semseg,
        "torchvision": lambda state: {f"network.{key}": value for key, value in state.items()},
        "kdtune": lambda state: state,
    }
    if looks != wanted and not (looks is None and asked.model is not None):
        key = _unexpected(weights, wanted)
        like = f"it looks like {NETWORKS[looks]}: --layout {looks}" if looks else "it looks like none that is known"  # type: ignore[index]
        raise UserError(f"{asked.file}: '{key}' is no key of {NETWORKS[wanted]}; {like}")
    try:
        return convert[wanted](weights)
    except ValueError as error:
        raise UserError(f"{asked.file}: {error}") from None


def _unexpected(weights: Weights, layout: Layout) -> str:
    """The first key that the layout does not have."""
    heads = {
        "skd": ("conv", "bn", "layer", "pspmodule.", "head.", "dsn."),
        "semseg": ("layer", "ppm.", "cls.", "aux."),
        "torchvision": ("backbone.", "classifier.", "aux_classifier."),
        "kdtune": ("backbone.", "pyramid.", "classifier.", "auxiliary.", "network."),
    }[layout]
    odd = (key for key in weights if not key.startswith(heads))
    return next(odd, next(iter(weights), ""))


def _check_numbers(file: str, weights: Weights) -> None:
    for key, value in weights.items():
        if value.is_floating_point() and not bool(value.isfinite().all()):
            raise UserError(f"{file}: tensor '{key}' holds values that are not finite; get the file again")


def given_model(text: str) -> dict[str, Any]:
    """``--model`` as a mapping: YAML as such, or a file of it, with or without a ``model`` key around it."""
    path = Path(text).expanduser()
    try:
        found = yaml.load(path.read_text() if path.is_file() else text, Loader=Loader)
    except (yaml.YAMLError, OSError, UnicodeDecodeError):
        raise UserError(f"--model {text}: not a YAML mapping, nor a file of one") from None
    if isinstance(found, dict) and isinstance(found.get("model"), dict):
        found = found["model"]
    if not isinstance(found, dict):
        raise UserError(f"--model {text}: needs a mapping, e.g. '{{name: pspnet, backbone: resnet101}}', or its file")
    return found


def _dataset(name: str | None, file: str, classes: int) -> SegmentationDataset | None:
    if name is None:
        return None
    known = DATASETS.names()
    if name not in known:
        raise UserError(f"--dataset {name}: unknown{did_you_mean(name, known)}; there are: {', '.join(known)}")
    found: SegmentationDataset = DATASETS.resolve(name).model_validate({"name": name})
    if found.num_classes != classes:
        raise UserError(f"{file}: tells {classes} classes apart, dataset '{name}' has {found.num_classes}")
    return found


def _num_classes(model: Model, state: Mapping[str, Tensor], asked: Import) -> int:
    """From the last layer of the network."""
    last = "classifier.weight" if model.name == "pspnet" else f"network.{getattr(model, 'classifier', None)}.weight"
    for key in (last, last.removeprefix("network.")):
        if key in state:
            return int(state[key].shape[0])
    raise UserError(
        f"{asked.file}: has no '{last}', from whose shape the number of classes would be told; name the last "
        "convolution with `classifier` in --model"
    )


def _skd(state: Weights, file: str) -> dict[str, Any]:
    return {"name": "pspnet", "backbone": _resnet(state, "backbone.", file), "stem": "deep", "variant": "skd"}


def _semseg(state: Weights, file: str) -> dict[str, Any]:
    return {"name": "pspnet", "backbone": _resnet(state, "backbone.", file), "stem": "deep", "variant": "semseg"}


def _own(state: Weights, file: str) -> dict[str, Any]:
    """Kdtune's own: the record's word for it, else as the keys and shapes tell."""
    record = read_record(file)
    if record is not None:
        if record.model.get("name") != "pspnet":
            raise UserError(f"{file}: holds a network of name '{record.model.get('name')}'; write it out with --model")
        return record.model
    if any(key.startswith("network.") for key in state):
        raise UserError(f"{file}: holds a network of another package; write it out with --model")
    if any(key.startswith("backbone.features.") for key in state):
        depth = 1 + max(int(key.split(".")[2]) for key in state if key.startswith("backbone.features."))
        return {"name": "pspnet", "backbone": next((n for n, s in INVERTED.items() if s.kept == depth), "unknown")}
    fields = {
        "name": "pspnet",
        "backbone": _resnet(state, "backbone.", file),
        "stem": "deep" if "backbone.conv2.weight" in state else "plain",
        "variant": "skd" if "auxiliary.0.bias" in state else "semseg",
    }
    channels = state["backbone.conv1.weight"].shape[0] if "backbone.conv1.weight" in state else 64
    return fields | ({"width": channels / 64} if channels != 64 else {})


def _torchvision(state: Weights, file: str) -> dict[str, Any]:
    """One of torchvision's segmentation networks, with its maps named."""
    bare = {key.removeprefix("network.") for key in state}
    aux = any(key.startswith("aux_classifier.") for key in bare)
    deeplab = any(key.startswith("classifier.0.convs.") for key in bare)
    arguments: dict[str, Any] = {"weights": None, "weights_backbone": None}
    psp, classifier = "classifier.3", "classifier.4"
    if "backbone.conv1.weight" in bare:
        name = f"{'deeplabv3' if deeplab else 'fcn'}_{_resnet(state, 'network.backbone.', file)}"
        taps = {layer: f"backbone.{layer}" for layer in ("layer1", "layer2", "layer3", "layer4")}
    else:
        name = f"{'deeplabv3' if deeplab else 'lraspp'}_mobilenet_v3_large"
        taps = {layer: f"backbone.{index}" for index, layer in INVERTED["mobilenet_v3_large"].layers.items()}
    if name.startswith("lraspp"):
        # Its logits are a sum over two scales; this is the deeper one, before it is weighed and resized.
        psp, classifier = "classifier.cbr", "classifier.high_classifier"
    else:
        arguments["aux_loss"] = aux
    return {
        "name": "external",
        "builder": f"torchvision.models.segmentation:{name}",
        "arguments": arguments,
        "taps": taps | {"psp": psp},
        "classifier": classifier,
        "backbone": "backbone",
        "output": "out",
        "aux_output": "aux" if aux else None,
    }


INFER: dict[Layout, Callable[[Weights, str], dict[str, Any]]] = {
    "skd": _skd,
    "semseg": _semseg,
    "torchvision": _torchvision,
    "kdtune": _own,
}
assert set(INFER) == set(get_args(Layout))


def _resnet(state: Weights, prefix: str, file: str) -> str:
    """The ResNet of so many blocks of that kind."""
    depths = []
    for layer in ("layer1", "layer2", "layer3", "layer4"):
        start = f"{prefix}{layer}."
        blocks = {int(key.removeprefix(start).split(".")[0]) for key in state if key.startswith(start)}
        depths.append(len(blocks))
    bottleneck = f"{prefix}layer1.0.conv3.weight" in state
    for name, (block, counts) in RESNETS.items():
        if tuple(depths) == counts and bottleneck != (block is BasicBlock):
            return name
    kind = "bottlenecks" if bottleneck else "basic blocks"
    raise UserError(
        f"{file}: has {', '.join(map(str, depths))} {kind} in its four layers, a depth that kdtune does not have; "
        f"there are: {', '.join(RESNETS)}"
    )
