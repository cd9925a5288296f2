"""What is known of a network that a study hands out, for whoever gets its weights: a model card in Markdown."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from kdtune.answers.formats import Block, Cell, as_markdown, markdown
from kdtune.answers.ranking import Row
from kdtune.answers.verdicts import signed
from kdtune.answers.winner import Winner
from kdtune.base import SegmentationDataset
from kdtune.datasets.files import says_its_place
from kdtune.losses.marks import DAGGER, FOOTNOTE, marked
from kdtune.study.holdout import VAL
from kdtune.study.trial_config import STAGE_REFERENCE, TrialConfig
from kdtune.text import printable


@dataclass(frozen=True)
class Given:
    """What the card is of: the file, the run, its configuration, and what the whole search took."""

    file: str  # its name
    megabytes: float
    parameters: int
    study: str
    winner: Winner
    config: TrialConfig
    search: Mapping[str, float]  # trials and, where they were metered, kwh: of the whole study


def card(given: Given) -> str:
    """The card."""
    parts = [_head(given), "## Score", *_score(given), "## Network", *_network(given), "## Data", *_data(given)]
    parts += ["## Recipe", *_recipe(given), "## Licences", _points(_licences(given.config))]
    return "\n\n".join(parts) + "\n"


def _head(given: Given) -> str:
    row, config = given.winner.row, given.config
    title = as_markdown(f"{config.student.label}, {marked(row['method'])}, {config.dataset.name}")
    made = [f"kdtune {row['kdtune_version']}", f"torch {row['torch_version']}", row["device"]]
    made += [f"{row['finished_at']:%Y-%m-%d}"] if row["finished_at"] else []
    ours = [FOOTNOTE] if DAGGER in title else []
    return f"# {title}\n\n" + _points(
        [
            f"weights: {_code(given.file)}, {given.megabytes:.1f} MB, {given.parameters:,} numbers",
            f"study {_code(given.study)}, stage {_code(row['stage'])}, trial {_code(row['trial_id'])}",
            f"made with {as_markdown(', '.join(str(each) for each in made if each))}",
            *ours,
        ]
    )


def _score(given: Given) -> Iterator[str]:
    found, dataset = given.winner, given.config.dataset
    held_out = given.config.evaluated_on != VAL
    images = "images of the training split, held out," if held_out else "validation images"
    yield f"mIoU **{found.row['miou']:.2f} %** on the {images} of {as_markdown(dataset.name)}."
    seeds = ", ".join(str(row["seed"]) for row in found.seeds)
    told = []
    if found.deviation is not None and found.interval is not None:
        low, high = found.interval
        told += [
            f"over seeds {seeds}: {found.mean:.2f} ± {found.deviation:.2f} %; the mean lies in {low:.2f} to {high:.2f} "
            "% (95 %, Student's t)",
            "the weights are those of the highest of these runs, which is luck in part: expect the mean",
        ]
    else:
        told += ["one seed: how much of this is luck is not known"]
    if found.images is not None:
        low, high = found.images
        told += [f"on other images like these: {low:.2f} to {high:.2f} % (95 %, bootstrap over {found.over})"]
    else:
        told += [f"no interval for other images: {as_markdown(found.over)}"]
    if found.gain is not None and found.gain.difference is not None:
        told += [f"against the tuned student alone: {_gain(given)}"]
    if held_out or given.config.select_on == VAL:
        told += ["the same images chose the hyperparameters: on images that chose nothing it may be lower"]
    else:
        told += ["other images, held out of the training split, chose the hyperparameters"]
    yield _points(told)
    yield _classes(dataset, found.row["per_class_iou"])


def _gain(given: Given) -> str:
    gain = given.winner.gain
    assert gain is not None
    assert gain.difference is not None
    known = gain.low is not None and gain.high is not None
    interval = f", {signed(gain.low or 0.0)} to {signed(gain.high or 0.0)} (95 %)" if known else ""
    return f"{signed(gain.difference)} points{interval}; {as_markdown(gain.verdict)}"


def _classes(dataset: SegmentationDataset, iou: Sequence[float | None] | None) -> str:
    rows = [
        [Cell(str(i)), Cell(name), Cell("absent" if value is None else f"{value:.2f}")]
        for i, (name, value) in enumerate(zip(dataset.class_names, iou or [], strict=False))
    ]
    return markdown([Block("IoU by class:", ["index", "class", "IoU [%]"], rows)]).strip()


def _network(given: Given) -> Iterator[str]:
    model = given.config.student.model_dump(mode="json")
    yield _yaml(model)
    order, window = given.config.student.preprocessing.order, given.config.recipe.eval_window
    size = getattr(given.config.dataset, "size", None)
    told = [
        f"it takes {order} images of values 0 to 255, less the mean, divided by the standard deviation; its logits are "
        "enlarged to the image's size (bilinear, corners aligned)"
    ]
    told += [f"images were resized to {size[0]} x {size[1]} pixels (height, width) before"] if size else []
    told += [f"it was evaluated in tiles of {window[0]} x {window[1]} pixels"] if window else []
    yield _points(told)


def _data(given: Given) -> Iterator[str]:
    dataset = given.config.dataset
    yield _yaml(dataset.model_dump(mode="json"))
    if dataset.obtain and not says_its_place(dataset):
        yield f"To get it: {as_markdown(dataset.obtain)}."


def _recipe(given: Given) -> Iterator[str]:
    row, config = given.winner.row, given.config
    data = config.model_dump(mode="json")
    yield _yaml({key: data[key] for key in ("losses", "recipe", "seed")})
    told = []
    if config.uses_teacher and config.teacher is not None:
        told += [f"teacher: {_code(config.teacher.model.label)}, {_code(config.teacher.checkpoint)}"]
    if config.warm_start is not None:
        told += [f"started from {_code(config.warm_start.checkpoint)}, {config.warm_start.part}"]
    told += [f"this run: {_taken(row)}"]
    kwh = f", {given.search['kwh']:.3g} kWh" if "kwh" in given.search else ""
    told += [f"the whole study: {given.search['trials']:.0f} trials{kwh}"]
    yield _points(told)


def _taken(row: Row) -> str:
    parts = [f"{row['step']} steps", f"{row['train_seconds']:.0f} s"]
    if row["energy_kwh"] is not None:
        parts += [f"{row['energy_kwh']:.3g} kWh, {row['co2_kg'] or 0.0:.3g} kg CO2-equivalent"]
    return ", ".join(parts)


def _licences(config: TrialConfig) -> Iterator[str]:
    """What is known of whose terms hold; kdtune itself asks for none."""
    yield "kdtune adds no terms of its own to these weights; those of what they were made from hold"
    archive = getattr(config.dataset, "archive", None)
    terms = config.dataset.terms or (archive.terms if archive else "")
    yield f"data: {as_markdown(terms)}" if terms else "data: kdtune does not know its terms; ask who gave it"
    if config.student.init == "imagenet":
        yield (
            "the backbone started from torchvision's ImageNet weights; ImageNet is for non-commercial research and "
            "education: https://www.image-net.org/download"
        )
    if config.warm_start is not None and not _own(config.warm_start.checkpoint):
        yield "it started from weights of a file, whose terms kdtune does not know"
    if config.uses_teacher and config.teacher is not None and not _own(config.teacher.checkpoint):
        yield "it learnt from a teacher in a file, whose terms kdtune does not know"
    for builder in sorted(config.builders):
        yield f"a network is built by {_code(builder)}: that package's licence"


def _own(checkpoint: str) -> bool:
    """Whether the study itself made these weights."""
    return checkpoint.startswith((STAGE_REFERENCE, "trial:"))


def _points(lines: Iterator[str] | Sequence[str]) -> str:
    return "\n".join(f"* {line}" for line in lines)


def _yaml(data: Mapping[str, Any]) -> str:
    text = yaml.safe_dump(dict(data), sort_keys=False, width=100, default_flow_style=None)
    return f"```yaml\n{text}```"


def _code(word: str) -> str:
    """A word as code; it must not end that."""
    plain = re.sub(r"[`\s]+", " ", printable(word))
    return f"`{plain}`"
