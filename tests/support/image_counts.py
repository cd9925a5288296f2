"""Confusion matrices of made-up images, and trials whose results are made of them."""

import random
from collections.abc import Sequence

import numpy as np

from kdtune.records.storage import Record, Storage
from kdtune.study.trial_config import TrialConfig
from kdtune.training.image_counts import ImageCounts, collected

PIXELS = 400  # of an image


def drawn(right: Sequence[float], classes: int, seed: int, sequences: Sequence[str | None] = ()) -> ImageCounts:
    """An image for each share of pixels that are right; images of one seed have equal labels, and void pixels."""
    labels = np.random.default_rng(7)
    answers = np.random.default_rng(seed)
    found = []
    for share in right:
        label = labels.integers(0, classes, PIXELS)
        void = labels.random(PIXELS) < 0.05
        guess = np.where(answers.random(PIXELS) < share, label, answers.integers(0, classes, PIXELS))
        found.append(np.unique(np.where(void, classes**2, label * classes + guess), return_counts=True))
    names = [f"image-{i}" for i in range(len(right))]
    return collected(names, list(sequences) or [None] * len(names), found, classes)


def matrix(counts: ImageCounts, classes: int) -> np.ndarray:
    """All images together, cell by cell."""
    found = np.zeros((classes, classes))
    for _, label, predicted, pixels in counts.cells:
        if label >= 0:
            found[label, predicted] += pixels
    return found


def iou(found: np.ndarray) -> list[float | None]:
    """IoU [percent] of each class of a confusion matrix."""
    hits, marked = found.diagonal(), found.sum(0) + found.sum(1)
    return [100 * h / (m - h) if m else None for h, m in zip(hits, marked, strict=True)]


def give(storage: Storage, record: Record, right: Sequence[float], chance: random.Random) -> ImageCounts:
    """Lets a trial's result be that of made-up images: its row and history, and the file beside its weights."""
    row = record["row"]
    classes = TrialConfig.model_validate_json(row["config"]).dataset.num_classes
    counts = drawn(right, classes, chance.randrange(2**31))
    per_class = iou(matrix(counts, classes))
    known = [value for value in per_class if value is not None]
    row |= {"per_class_iou": per_class, "miou": sum(known) / len(known), "miou_best": sum(known) / len(known)}
    record["history"][-1]["miou"] = row["miou"]
    row["image_counts_sha256"] = storage.write_image_counts(row["trial_id"], counts)
    return counts
