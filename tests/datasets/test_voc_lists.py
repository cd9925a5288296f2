"""VOC's lists as people's editors and scripts leave them."""

from pathlib import Path

import pytest

from kdtune.datasets.synth import write_synthetic
from kdtune.datasets.voc import Voc

LIST = Path("VOCdevkit", "VOC2012", "ImageSets", "Segmentation", "train.txt")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_synthetic("voc", tmp_path, images=2, size=(32, 48))
    return tmp_path


def names(root: Path) -> list[str]:
    return [sample.name for sample in Voc(name="voc").samples("train", root)]


@pytest.mark.parametrize(
    "written",
    [
        lambda text: b"\xef\xbb\xbf" + text,
        lambda text: text.replace(b"\n", b"\r\n"),
        lambda text: b"\n" + text.replace(b"\n", b"\n\n"),
        lambda text: text.rstrip(b"\n"),
    ],
    ids=["byte order mark", "CRLF", "blank lines", "no last line end"],
)
def test_a_list_says_the_same(root: Path, written: object) -> None:
    before = names(root)
    (root / LIST).write_bytes(written((root / LIST).read_bytes()))  # type: ignore[operator]
    assert names(root) == before
    assert len(before) == 2


def test_names_may_have_dots(root: Path) -> None:
    folder = root / "VOCdevkit" / "VOC2012"
    for i, name in enumerate(sorted(names(root)), 1):
        (folder / "JPEGImages" / f"{name}.jpg").rename(folder / "JPEGImages" / f"street.0{i}.jpg")
        (folder / "SegmentationClass" / f"{name}.png").rename(folder / "SegmentationClass" / f"street.0{i}.png")
    (root / LIST).write_text("street.01\n/JPEGImages/street.02.jpg /SegmentationClass/street.02.png\n")
    assert names(root) == ["street.01", "street.02"]
