"""What networks make of a few validation images: image, label and predictions in the dataset's colours, as PNG."""

import io
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from kdtune.base import IGNORE, SegmentationDataset, SegNet, UserError
from kdtune.datasets.colours import Colour, palette_of
from kdtune.devices import compute_device
from kdtune.loading.images import Images, read_directly
from kdtune.loading.pack import dataset_root
from kdtune.models.builders import is_vouched
from kdtune.models.external import ExternalModel
from kdtune.records.storage import Storage
from kdtune.report.facts import Contender, trial_config
from kdtune.study.trial_config import TrialConfig
from kdtune.training.built import built
from kdtune.training.hub_folder import chooses_code
from kdtune.training.prediction import classes_of
from kdtune.training.weights import read_weights

Pixels = NDArray[np.uint8]

IMAGES = 4
SIDE = 480  # pixels of the longer side as shown; a label is thinned, never mixed
STRIPE = 4  # pixels: void is shown striped, which no class is
VOID = ((236, 236, 236), (120, 120, 120))


@dataclass(frozen=True)
class Picture:
    """One image of a panel; ``right`` is the share of its labelled pixels that a prediction has right, 0 to 1."""

    title: str
    png: bytes
    right: float | None = None


@dataclass(frozen=True)
class Panel:
    """A validation image with its label and predictions, and the classes that occur in them."""

    name: str
    pictures: tuple[Picture, ...]
    classes: frozenset[int]
    void: bool


def panels(
    where: Storage, contenders: Sequence[Contender], data_root: str | None, trusted: Collection[str] = ()
) -> tuple[SegmentationDataset, list[Panel], list[str]]:
    """Panels of ``IMAGES`` validation images, evenly spaced over the split: not chosen by how they turned out.

    ``trusted``: builders of other packages' networks that the user's own study file names. Also given: a line for each
    network that cannot be shown.

    Raises:
        UserError: the data are not there, or no network can be shown.
    """
    found = [(each, each.trials[0], trial_config(each.trials[0])) for each in contenders]
    configs = [config for _, _, config in found if config is not None]
    if not configs or len(configs) < len(found):
        raise UserError("a trial's configuration names parts that this installation of kdtune does not have")
    dataset = configs[0].dataset
    networks, faults = [], []
    for (each, row, _), config in zip(found, configs, strict=True):
        try:
            if config.dataset != dataset:
                raise UserError(f"it was evaluated on another dataset than the {contenders[0].role}")
            networks.append((each.role, config, _network(where, row["trial_id"], config, trusted)))
        except UserError as error:
            faults.append(f"the {each.role}: {error}")
    if not networks:
        raise UserError("; ".join(faults))
    split = read_directly(dataset, "val", dataset_root(dataset, data_root))
    if len(split) == 0:
        raise UserError(f"dataset '{dataset.name}' has no validation images")
    chosen = sorted({int((i + 0.5) * len(split) / IMAGES) for i in range(IMAGES)})
    return dataset, [_panel(dataset, split, i, networks) for i in chosen], faults


def _network(where: Storage, trial_id: str, config: TrialConfig, trusted: Collection[str]) -> SegNet:
    """A trial's student with its weights.

    Raises:
        UserError: the weights are not there or damaged, or the network is another package's that nobody vouches for.
    """
    model = config.student
    if isinstance(model, ExternalModel):  # building it imports code, which what lies on a storage must not choose
        known = model.builder in trusted or is_vouched(model.builder)
        if not known and chooses_code(model.model_dump(mode="json")):
            raise UserError(
                f"trial {trial_id} trained a network of another package, whose code a report does not load unasked: "
                f"give the study's own file, or --py-module {model.builder.partition(':')[0]}"
            )
    source = where.checkpoint_uri(trial_id)
    network = built(config.student, config.dataset.num_classes, read_weights(source), source)
    return network.to(compute_device()).eval().requires_grad_(False)


def predicted(network: SegNet, config: TrialConfig, image: Pixels) -> Pixels:
    """Classes (H, W) of an image (H, W, 3), as a trial's evaluations get them."""
    return classes_of(network, config.student.preprocessing, config.recipe, image)


def _panel(
    dataset: SegmentationDataset, split: Images, i: int, networks: Sequence[tuple[str, TrialConfig, SegNet]]
) -> Panel:
    image, label = split.image(i), split.label(i)
    palette = palette_of(dataset)
    pictures = [Picture("image", _png(Image.fromarray(_thinned(image)))), Picture("label", _coloured(label, palette))]
    seen = {int(value) for value in np.unique(label)}
    for role, config, network in networks:
        classes = predicted(network, config, image)
        counted = label != IGNORE
        right = float((classes == label)[counted].mean()) if counted.any() else None
        pictures.append(Picture(role, _coloured(classes, palette), right))
        seen |= {int(value) for value in np.unique(classes)}
    return Panel(split.names[i], tuple(pictures), frozenset(seen - {IGNORE}), IGNORE in seen)


def _thinned(pixels: Pixels) -> Pixels:
    """Every so many pixels, so that the longer side has at most ``SIDE``; photographs are averaged."""
    step = -(-max(pixels.shape[:2]) // SIDE)
    if step == 1:
        return pixels
    if pixels.ndim == 2:
        return np.ascontiguousarray(pixels[step // 2 :: step, step // 2 :: step])
    reduced: Any = Image.fromarray(pixels).reduce(step)
    return np.asarray(reduced)


def _coloured(classes: Pixels, palette: Sequence[Colour]) -> bytes:
    """Classes as an image of the palette; void striped."""
    classes = _thinned(classes)
    rows, columns = np.indices(classes.shape)
    stripes = np.where((rows + columns) // STRIPE % 2, IGNORE - 1, IGNORE)
    image = Image.fromarray(np.where(classes == IGNORE, stripes, classes).astype(np.uint8))
    colours = np.zeros((256, 3), np.uint8)
    colours[: len(palette)] = palette
    colours[IGNORE - 1 :] = VOID
    image.putpalette(colours.flatten().tolist())
    return _png(image)


def _png(image: Image.Image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "PNG", optimize=True)
    return stream.getvalue()
