"""What every dataset of the table promises, on a miniature of it in the layout of the real one."""

import pickle
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torchvision.datasets

from kdtune.base import IGNORE, SegmentationDataset, UserError
from kdtune.datasets import DATASETS
from kdtune.datasets.ade20k import Ade20k
from kdtune.datasets.camvid import CamVid
from kdtune.datasets.cityscapes import Cityscapes, label_values
from kdtune.datasets.synth import WRITERS, write_synthetic
from kdtune.datasets.voc import Voc

SIZE = (48, 64)
IMAGES = 3
SPLITS: tuple[Literal["train"], Literal["val"]] = ("train", "val")


@pytest.fixture(scope="module", params=[*DATASETS.table])
def miniature(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[SegmentationDataset, Path]:
    name: str = request.param
    root = tmp_path_factory.mktemp(name)
    if name == "demo":
        dataset = DATASETS.resolve(name)(name=name, size=SIZE, num_train=IMAGES, num_val=IMAGES)
    elif name == "folder":
        write_synthetic("camvid", root, IMAGES, size=SIZE)
        patterns = {
            "images": {"train": "train/*", "val": "val/*"},
            "masks": {"train": "trainannot/*", "val": "valannot/*"},
        }
        classes = list(CamVid.class_names)
        dataset = DATASETS.resolve(name)(name=name, root=str(root), classes=classes, ignore=[11], **patterns)
    else:
        dataset = DATASETS.resolve(name)(name=name)
        write_synthetic(name, root, IMAGES, size=SIZE)
    return dataset, root


def test_the_table_has_a_miniature_of_each_dataset() -> None:
    assert set(WRITERS) | {"demo", "folder"} == set(DATASETS.table)


def test_classes_and_palette_go_together(miniature: tuple[SegmentationDataset, Path]) -> None:
    dataset, _ = miniature
    assert dataset.num_classes == len(dataset.class_names) == len(dataset.palette)
    shared = 1 if dataset.name == "ade20k" else 0  # its own palette gives road and skyscraper one colour
    assert len(set(dataset.class_names)) == len(set(dataset.palette)) + shared == dataset.num_classes
    assert all(len(colour) == 3 and all(0 <= each <= 255 for each in colour) for colour in dataset.palette)
    assert dataset.obtain


def test_images_and_labels_fit(miniature: tuple[SegmentationDataset, Path]) -> None:
    dataset, root = miniature
    for split in SPLITS:
        samples = dataset.samples(split, root)
        assert len(samples) == IMAGES
        assert len({sample.name for sample in samples}) == IMAGES
        for sample in samples:
            image, label = dataset.read(split, sample)
            assert image.shape == (*SIZE, 3)
            assert label.shape == SIZE
            assert image.dtype == label.dtype == np.uint8
            assert image.std() > 5
            classes = set(np.unique(label).tolist()) - {IGNORE}
            assert len(classes) >= 3
            assert max(classes) < dataset.num_classes


def test_splits_share_no_image(miniature: tuple[SegmentationDataset, Path]) -> None:
    dataset, root = miniature
    names = [{sample.name for sample in dataset.samples(split, root)} for split in SPLITS]
    assert not names[0] & names[1]


def test_order_and_pixels_are_stable(miniature: tuple[SegmentationDataset, Path]) -> None:
    dataset, root = miniature
    again = pickle.loads(pickle.dumps(dataset))
    assert again == dataset
    samples = dataset.samples("train", root)
    assert again.samples("train", root) == samples
    assert [sample.name for sample in samples] == sorted(sample.name for sample in samples)
    for ours, theirs in zip(dataset.read("train", samples[0]), again.read("train", samples[0]), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_missing_root_says_what_to_do(miniature: tuple[SegmentationDataset, Path], tmp_path: Path) -> None:
    dataset, _ = miniature
    if not dataset.needs_files:
        assert dataset.samples("train", None)
        return
    for root in (None, tmp_path / "nowhere"):
        with pytest.raises(UserError) as caught:
            dataset.samples("train", root)
        message = str(caught.value)
        assert "\n" not in message
        elsewhere = () if dataset.name == "folder" else ("--data-root", "'demo'")  # its root is absolute
        assert all(word in message for word in (dataset.name, dataset.obtain, *elsewhere))
        assert ("--data-root" in message) == bool(elsewhere)
        assert root is None or str(root) in message


@pytest.mark.parametrize("name", ["camvid", "cityscapes"])
def test_resizing_on_reading(name: str, tmp_path: Path) -> None:
    write_synthetic(name, tmp_path, 1, size=(96, 128))
    full = DATASETS.resolve(name)(name=name)
    half = DATASETS.resolve(name)(name=name, size=(48, 64))
    sample = full.samples("val", tmp_path)[0]
    (image, label), (small, small_label) = full.read("val", sample), half.read("val", sample)
    assert small.shape == (48, 64, 3)
    np.testing.assert_array_equal(small_label, label[1::2, 1::2])  # nearest: a pixel of each 2 x 2
    blocks = image.reshape(48, 2, 64, 2, 3).mean(axis=(1, 3))
    assert np.abs(small - blocks).mean() < 4  # averaged, not sampled


def test_cityscapes_ids_are_torchvisions(tmp_path: Path) -> None:
    evaluated = [each for each in torchvision.datasets.Cityscapes.classes if not each.ignore_in_eval]
    evaluated = sorted((each for each in evaluated if each.train_id >= 0), key=lambda each: each.train_id)
    assert list(Cityscapes.class_names) == [each.name for each in evaluated]
    assert list(Cityscapes.palette) == [each.color for each in evaluated]
    values = label_values()
    assert [int(values[each.id]) for each in evaluated] == list(range(19))
    assert np.count_nonzero(values == IGNORE) == 34 - 19 + 1  # and 255, how the licence plate's -1 is stored


def test_torchvision_reads_the_synthetic_cityscapes(tmp_path: Path) -> None:
    write_synthetic("cityscapes", tmp_path, IMAGES, size=SIZE)
    dataset = Cityscapes(name="cityscapes")
    for split in SPLITS:
        official = torchvision.datasets.Cityscapes(str(tmp_path), split=split, mode="fine", target_type="semantic")
        ours = {sample.files[0].name: dataset.read(split, sample) for sample in dataset.samples(split, tmp_path)}
        assert len(official) == len(ours) == IMAGES
        for path, (image, target) in zip(official.images, official, strict=True):
            expected, label = ours[Path(path).name]
            np.testing.assert_array_equal(np.asarray(image), expected)
            np.testing.assert_array_equal(label_values()[np.asarray(target)], label)


def test_torchvision_reads_the_synthetic_voc(tmp_path: Path) -> None:
    write_synthetic("voc", tmp_path, IMAGES, size=SIZE)
    dataset = Voc(name="voc")
    for split in SPLITS:
        official = torchvision.datasets.VOCSegmentation(str(tmp_path), image_set=split)
        samples = dataset.samples(split, tmp_path)
        assert len(official) == len(samples) == IMAGES
        for (image, target), sample in zip(official, samples, strict=True):
            expected, label = dataset.read(split, sample)
            assert target.mode == "P"
            assert tuple(target.getpalette()[3:6]) == Voc.palette[1] == (128, 0, 0)
            np.testing.assert_array_equal(np.asarray(image), expected)
            np.testing.assert_array_equal(np.asarray(target), label)
    assert len(torchvision.datasets.VOCSegmentation(str(tmp_path), image_set="trainval")) == 2 * IMAGES


def test_the_augmented_voc(tmp_path: Path) -> None:
    write_synthetic("voc", tmp_path, IMAGES, size=SIZE)
    plain, augmented = Voc(name="voc"), Voc(name="voc", split="train_aug")
    base = tmp_path / "VOCdevkit" / "VOC2012"
    assert plain.published_counts == {"train": 1464, "val": 1449}
    assert augmented.published_counts == {"train": 10582, "val": 1449}
    assert augmented.samples("val", tmp_path) == plain.samples("val", tmp_path)
    samples = augmented.samples("train", tmp_path)
    assert [sample.files[1].parent for sample in samples] == [base / "SegmentationClassAug"] * IMAGES
    for sample, other in zip(samples, plain.samples("train", tmp_path), strict=True):
        assert sample.files[0] == other.files[0]
        np.testing.assert_array_equal(augmented.read("train", sample)[1], plain.read("train", other)[1])
    lines = [f"/JPEGImages/{each.name}.jpg /SegmentationClassAug/{each.name}.png" for each in samples[1:]]
    (base / "ImageSets/Segmentation/train_aug.txt").write_text("\n".join(lines))  # as DeepLab's list is written
    assert augmented.samples("train", tmp_path) == samples[1:]


@pytest.mark.parametrize("missing", ["SegmentationClassAug", "ImageSets/Segmentation/train_aug.txt"])
def test_voc_without_the_augmented_set(missing: str, tmp_path: Path) -> None:
    write_synthetic("voc", tmp_path, 1, size=SIZE)
    base = tmp_path / "VOCdevkit" / "VOC2012"
    (base / missing).rename(tmp_path / "elsewhere")
    with pytest.raises(UserError) as caught:
        Voc(name="voc", split="train_aug").samples("train", tmp_path)
    message = str(caught.value)
    assert "\n" not in message
    for words in (f"{base / missing}: ", "SBD (Hariharan et al. 2011)", "10582", f"{base}/SegmentationClassAug/*.png"):
        assert words in message
    assert Voc(name="voc").samples("train", tmp_path)


def test_roots_one_folder_further_in(tmp_path: Path) -> None:
    write_synthetic("voc", tmp_path, 1, size=SIZE)
    write_synthetic("ade20k", tmp_path, 1, size=SIZE)
    for root in (tmp_path / "VOCdevkit", tmp_path / "VOCdevkit" / "VOC2012"):
        assert len(Voc(name="voc").samples("val", root)) == 1
    assert len(Ade20k(name="ade20k").samples("val", tmp_path / "ADEChallengeData2016")) == 1


def test_synthetic_images_have_the_real_sizes(tmp_path: Path) -> None:
    write_synthetic("camvid", tmp_path / "camvid", 1)
    dataset = CamVid(name="camvid")
    assert dataset.read("val", dataset.samples("val", tmp_path / "camvid")[0])[1].shape == (360, 480)
    write_synthetic("voc", tmp_path / "voc", 2)
    voc = Voc(name="voc")
    shapes = [voc.read("val", sample)[1].shape for sample in voc.samples("val", tmp_path / "voc")]
    assert shapes == [(375, 500), (500, 375)]


@pytest.mark.parametrize("name", list(WRITERS))
def test_synthetic_labels_use_every_class(name: str, tmp_path: Path) -> None:
    write_synthetic(name, tmp_path, 60 if name == "ade20k" else 24, size=(64, 96))
    dataset = DATASETS.resolve(name)(name=name)
    seen: set[int] = set()
    for split in SPLITS:
        for sample in dataset.samples(split, tmp_path):
            seen |= set(np.unique(dataset.read(split, sample)[1]).tolist())
    assert seen == {*range(dataset.num_classes), IGNORE}


def test_no_synthetic_form_of_the_demo(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="'demo'"):
        write_synthetic("demo", tmp_path, 1)
    with pytest.raises(UserError, match="0 images"):
        write_synthetic("camvid", tmp_path, 0)
