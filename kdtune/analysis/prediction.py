"""``kdtune predict``: what a network makes of images in files, as masks, in colour, and over the images."""

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from kdtune.analysis.given import found_images
from kdtune.analysis.weights_file import Opened, opened_network
from kdtune.base import SegmentationDataset, UserError
from kdtune.datasets import DATASETS
from kdtune.datasets.bar import bar
from kdtune.datasets.colours import Colour, enough
from kdtune.datasets.decode import photograph, resized
from kdtune.study.recipe import Recipe
from kdtune.training.prediction import classes_of
from kdtune.training.weights import WeightsRecord

KINDS = ("labels", "colour", "overlay")  # folders of the output
MIXED = 0.5  # share of the colours in the overlay
MOST_CLASSES = 256  # that 8 bits hold

Pixels = NDArray[np.uint8]
Size = tuple[int, int]  # H, W [pixels]


@dataclass(frozen=True)
class Asked:
    """What ``kdtune predict`` was asked for."""

    weights: str
    images: Sequence[str]  # files, folders, patterns
    output: str
    model: str | None = None  # as YAML; none: as the file's record says
    window: Size | None = None  # of tiles, in the place of the record's
    whole: bool = False  # no tiles, whatever the record says


def predict(asked: Asked) -> Iterator[str]:
    """Writes ``labels``, ``colour`` and ``overlay`` of each image; yields the share of each class, and how fast it was.

    Raises:
        UserError: no such image or weights, two images of one name, or a folder that cannot be written.
    """
    files = found_images(asked.images)
    output = Path(asked.output).expanduser()
    places = outputs(files, output)
    opened = opened_network(asked.weights, asked.model)
    record = opened.record
    if record.num_classes > MOST_CLASSES:
        raise UserError(f"{opened.file}: tells {record.num_classes} classes apart, 8 bits hold {MOST_CLASSES}")
    make_folders(output)
    palette = np.array(colours_of(record), np.uint8)
    recipe = Recipe(lr=1.0, weight_decay=0.0, num_steps=0, eval_window=_window(asked, record))
    counts: Counter[int] = Counter()
    began = time.perf_counter()
    with bar("predicting", len(files), lambda done: f"{done} images") as watch:
        for done, file in enumerate(files, start=1):
            image = photograph(file)
            classes = _classes(opened, recipe, image)
            _write(image, classes, palette, places[file])
            counts.update(dict(enumerate(np.bincount(classes.ravel()).tolist())))
            watch(done)
    seconds = time.perf_counter() - began
    yield from _shares(record, counts)
    yield (
        f"{len(files)} image{'s' * (len(files) != 1)} in {seconds:.1f} s, reading and writing included: "
        f"{asked.output}/{{{','.join(KINDS)}}}"
    )


def outputs(files: Sequence[Path], output: Path) -> dict[Path, dict[str, Path]]:
    """Image -> kind -> where it goes.

    Raises:
        UserError: two images have one name, or an output would replace an image.
    """
    named: dict[str, Path] = {}
    for file in files:
        if file.stem in named:
            raise UserError(f"{file}: has the same name as {named[file.stem]}, as which its masks would be written")
        named[file.stem] = file
    places = {file: {kind: output / kind / f"{stem}.png" for kind in KINDS} for stem, file in named.items()}
    given = {file.resolve() for file in files}
    for kinds in places.values():
        for place in kinds.values():
            if place.resolve() in given:
                raise UserError(f"{place}: is one of the images, which its mask would replace; give another -o DIR")
    return places


def make_folders(output: Path) -> None:
    """Those of the kinds.

    Raises:
        UserError: they cannot be made.
    """
    try:
        for kind in KINDS:
            (output / kind).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{output}: cannot be written: {error.strerror or error}") from None


def colours_of(record: WeightsRecord) -> list[Colour]:
    """The colours of a network's classes: its record's, else its dataset's, else any that are easily told apart."""
    palette: Sequence[Colour] = record.palette or ()
    if not palette and record.dataset in DATASETS.names():
        known: type[SegmentationDataset] = DATASETS.resolve(record.dataset)
        own = getattr(known, "palette", ())
        palette = own if isinstance(own, Sequence) else ()
    return enough(palette, record.num_classes)


def _window(asked: Asked, record: WeightsRecord) -> Size | None:
    if asked.whole:
        return None
    return asked.window or record.window


def _classes(opened: Opened, recipe: Recipe, image: Pixels) -> Pixels:
    """The classes (H, W) of an image, which the network sees at the size that its dataset had."""
    size = opened.record.size
    seen = resized(image, size) if size is not None and image.shape[:2] != size else image
    return classes_of(opened.network, opened.model.preprocessing, recipe, seen, image.shape[:2])


def _write(image: Pixels, classes: Pixels, palette: Pixels, places: dict[str, Path]) -> None:
    colour = palette[classes]  # (H, W, 3)
    mixed = ((1 - MIXED) * image + MIXED * colour).round().astype(np.uint8)
    for kind, pixels in zip(KINDS, (classes, colour, mixed), strict=True):
        try:
            Image.fromarray(pixels).save(places[kind], "PNG")
        except OSError as error:
            raise UserError(f"{places[kind]}: cannot be written: {error.strerror or error}") from None


def _shares(record: WeightsRecord, counts: Counter[int]) -> Iterator[str]:
    """A line per class: index, name, share of all pixels."""
    names = record.classes or tuple(f"class {i}" for i in range(record.num_classes))
    width = max(len("class"), *map(len, names))
    yield f"index {'class':{width}} pixels [%]"
    for i, name in enumerate(names):
        yield f"{i:5} {name:{width}} {100 * counts[i] / counts.total():10.2f}"
