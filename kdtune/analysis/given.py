"""What commands were given, looked at before torch is imported, which takes seconds: images, outputs, settings."""

import glob
import os
import shlex
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from kdtune.base import Model, UserError
from kdtune.datasets.files import IMAGES
from kdtune.study.faults import told
from kdtune.study.file import dataset_named
from kdtune.study.given_model import network_named
from kdtune.study.trial_config import TrialConfig, Value

VIDEOS = (".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv")
ONNX, TORCH = ".onnx", ".pt2"  # what an exported file is, by its suffix
ANY_NETWORK = "{name: pspnet, backbone: resnet18}"
PACKAGES = ("onnx", "onnxscript", "onnxruntime")


def found_images(given: Sequence[str]) -> list[Path]:
    """The files of images, of folders (all directly in them, sorted) and of patterns, each once.

    Raises:
        UserError: something of it is none, or is a video.
    """
    found: dict[Path, None] = {}
    for each in given:
        path = Path(each).expanduser()
        if path.suffix.lower() in VIDEOS and not path.is_dir():
            raise UserError(_video(each))
        if path.is_dir():
            inside = sorted(Path(entry.path) for entry in os.scandir(path) if not entry.name.startswith("."))
            files = [file for file in inside if file.suffix.lower() in IMAGES]
            if not files:
                raise UserError(f"{each}: no image in this folder ({', '.join('*' + suffix for suffix in IMAGES)})")
        elif path.exists():
            files = [path]
        else:
            files = [Path(name) for name in sorted(glob.glob(str(path), recursive=True)) if Path(name).is_file()]
            if not files:
                raise UserError(f"{each}: no such image or folder, nor a pattern that any file fits")
        found.update(dict.fromkeys(files))
    for file in found:
        if file.suffix.lower() not in IMAGES:
            raise UserError(f"{file}: is no JPEG or PNG by its suffix; these are read: {', '.join(IMAGES)}")
    return list(found)


def _video(given: str) -> str:
    frames = f"{Path(given).stem}-frames"
    named = shlex.quote(given)
    return (
        f"{given}: is a video, of which kdtune reads no frames: take them out with `mkdir {shlex.quote(frames)} && "
        f"ffmpeg -i {named} {shlex.quote(frames + '/%06d.png')}`, then predict {shlex.quote(frames)}"
    )


def exported_as(output: str) -> str:
    """The suffix of an exported file.

    Raises:
        UserError: another one, or packages that it needs are missing.
    """
    kind = Path(output).suffix
    if kind not in (ONNX, TORCH):
        raise UserError(f"-o {output}: name the file *{ONNX} or *{TORCH}, which says what it is to be")
    if kind == ONNX:
        require_onnx()
    return kind


def require_onnx() -> None:
    """Says what to install where something is missing.

    Raises:
        UserError: it is.
    """
    missing = [package for package in PACKAGES if find_spec(package) is None]
    if missing:
        raise UserError(
            f"an ONNX file needs {', '.join(missing)}: pip install 'kdtune[export]', or give a name that ends in "
            f"{TORCH} for torch's own form"
        )


def evaluated(dataset: str, model: Model, settings: Mapping[str, Value]) -> TrialConfig:
    """A trial that trains nothing.

    Raises:
        UserError: no such dataset, or a setting that it or an evaluation does not have.
    """
    foreign = [path for path in settings if not path.startswith(("dataset.", "recipe."))]
    if foreign:
        raise UserError(f"--set {foreign[0]}: an evaluation has only dataset.* and recipe.*")
    data = {
        "dataset": _fields(dataset),
        "student": model.model_copy(update={"init": "random"}),
        "losses": {"ce": {"weight": 1.0}},
        "recipe": {"lr": 1.0, "weight_decay": 0.0, "num_steps": 0},
    }
    try:
        return TrialConfig.model_validate(data).replace(settings)
    except ValidationError as error:
        fault = error.errors()[0]
        path = ".".join(str(part) for part in fault["loc"])
        where = f"--data {dataset}" if path.startswith("dataset.name") else f"--set {path}"
        raise UserError(f"{where}: {told(fault)}") from None


def check_evaluation(dataset: str, models: Sequence[str], settings: Mapping[str, Value]) -> None:
    """Raises UserError as ``evaluated`` does, whatever network the weights are of, and for what is no network."""
    for model in models or (ANY_NETWORK,):
        evaluated(dataset, network_named(model), settings)


def _fields(dataset: str) -> Any:
    """The dataset of a name, or of a file."""
    return dataset_named(dataset) if dataset.endswith((".yaml", ".yml")) else {"name": dataset}
