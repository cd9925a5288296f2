"""Bad input: one line that names the file and says what to do. And the real CamVid, where it is there."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kdtune.base import IGNORE, SegmentationDataset, UserError
from kdtune.datasets import DATASETS
from kdtune.datasets.camvid import CamVid
from kdtune.datasets.synth import WRITERS, write_synthetic

NAMES = list(WRITERS)
DATA_ROOT = Path(os.environ.get("KDTUNE_DATA_ROOT") or Path(__file__).resolve().parents[2].parent / "shared/data")
FORBIDDEN = {"cityscapes": 34, "camvid": 12, "voc": 21, "ade20k": 151}


def one_image(name: str, root: Path) -> tuple[SegmentationDataset, Path, Path]:
    """A dataset with one image per split; image and label of ``val``."""
    write_synthetic(name, root, 1, size=(24, 32))
    dataset: SegmentationDataset = DATASETS.resolve(name)(name=name)
    image, label = dataset.samples("val", root)[0].files
    return dataset, image, label


def read_all(dataset: SegmentationDataset, root: Path) -> None:
    """Lists and reads ``val``."""
    for sample in dataset.samples("val", root):
        dataset.read("val", sample)


def complaint(dataset: SegmentationDataset, root: Path) -> str:
    """What listing and reading ``val`` complains about."""
    with pytest.raises(UserError) as caught:
        read_all(dataset, root)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("name", NAMES)
def test_missing_label(name: str, tmp_path: Path) -> None:
    dataset, image, label = one_image(name, tmp_path)
    label.unlink()
    message = complaint(dataset, tmp_path)
    assert str(image) in message
    assert str(label) in message


@pytest.mark.parametrize("name", NAMES)
def test_missing_labels_folder(name: str, tmp_path: Path) -> None:
    dataset, _, label = one_image(name, tmp_path)
    label.parent.rename(label.parent.with_name("elsewhere"))
    assert str(label) in complaint(dataset, tmp_path)


@pytest.mark.parametrize("name", NAMES)
def test_no_images(name: str, tmp_path: Path) -> None:
    dataset, image, _ = one_image(name, tmp_path)
    image.unlink()
    assert str(image.parent) in complaint(dataset, tmp_path)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("keep", [0, 3, 200])
def test_truncated_image(name: str, keep: int, tmp_path: Path) -> None:
    dataset, image, _ = one_image(name, tmp_path)
    image.write_bytes(image.read_bytes()[:keep])
    message = complaint(dataset, tmp_path)
    assert str(image) in message
    assert "cannot be read" in message


@pytest.mark.parametrize("name", NAMES)
def test_damaged_label(name: str, tmp_path: Path) -> None:
    dataset, _, label = one_image(name, tmp_path)
    content = bytearray(label.read_bytes())
    content[len(content) // 2] ^= 0xFF
    label.write_bytes(bytes(content))
    assert str(label) in complaint(dataset, tmp_path)


@pytest.mark.parametrize("name", NAMES)
def test_label_value_out_of_range(name: str, tmp_path: Path) -> None:
    dataset, _, label = one_image(name, tmp_path)
    bad = np.array(Image.open(label))
    bad[0, 0] = FORBIDDEN[name]
    Image.fromarray(bad).save(label)
    message = complaint(dataset, tmp_path)
    assert str(label) in message
    assert f"value {FORBIDDEN[name]} " in message
    assert "allowed" in message


def test_label_value_out_of_range_is_seen_before_resizing(tmp_path: Path) -> None:
    _, _, label = one_image("camvid", tmp_path)
    bad = np.array(Image.open(label))
    bad[0, 0] = 77
    Image.fromarray(bad).save(label)
    assert "value 77 at 1 pixel" in complaint(CamVid(name="camvid", size=(12, 16)), tmp_path)


def test_coloured_label(tmp_path: Path) -> None:
    dataset, _, label = one_image("camvid", tmp_path)
    Image.open(label).convert("RGB").save(label)
    message = complaint(dataset, tmp_path)
    assert str(label) in message
    assert "RGB" in message


def test_label_of_another_size(tmp_path: Path) -> None:
    dataset, image, label = one_image("camvid", tmp_path)
    Image.open(label).resize((16, 12)).save(label)
    message = complaint(dataset, tmp_path)
    assert str(image) in message
    assert "32x24" in message
    assert "16x12" in message


def test_voc_list_missing_or_empty(tmp_path: Path) -> None:
    dataset, _, _ = one_image("voc", tmp_path)
    listed = tmp_path / "VOCdevkit/VOC2012/ImageSets/Segmentation/val.txt"
    listed.write_text("\n")
    assert str(listed) in complaint(dataset, tmp_path)
    listed.unlink()
    assert str(listed) in complaint(dataset, tmp_path)


def test_hidden_files_are_no_images(tmp_path: Path) -> None:
    dataset, image, _ = one_image("camvid", tmp_path)
    image.with_name(f"._{image.name}").write_bytes(b"left by an archive of macOS")
    assert len(dataset.samples("val", tmp_path)) == 1


def test_two_images_of_one_name(tmp_path: Path) -> None:
    dataset, image, _ = one_image("camvid", tmp_path)
    Image.open(image).save(image.with_suffix(".png"))
    message = complaint(dataset, tmp_path)
    assert str(image) in message
    assert str(image.with_suffix(".png")) in message


def test_camvid_as_png(tmp_path: Path) -> None:
    dataset, image, _ = one_image("camvid", tmp_path)
    Image.open(image).save(image.with_suffix(".png"))
    image.unlink()
    sample = dataset.samples("val", tmp_path)[0]
    assert sample.files[0].suffix == ".png"
    assert dataset.read("val", sample)[0].shape == (24, 32, 3)


@pytest.mark.data
@pytest.mark.skipif(not (DATA_ROOT / "camvid").is_dir(), reason="no camvid/ in KDTUNE_DATA_ROOT or ../shared/data")
def test_the_real_camvid() -> None:
    full, small = CamVid(name="camvid"), CamVid(name="camvid", size=(90, 120))
    root = DATA_ROOT / "camvid"
    seen = np.zeros(256, np.int64)
    for split, count in CamVid.published_counts.items():
        samples = full.samples(split, root)
        assert len(samples) == count
        for sample in samples[::40]:
            image, label = full.read(split, sample)
            assert image.shape == (360, 480, 3)
            assert small.read(split, sample)[1].shape == (90, 120)
            seen += np.bincount(label.ravel(), minlength=256)
    assert set(np.flatnonzero(seen)) == {*range(11), IGNORE}
    top = full.class_names[int(seen[: full.num_classes].argmax())]
    assert top in ("road", "building")
