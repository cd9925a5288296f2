"""``kdtune data init``: what it makes of class lists, of nested folders and of files that belong to nothing."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from kdtune.base import UserError
from kdtune.datasets.check import check
from kdtune.datasets.class_lists import listed_in
from kdtune.datasets.decode import load
from kdtune.datasets.describe import described
from kdtune.datasets.folder import AnyFolder
from tests.datasets.test_folder import run

MASK = np.arange(24).reshape(6, 4) // 8  # 0, 1, 2


def saved(path: Path, pixels: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def pairs(images: Path, masks: Path, count: int = 2, values: np.ndarray = MASK) -> None:
    for i in range(count):
        saved(images / f"{i}.jpg", np.zeros((6, 4, 3), np.uint8))
        saved(masks / f"{i}.png", values.astype(np.uint8))


def looked(root: Path) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The description, with which every file can be read, and what is told."""
    found = described(root)
    data = yaml.safe_load(found.text)
    report = check(AnyFolder.model_validate(data), root)
    assert report.faults == []
    return data, found.lines


# -- names of classes


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1: sky\n2: road\n", {1: "sky", 2: "road"}),
        ("7 road\n11 car\n", {7: "road", 11: "car"}),
        ("0) road\n1) car\n", {0: "road", 1: "car"}),
        ("id,name\n7,road\n11,car\n", {7: "road", 11: "car"}),
        ("road,7\ncar,11\n", {7: "road", 11: "car"}),
        ("Name,R,G,B\nroad,1,2,3\ncar,4,5,6\n", {0: "road", 1: "car"}),
        ("3,road,1,2,3\n4,car,4,5,6\n", {3: "road", 4: "car"}),
        ("lane 1\nlane 2\n", {0: "lane 1", 1: "lane 2"}),
        ("2 wheeler\ncar\n", {0: "2 wheeler", 1: "car"}),
        ("name\nlabel\n", {0: "name", 1: "label"}),
    ],
)
def test_names_of_values(tmp_path: Path, text: str, expected: dict[int, str]) -> None:
    (tmp_path / "classes.txt").write_text(text)
    assert listed_in(tmp_path).of_values == expected


@pytest.mark.parametrize(
    "text",
    [
        "name,r,g,b\nlane 1,1,2,3\n",
        "lane 1:1,2,3::\n",
        "1 2 3\tlane 1\n",
        "lane 1 1 2 3\n",
        "5,lane 1,1,2,3\n",
        '"lane 1",1,2,3\n',
    ],
)
def test_names_of_colours(tmp_path: Path, text: str) -> None:
    (tmp_path / "class_dict.csv").write_text(text)
    assert listed_in(tmp_path).of_colours == {0x010203: "lane 1"}


def test_where_names_come_from_is_told(tmp_path: Path) -> None:
    pairs(tmp_path / "im", tmp_path / "ma", values=MASK + 7)
    (tmp_path / "classes.txt").write_text("7 road\n9 car\n")
    data, told = looked(tmp_path)
    assert data["classes"] == ["road", "class 1", "car"]
    assert data["ids"] == [7, 8, 9]
    assert "names from classes.txt: none for 1 of 3 classes" in told


def test_masks_of_0_and_255_are_of_two_classes(tmp_path: Path) -> None:
    pairs(tmp_path / "im", tmp_path / "ma", values=(MASK == 1) * 255)
    data, told = looked(tmp_path)
    assert (data["ids"], data["ignore"], len(data["classes"])) == ([0, 255], [], 2)
    assert "values 0 and 255 are taken for two classes" in told


# -- folders


def test_folders_that_lie_alike_are_one_pattern(tmp_path: Path) -> None:
    for split in ("train", "val"):
        for each, count in (("seqA", 2), ("seq B", 1)):
            pairs(tmp_path / "images" / split / each, tmp_path / "masks" / split / each, count)
    data, told = looked(tmp_path)
    assert data["images"] == {"train": "images/train/*/*", "val": "images/val/*/*"}
    assert data["masks"] == {"train": "masks/train/*/*", "val": "masks/val/*/*"}
    assert told[0] == "3 images for train in images/train/*, masks in masks/train/*"


def test_folders_of_recordings(tmp_path: Path) -> None:
    for each in ("A", "B", "more/C"):
        pairs(tmp_path / each / "rgb", tmp_path / each / "label")
    data, told = looked(tmp_path)
    assert (data["images"], data["masks"]) == ("**/rgb/*", "**/label/*")
    assert told[0].startswith("6 images in ")


def test_what_is_left_out_is_told(tmp_path: Path) -> None:
    pairs(tmp_path / "im", tmp_path / "ma", 3)
    pairs(tmp_path / "other/photographs", tmp_path / "other/labels", 1)
    data, told = looked(tmp_path)
    assert (data["images"], data["masks"]) == ("im/*", "ma/*")
    assert told[-1] == "left out: 1 image in other/photographs, masks in other/labels"


def test_another_folder_of_masks_is_told(tmp_path: Path) -> None:
    pairs(tmp_path / "im", tmp_path / "instances")
    pairs(tmp_path / "im", tmp_path / "semantic")
    data, told = looked(tmp_path)
    assert data["masks"] == "instances/*"
    assert "masks for im are in semantic, too: correct `masks` if those are meant" in told


def test_a_list_of_test_images_stands_in_for_validation(tmp_path: Path) -> None:
    pairs(tmp_path / "JPEGImages", tmp_path / "SegmentationClass", 3)
    (tmp_path / "ImageSets").mkdir()
    (tmp_path / "ImageSets/train.txt").write_text("0\n1\n")
    (tmp_path / "ImageSets/test.txt").write_text("2\n")
    data, told = looked(tmp_path)
    assert data["split"] == {"train": "ImageSets/train.txt", "val": "ImageSets/test.txt"}
    assert "lists tell training from validation: ImageSets/train.txt, ImageSets/test.txt" in told
    (tmp_path / "val.txt").write_text("2\n")
    assert looked(tmp_path)[0]["split"]["val"] == "val.txt"


@pytest.mark.parametrize("name", ["[2024] im", "im*", "im?", "[im", "[!i]m"])
def test_signs_of_patterns_in_the_names_of_folders(tmp_path: Path, name: str) -> None:
    for each in ("A", "B"):
        pairs(tmp_path / name / each, tmp_path / f"{name} masks" / each, 3)
    data, _ = looked(tmp_path)
    found = AnyFolder.model_validate(data)
    samples = [each for split in ("train", "val") for each in found.samples(split, tmp_path)]  # type: ignore[arg-type]
    assert {each.name for each in samples} == {f"{side}/{i}" for side in "AB" for i in range(3)}


# -- files that belong to nothing


def damaged(root: Path) -> str:
    (root / "preview.png").write_text("no image")
    return "left out: 1 image in .: preview.png cannot be read"


def depth(root: Path) -> str:
    for i in range(2):
        saved(root / f"depth/{i}.png", MASK.astype(np.uint16) * 1000)
    return "left out: 2 images in depth: 0.png has 16 bits per channel"


@pytest.mark.parametrize("make", [damaged, depth], ids=lambda make: make.__name__)
def test_files_that_cannot_be_read_are_left_out(tmp_path: Path, make: Callable[[Path], str]) -> None:
    pairs(tmp_path / "im", tmp_path / "ma")
    begin = make(tmp_path)
    data, told = looked(tmp_path)
    assert (data["images"], data["masks"]) == ("im/*", "ma/*")
    assert [line for line in told if line.startswith("left out")] == [told[-1]]
    assert told[-1].startswith(begin)


def test_masks_of_16_bits_are_the_reason_that_nothing_is_found(tmp_path: Path) -> None:
    for i in range(2):
        saved(tmp_path / f"im/{i}.jpg", np.zeros((6, 4, 3), np.uint8))
        saved(tmp_path / f"ma/{i}.png", MASK.astype(np.uint16))
    with pytest.raises(
        UserError, match=r"no images and masks.*left out: 2 images in ma: 0\.png has 16 bits.*"
    ) as caught:
        described(tmp_path)
    assert str(caught.value).endswith("convert it to 8 bits, and if it is a mask, keep the values")
    with pytest.raises(UserError, match="convert it to 8 bits and keep the values"):
        load(tmp_path / "ma/0.png", grey=8)


def test_a_relative_root_is_found_in_the_data_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pairs(tmp_path / "photographs/im", tmp_path / "photographs/ma")
    file = tmp_path / "p.yaml"
    data = yaml.safe_load(described(tmp_path / "photographs").text)
    file.write_text(yaml.safe_dump({**data, "root": "photographs"}))
    monkeypatch.setenv("KDTUNE_DATA_ROOT", str(tmp_path))
    assert "train: 1 image; pixels 4x6 (1)" in run("data", "check", file)
    monkeypatch.setenv("KDTUNE_DATA_ROOT", str(tmp_path / "x"))
    how = "correct `root` or KDTUNE_DATA_ROOT, or give --root DIR"
    assert run("data", "check", file, status=2) == f"kdtune: {tmp_path}/x/photographs: no such folder: {how}\n"
