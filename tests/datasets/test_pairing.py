"""Which mask an image of dataset ``folder`` gets and in which split it is, where names repeat: the right, or none."""

import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from kdtune.base import UserError
from kdtune.datasets.check import check
from kdtune.datasets.folder import AnyFolder

OF_SPLITS = {"train": "im/train/*", "val": "im/val/*"}


def image(root: Path, *names: str) -> None:
    """Photographs of one pixel."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.zeros((1, 1, 3), np.uint8)).save(root / name)


def mask(root: Path, *names: str, value: int = 0) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((1, 1), value, np.uint8)).save(root / name)


def folder(root: Path, **fields: Any) -> AnyFolder:
    given = {"images": "im/**/*", "masks": "ma/**/*", "split": {"share": 0.5}, "classes": ["a", "b"]}
    return AnyFolder.model_validate({"name": "folder", "root": str(root), **given, **fields})


def pairs(dataset: AnyFolder, root: Path, *splits: str) -> dict[str, str]:
    """Image -> mask, below the root."""
    found = [each for split in splits or ("train", "val") for each in dataset.samples(split, root)]  # type: ignore[arg-type]
    return {each.files[0].relative_to(root).as_posix(): each.files[1].relative_to(root).as_posix() for each in found}


def faults(dataset: AnyFolder, root: Path, split: str = "train") -> list[str]:
    return [str(fault).replace(f"{root}/", "") for fault in dataset.find(split, root).faults]  # type: ignore[arg-type]


def test_masks_whose_names_repeat_are_told_apart_by_folders(tmp_path: Path) -> None:
    image(tmp_path, "im/0.jpg", "im/1.jpg")
    mask(tmp_path, "ma/0.png", "ma/1.png", "ma/old/0.png")
    dataset = folder(tmp_path)
    found = dataset.find("train", tmp_path).samples + dataset.find("val", tmp_path).samples
    assert sorted(str(each.files[1].relative_to(tmp_path)) for each in found) == ["ma/0.png", "ma/1.png"]
    assert faults(dataset, tmp_path) == ["ma/old/0.png: is a mask without an image: remove it"]


def test_an_image_with_two_masks_is_a_fault(tmp_path: Path) -> None:
    for split in ("train", "val"):
        image(tmp_path, f"im/{split}/0.png")
        mask(tmp_path, f"ma/{split}/0.png")
    dataset = folder(tmp_path, images=OF_SPLITS, split=None)
    both = "has more than one mask, ma/train/0.png and ma/val/0.png: narrow the pattern of the masks"
    assert faults(dataset, tmp_path) == [f"im/train/0.png: {both}"]
    masks = {"train": "ma/train/*", "val": "ma/val/*"}
    dataset = folder(tmp_path, images=OF_SPLITS, masks=masks, split=None)
    assert pairs(dataset, tmp_path) == {f"im/{split}/0.png": f"ma/{split}/0.png" for split in masks}


def test_a_mask_of_another_folder_is_not_taken_for_one_that_is_missing(tmp_path: Path) -> None:
    image(tmp_path, "im/A/0.jpg", "im/B/0.jpg")
    mask(tmp_path, "ma/A/0.png")
    fault = "has no mask 0.png in such a folder, only ma/A/0.png: add the mask or narrow the pattern of masks"
    assert faults(folder(tmp_path), tmp_path) == [f"im/B/0.jpg: {fault}"]


def test_masks_of_both_splits_in_one_folder(tmp_path: Path) -> None:
    image(tmp_path, "im/train/0.jpg", "im/val/1.jpg")
    mask(tmp_path, "ma/0.png", "ma/1.png")
    dataset = folder(tmp_path, images=OF_SPLITS, split=None)
    assert pairs(dataset, tmp_path) == {"im/train/0.jpg": "ma/0.png", "im/val/1.jpg": "ma/1.png"}
    image(tmp_path, "im/val/0.jpg")
    (line,) = faults(dataset, tmp_path)
    assert line.startswith("ma/0.png: would be the mask of im/train/0.jpg and of im/val/0.jpg: write")


def test_folders_in_the_middle_of_a_path(tmp_path: Path) -> None:
    for each in ("A", "B"):
        image(tmp_path, f"{each}/rgb/0.png")
        mask(tmp_path, f"{each}/label/0.png")
    found = pairs(folder(tmp_path, images="*/rgb/*", masks="*/label/*"), tmp_path)
    assert found == {f"{each}/rgb/0.png": f"{each}/label/0.png" for each in ("A", "B")}


def test_two_images_with_one_name(tmp_path: Path) -> None:
    image(tmp_path, "im/1.jpg", "im/1.png", "im/2.png")
    mask(tmp_path, "ma/1.png", "ma/2.png")
    assert faults(folder(tmp_path), tmp_path) == ["im/1.png: has the same name as im/1.jpg: remove one of them"]


def test_one_name_in_two_forms_of_unicode(tmp_path: Path) -> None:
    image(tmp_path, *(f"im/{unicodedata.normalize('NFC', name)}.jpg" for name in ("ü0_bild", "ü1_bild")))
    mask(tmp_path, *(f"ma/{unicodedata.normalize('NFD', name)}.png" for name in ("ü0", "ü1")))
    assert len(pairs(folder(tmp_path, image_ending="_bild"), tmp_path)) == 2


# -- lists, and images in both splits


def listed(root: Path, train: str, val: str, **fields: Any) -> AnyFolder:
    (root / "train.txt").write_text(train)
    (root / "val.txt").write_text(val)
    return folder(root, split={"train": "train.txt", "val": "val.txt"}, **fields)


@pytest.fixture
def recordings(tmp_path: Path) -> Path:
    for each in ("A", "B"):
        image(tmp_path, *(f"im/{each}/{i}.jpg" for i in range(2)))
        mask(tmp_path, *(f"ma/{each}/{i}.png" for i in range(2)))
    image(tmp_path, "im/B/2.jpg")
    mask(tmp_path, "ma/B/2.png")
    return tmp_path


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("images/A/0.jpg", "im/A/0.jpg"),
        ("/data/im/B/0.jpg", "im/B/0.jpg"),
        ("A/1", "im/A/1.jpg"),
        ("im/A/0.jpg ma/B/0.png", "im/A/0.jpg"),
        ("2.jpg", "im/B/2.jpg"),
    ],
)
def test_a_line_names_the_image_with_which_most_of_its_path_agrees(recordings: Path, line: str, expected: str) -> None:
    assert list(pairs(listed(recordings, line, "B/1"), recordings, "train")) == [expected]


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("0.jpg", "names '0.jpg', which fits im/A/0 and im/B/0: write the folder, too"),
        ("C/0.jpg", "names 'C/0.jpg', but no such image is there"),
        ("A/2.jpg", "names 'A/2.jpg', but no such image is there"),
    ],
)
def test_a_line_that_names_no_one_image(recordings: Path, line: str, fault: str) -> None:
    assert faults(listed(recordings, f"{line}\nA/1", "B/1"), recordings) == [f"train.txt: {fault}"]


def test_an_image_in_both_splits(recordings: Path) -> None:
    fault = "in training and in validation, the first is im/A/1.jpg: correct `split` or the patterns"
    dataset = listed(recordings, "A/0\nA/1\nB/0", "B/0\nA/1")
    assert [str(each) for each in check(dataset, recordings).faults] == [f"{recordings}: 2 images are {fault}"]
    dataset = folder(recordings, images={"train": "im/A/*", "val": "im/*/1.jpg"}, split=None)
    assert any(f"1 image is {fault}" in line for line in faults(dataset, recordings))
    assert any(f"1 image is {fault}" in line for line in faults(dataset, recordings, "val"))


def test_a_split_without_images(tmp_path: Path) -> None:
    image(tmp_path, "im/0.jpg")
    mask(tmp_path, "ma/0.png")
    (fault,) = check(folder(tmp_path), tmp_path).faults
    assert str(fault) == f"{tmp_path}: no images for train, of 1 that are there: correct `split`"
    with pytest.raises(UserError, match="no images for train"):
        folder(tmp_path).samples("train", tmp_path)
