"""What a check of a dataset finds, and that it goes on after the first fault."""

import contextlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from PIL import Image

from kdtune.base import IGNORE, Sample, SegmentationDataset, Split, UserError
from kdtune.datasets import DATASETS, bar, check
from kdtune.datasets.camvid import CamVid
from kdtune.datasets.synth import WRITERS, write_synthetic
from kdtune.datasets.voc import Voc

SIZE = (24, 32)


def camvid(root: Path, images: int = 3) -> CamVid:
    write_synthetic("camvid", root, images, size=SIZE)
    return CamVid(name="camvid")


@pytest.mark.parametrize("name", list(WRITERS))
def test_a_sound_dataset(name: str, tmp_path: Path) -> None:
    write_synthetic(name, tmp_path, 3, size=SIZE)
    report = check.check(DATASETS.resolve(name)(name=name), tmp_path)
    assert report.faults == []
    assert [each.images for each in report.contents.values()] == [3, 3]
    assert len(report.notes) == 2  # not the published counts
    assert "3 images for train, but published are" in report.notes[0]


def test_pixels_and_sizes_are_those_of_the_labels(tmp_path: Path) -> None:
    dataset = camvid(tmp_path)
    report = check.check(dataset, tmp_path)
    expected = np.zeros(256, np.int64)
    for sample in dataset.samples("val", tmp_path):
        expected += np.bincount(dataset.read("val", sample)[1].ravel(), minlength=256)
    np.testing.assert_array_equal(report.contents["val"].pixels, expected)
    assert report.contents["val"].sizes == {SIZE: 3}
    lines = report.summary().splitlines()
    rows = lines[lines.index("") + 2 :][: dataset.num_classes + 1]
    assert rows[-1].split()[::2] == ["void", f"{100 * expected[IGNORE] / expected.sum():.3f}"]
    for column in (1, 2):
        assert sum(float(row.split()[column]) for row in rows) == pytest.approx(100, abs=0.02)


def test_classes_that_do_not_occur_are_named(tmp_path: Path) -> None:
    dataset = camvid(tmp_path, 1)
    path = dataset.samples("val", tmp_path)[0].files[1]
    Image.fromarray(np.full(SIZE, 3, np.uint8)).save(path)
    lines = check.check(dataset, tmp_path).summary().splitlines()
    absent = [name for name in dataset.class_names if name != "road"]
    assert f"in no label of val: {', '.join(absent)}" in lines


def test_many_sizes_are_a_range(tmp_path: Path) -> None:
    dataset = camvid(tmp_path, 5)
    for index, sample in enumerate(dataset.samples("train", tmp_path)):
        for path in sample.files:
            Image.open(path).resize((40 + index, 30 - index), Image.Resampling.NEAREST).save(path)
    summary = check.check(dataset, tmp_path).summary()
    assert "5 sizes, 40 to 44 wide, 26 to 30 high" in summary
    assert "pixels 32x24 (5)" in summary


def test_every_fault_is_found(tmp_path: Path) -> None:
    dataset = camvid(tmp_path, 6)
    train, val = (dataset.samples(split, tmp_path) for split in check.SPLITS)
    without_label, lonely_label = train[0].files, train[1].files
    without_label[1].unlink()
    lonely_label[0].unlink()
    cut, small, wild = train[2].files[0], val[0].files, val[1].files[1]
    cut.write_bytes(cut.read_bytes()[:-200])
    Image.open(small[1]).resize((16, 12)).save(small[1])
    Image.fromarray(np.full(SIZE, 77, np.uint8)).save(wild)
    report = check.check(dataset, tmp_path)
    lines = [str(fault) for fault in report.faults]
    assert all("\n" not in line for line in lines)
    bad = [without_label[0], lonely_label[1], cut, small[0], wild]
    assert sorted(line.split(": ")[0] for line in lines) == sorted(map(str, bad))
    assert report.bad_files == 5
    assert [sum(each.sizes.values()) for each in report.contents.values()] == [3, 4]  # the sound ones are counted


def test_a_fault_that_both_splits_share_is_named_once(tmp_path: Path) -> None:
    write_synthetic("voc", tmp_path, 1, size=SIZE)
    (tmp_path / "VOCdevkit/VOC2012/JPEGImages").rename(tmp_path / "elsewhere")
    report = check.check(Voc(name="voc"), tmp_path)
    assert len(report.faults) == 1
    assert "no readable image" in report.summary()


def test_strict_makes_a_count_a_fault(tmp_path: Path) -> None:
    report = check.check(camvid(tmp_path, 1), tmp_path, strict=True)
    assert report.notes == []
    assert [str(fault).split(": ")[1] for fault in report.faults] == [
        "1 images for train, but published are 367",
        "1 images for val, but published are 101",
    ]
    assert report.bad_files == 1


def test_no_such_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere: no such folder: --root .* git clone"):
        check.check(CamVid(name="camvid"), tmp_path / "nowhere")


class Foreign(SegmentationDataset):
    """A dataset of another package: it has nothing but what the base class asks for."""

    class_names: ClassVar[Sequence[str]] = ("left", "right")
    palette: ClassVar[Sequence[tuple[int, int, int]]] = ((0, 0, 0), (255, 255, 255))

    def samples(self, split: Split, root: Path | None) -> list[Sample]:
        if split == "val":
            raise UserError("no val")
        return [Sample("a"), Sample("b")]

    def read(self, split: Split, sample: Sample) -> tuple[np.ndarray, np.ndarray]:
        if sample.name == "b":
            raise UserError("b is bad")
        return np.zeros((2, 4, 3), np.uint8), np.array([[0, 0, 1, IGNORE]] * 2, np.uint8)


def test_a_dataset_of_another_package(tmp_path: Path) -> None:
    report = check.check(Foreign(name="foreign"), tmp_path, strict=True)
    assert [str(fault) for fault in report.faults] == ["no val", "b is bad"]
    assert "left    50.000    0.000" in report.summary()


def test_a_line_now_and_then_without_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    with bar.bar("fetching", 2_000_000, bar.megabytes) as watch:
        watch(1)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(bar, "EVERY_SECONDS", 0.0)
    with bar.bar("fetching", 2_000_000, bar.megabytes) as watch:
        watch(1_000_000)
    assert capsys.readouterr().err == "fetching: 1.0 MB of 2.0 MB\n"


def test_a_bar_that_moves_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    ours, theirs = os.openpty()
    with os.fdopen(theirs, "w") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        with bar.bar("checking", 8) as watch:
            watch(8)
    shown = b""
    with contextlib.suppress(OSError):  # how Linux says that the other side is closed and all is read
        while piece := os.read(ours, 65536):
            shown += piece
    os.close(ours)
    assert b"checking: 8 of 8" in shown
    assert b"\x1b[" in shown


def test_a_split_without_images_is_a_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Foreign, "samples", lambda *_: [])
    report = check.check(Foreign(name="foreign"), tmp_path)
    expected = [f"{tmp_path}: no images for {split}: {Foreign.obtain}" for split in ("train", "val")]
    assert [str(fault) for fault in report.faults] == expected
