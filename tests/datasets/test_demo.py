"""The drawn street scenes."""

import numpy as np
import pytest
from pydantic import ValidationError

from kdtune.base import IGNORE, Sample
from kdtune.datasets.demo import Demo


def test_an_image_depends_on_seed_split_and_index_only() -> None:
    few, many = Demo(name="demo", num_train=3), Demo(name="demo", num_train=9, num_val=5)
    for sample in reversed(few.samples("train", None)):
        for one, other in zip(few.read("train", sample), many.read("train", sample), strict=True):
            np.testing.assert_array_equal(one, other)


def test_images_differ_by_seed_split_and_index() -> None:
    demo, other = Demo(name="demo"), Demo(name="demo", seed=1)
    images = [
        demo.read("train", Sample("train-00000"))[0],
        demo.read("train", Sample("train-00001"))[0],
        demo.read("val", Sample("val-00000"))[0],
        other.read("train", Sample("train-00000"))[0],
    ]
    assert len({image.tobytes() for image in images}) == 4


def test_names() -> None:
    demo = Demo(name="demo", num_train=13, num_val=2)
    assert [sample.name for sample in demo.samples("val", None)] == ["val-00000", "val-00001"]
    assert demo.samples("train", None)[12] == Sample("train-00012")


def test_every_class_is_worth_scoring() -> None:
    demo = Demo(name="demo")
    pixels = np.zeros(256, np.int64)
    images = np.zeros(256, np.int64)
    for sample in demo.samples("val", None):
        counts = np.bincount(demo.read("val", sample)[1].ravel(), minlength=256)
        pixels += counts
        images += counts > 0
    share = pixels / pixels.sum()
    assert share[: demo.num_classes].min() > 0.005
    assert share[: demo.num_classes].max() < 0.4
    assert images[: demo.num_classes].min() >= 16
    assert 0.01 < share[IGNORE] < 0.1
    assert pixels[demo.num_classes : IGNORE].sum() == 0


@pytest.mark.parametrize("size", [(1, 1), (7, 200), (33, 17), (64, 96), (180, 240)])
def test_any_size(size: tuple[int, int]) -> None:
    demo = Demo(name="demo", size=size)
    for sample in demo.samples("train", None)[:3]:
        image, label = demo.read("train", sample)
        assert image.shape == (*size, 3)
        assert label.shape == size


def test_another_size_is_the_same_street() -> None:
    small, large = Demo(name="demo", size=(48, 64)), Demo(name="demo", size=(192, 256))
    for sample in small.samples("train", None)[:5]:
        coarse, fine = small.read("train", sample)[1], large.read("train", sample)[1][2::4, 2::4]
        both = (coarse != IGNORE) & (fine != IGNORE)
        assert np.mean(coarse[both] == fine[both]) > 0.9


def test_colour_alone_does_not_give_the_class() -> None:
    demo = Demo(name="demo", num_train=60)
    counts = np.zeros((8, 8, 8, demo.num_classes), np.int64)

    def votes(split: str, sample: Sample) -> tuple[np.ndarray, np.ndarray]:
        image, label = demo.read("train" if split == "train" else "val", sample)
        return image[label != IGNORE] // 32, label[label != IGNORE]

    for sample in demo.samples("train", None):
        colour, label = votes("train", sample)
        np.add.at(counts, (*colour.T, label), 1)
    best = counts.argmax(axis=-1)
    hits = np.zeros((demo.num_classes, demo.num_classes), np.int64)
    for sample in demo.samples("val", None)[:30]:
        colour, label = votes("val", sample)
        np.add.at(hits, (label, best[tuple(colour.T)]), 1)
    iou = hits.diagonal() / np.maximum(1, hits.sum(0) + hits.sum(1) - hits.diagonal())
    assert 5 < 100 * iou.mean() < 20


def test_bad_fields_are_refused() -> None:
    for field, value in (("size", (0, 5)), ("num_val", 0), ("seed", -1), ("hardness", 1)):
        with pytest.raises(ValidationError, match=field):
            Demo(**{"name": "demo", field: value})
