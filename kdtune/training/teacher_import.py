"""Published checkpoints made kdtune's own: ``kdtune teacher import``."""

import hashlib
import shlex
from collections.abc import Callable, Iterator

from kdtune.base import Model, Preprocessing, SegmentationDataset, UserError
from kdtune.filesystem.folder import Folder, read_file
from kdtune.models import builders
from kdtune.models.published import from_semseg, from_skd, layout_of
from kdtune.study.file import dataset_named
from kdtune.study.given_model import given_model, model_from
from kdtune.training.asked_import import Import as Import
from kdtune.training.asked_import import check
from kdtune.training.built import built
from kdtune.training.checkpoint_layouts import INFER, NETWORKS, Layout
from kdtune.training.hub_folder import chooses_code
from kdtune.training.teachers import as_written, in_yaml, preprocessing_words
from kdtune.training.weights import Weights, WeightsRecord, read_weights, unwrapped, weights_bytes
from kdtune.training.weights_classes import classes_told

# SKD reads with OpenCV, which gives BGR, and only subtracts: train_and_eval.py, IMG_MEAN.
CAFFE = Preprocessing(order="bgr", mean=(104.00698793, 116.66876762, 122.67891434), std=(1.0, 1.0, 1.0))


def import_weights(asked: Import) -> Iterator[str]:
    """Converts a published checkpoint into a file for ``--teacher``; yields what it found, line by line.

    Raises:
        UserError: not a checkpoint of that layout, of other classes than the dataset's, damaged, or the output is
            there already.
    """
    check(asked)
    folder, name = Folder(asked.output).split()
    weights = read_weights(asked.file)
    state = _renamed(weights, asked)
    _check_numbers(asked.file, weights)
    fields = given_model(asked.model) if asked.model else INFER[asked.layout](state, asked.file)
    if asked.layout == "skd":
        fields = {"preprocessing": CAFFE.model_dump(), **fields}
    model = model_from(fields, f"--model {asked.model}" if asked.model else asked.file)
    classes = classes_told(model, state, asked.file)
    dataset = _dataset(asked.dataset, asked.file, classes)
    state = {k: v.float() if v.is_floating_point() else v for k, v in state.items()}
    network = built(model, classes, state, asked.file)
    record = WeightsRecord(
        model=model.model_dump(mode="json"),
        num_classes=classes,
        dataset=dataset.name if dataset else None,
        classes=tuple(dataset.class_names) if dataset else None,
        source={"layout": asked.layout, "sha256": hashlib.sha256(read_file(asked.file) or b"").hexdigest()},
    )
    try:
        folder.write(name, weights_bytes(network, record))
    except OSError as error:
        raise UserError(f"{asked.output}: cannot be written: {error.strerror or error}") from None
    shown = {k: v for k, v in record.model.items() if v is not None and k not in ("init", "preprocessing")}
    yield f"model: {in_yaml(shown)}"
    yield f"classes: {classes}{f', {asked.dataset}' if asked.dataset else ''}"
    yield f"preprocessing: {preprocessing_words(model.preprocessing)}"
    yield f"weights: {asked.output}"
    yield f"next: {_next(record, model, asked.output)}"


def _next(record: WeightsRecord, model: Model, output: str) -> str:
    """How the file becomes a study's teacher: another package's network only where the user names it again."""
    plain = f"kdtune launch STUDY --teacher {output}"
    if not (model.name == "external" and chooses_code(record.model)):
        return plain
    places = [str(path or name) for name, path in builders.vouched().items()]
    modules = "".join(f" --py-module {shlex.quote(place)}" for place in places)
    return f"write {as_written(model)} in the study, then {plain}{modules}"


def _renamed(weights: Weights, asked: Import) -> Weights:
    """The weights under kdtune's keys, or the refusal of another layout."""
    if layout_of(weights) is None and layout_of(unwrapped(weights)) is not None:
        weights = unwrapped(weights)
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
        none = "it looks like none that is known: say its network as a study does, with --model"
        like = f"it looks like {NETWORKS[looks]}: --layout {looks}" if looks else none  # type: ignore[index]
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


def _dataset(name: str | None, file: str, classes: int) -> SegmentationDataset | None:
    if name is None:
        return None
    found = dataset_named(name)
    if found.num_classes != classes:
        raise UserError(f"{file}: tells {classes} classes apart, dataset '{name}' has {found.num_classes}")
    return found
