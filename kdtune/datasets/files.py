"""Datasets that lie in folders: pairing images with labels, reading both, and what to say when that fails."""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from kdtune.base import IGNORE, Sample, SegmentationDataset, UserError

Size = tuple[int, int]  # H, W [pixels]
IMAGES = (".jpg", ".jpeg", ".png")
FORBIDDEN = -1  # in a table of labels: this value may not occur


def table(classes: Mapping[int, int]) -> NDArray[np.int16]:
    """A table (256,) from the values in label files to classes; values not named are forbidden."""
    values = np.full(256, FORBIDDEN, np.int16)
    for value, label in classes.items():
        values[value] = label
    return values


def folder(dataset: SegmentationDataset, root: Path | None, choices: Sequence[str]) -> Path:
    """The first of ``choices`` (paths relative to ``root``) that is a folder.

    Raises:
        UserError: there is none; says where the data comes from.
    """
    advice = (
        f"{dataset.obtain} into {dataset.name}/ of the folder that --data-root (or KDTUNE_DATA_ROOT) names; "
        "the dataset 'demo' needs no files"
    )
    if root is None:
        raise UserError(f"{dataset.name}: no data folder given: {advice}")
    for choice in choices:
        if (root / choice).is_dir():
            return root / choice
    raise UserError(f"{dataset.name}: no folder {root / choices[0]}: {advice}")


def listing(where: Path, suffixes: Sequence[str] = IMAGES) -> list[Path]:
    """The files of a folder with these suffixes, sorted; hidden ones (``._x.png`` of archives) left out.

    Raises:
        UserError: no such folder, or no such file in it.
    """
    if not where.is_dir():
        raise UserError(f"no folder {where}: unpack the dataset's archives again, or run 'kdtune data check'")
    found = [Path(entry.path) for entry in os.scandir(where) if not entry.name.startswith(".")]
    files = sorted(path for path in found if path.suffix.lower() in suffixes)
    if not files:
        raise UserError(f"{where}: no {', '.join('*' + suffix for suffix in suffixes)} in this folder")
    return files


def pair(images: Sequence[Path], label_of: Callable[[Path], Path]) -> list[tuple[Path, Path]]:
    """Each image with its label.

    Raises:
        UserError: an image or its label does not exist.
    """
    present: dict[Path, set[str]] = {}  # one listing per folder: far fewer round trips than a stat per file

    def exists(path: Path) -> bool:
        if path.parent not in present:
            present[path.parent] = set(os.listdir(path.parent)) if path.parent.is_dir() else set()
        return path.name in present[path.parent]

    pairs = []
    for image in images:
        label = label_of(image)
        if not exists(image):
            raise UserError(f"{image}: listed, but there is no such image: unpack the dataset's archives again")
        if not exists(label):
            raise UserError(f"{image}: has no label {label}: add the label or remove the image")
        pairs.append((image, label))
    return pairs


def samples(pairs: Sequence[tuple[Path, Path]], suffix: str = "") -> list[Sample]:
    """Samples named as the images, without ``suffix``.

    Raises:
        UserError: two images of one name, e.g. ``a.jpg`` and ``a.png``.
    """
    named: dict[str, Sample] = {}
    for image, label in pairs:
        name = image.stem.removesuffix(suffix)
        if name in named:
            raise UserError(f"{image}: has the same name as {named[name].files[0]}: remove one of them")
        named[name] = Sample(name, (image, label))
    return list(named.values())


def read_pair(
    sample: Sample, values: NDArray[np.int16], allowed: str, size: Size | None = None
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Image (H, W, 3) uint8 RGB and label (H, W) uint8 of a sample.

    Args:
        sample: its files are image and label.
        values: from the values in label files to classes, see ``table``.
        allowed: the allowed values in words, for the error.
        size: resize to this: the image bilinear with averaging when it shrinks, the label by nearest pixel.

    Raises:
        UserError: an unreadable file, image and label of different sizes, a forbidden label value.
    """
    image_path, label_path = sample.files
    image, label = _load(image_path), _load(label_path)
    if label.mode not in ("L", "P", "1"):
        raise UserError(f"{label_path}: pixels are {label.mode}, but labels are 8-bit indices (modes L or P)")
    if image.size != label.size:
        sizes = " but its label is ".join("x".join(map(str, each.size)) for each in (image, label))
        raise UserError(f"{image_path}: is {sizes} pixels: {label_path} belongs to another image")
    raw = np.asarray(label, np.uint8)  # (H, W)
    _check(raw, values, allowed, label_path)  # before resizing, which may drop the offending pixel
    image = image.convert("RGB")
    if size is not None and image.size != (size[1], size[0]):
        image = image.resize((size[1], size[0]), Image.Resampling.BILINEAR)
        raw = np.asarray(Image.fromarray(raw).resize((size[1], size[0]), Image.Resampling.NEAREST))
    return np.array(image, np.uint8), values.astype(np.uint8)[raw]


def _load(path: Path) -> Image.Image:
    try:
        with Image.open(path) as image:
            image.load()
            return image
    except FileNotFoundError:
        raise UserError(f"{path}: no such file any more: unpack the dataset's archives again") from None
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{path}: cannot be read ({reason}): the file is damaged, copy it again") from None


def _check(raw: NDArray[np.uint8], values: NDArray[np.int16], allowed: str, path: Path) -> None:
    present = np.flatnonzero(np.bincount(raw.ravel(), minlength=256))
    bad = present[values[present] == FORBIDDEN]
    if bad.size:
        pixels = int(np.count_nonzero(raw == bad[0]))
        raise UserError(f"{path}: label value {bad[0]} at {pixels} pixel(s), but allowed are {allowed}")


def void(*ids: int) -> dict[int, int]:
    """A part of a table: these values are void."""
    return dict.fromkeys(ids, IGNORE)
