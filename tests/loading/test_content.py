"""Content keys: they follow images and labels, and neither places nor times."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kdtune.base import SegmentationDataset, UserError
from kdtune.datasets.camvid import CamVid
from kdtune.datasets.demo import Demo
from kdtune.datasets.synth import write_synthetic
from kdtune.loading.content import Content, content, content_key, difference
from kdtune.loading.pack import open_split

CAMVID = CamVid(name="camvid")
DEMO = Demo(name="demo", size=(32, 48), num_train=8, num_val=4)
FIRST = "0016E5_000000"  # of the validation images


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A small CamVid: two images in each split."""
    write_synthetic("camvid", tmp_path / "data" / "camvid", 2, size=(24, 32))
    return tmp_path / "data" / "camvid"


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The images and labels that are opened."""
    found: list[Path] = []
    whole = Path.open

    def watched(self: Path, *args: Any, **kwargs: Any) -> Any:
        if self.suffix in (".png", ".jpg"):
            found.append(self)
        return whole(self, *args, **kwargs)

    monkeypatch.setattr(Path, "open", watched)
    return found


def copied(root: Path, name: str) -> Path:
    """The same files elsewhere, written later."""
    there = root.with_name(name)
    shutil.copytree(root, there)
    for path in there.rglob("*.*"):
        os.utime(path, (1, 1))
    return there


def test_a_copy_has_the_same_key(root: Path) -> None:
    key = content_key(CAMVID, "val", root)
    assert len(key) == 64
    assert content_key(CAMVID, "val", copied(root, "elsewhere")) == key
    assert content_key(CAMVID, "train", root) != key


def change_a_byte(root: Path) -> None:
    path = root / "valannot" / f"{FIRST}.png"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def change_an_image(root: Path) -> None:
    (path,) = (root / "val").glob(f"{FIRST}.*")
    path.write_bytes(path.read_bytes() + b"\0")


def rename(root: Path) -> None:
    for path in root.glob(f"val*/{FIRST}.*"):
        path.rename(path.with_stem("0016E5_000009"))


def remove(root: Path) -> None:
    for path in root.glob(f"val*/{FIRST}.*"):
        path.unlink()


def swap_labels(root: Path) -> None:
    one, two = sorted((root / "valannot").iterdir())
    one.rename(root / "aside")
    two.rename(one)
    (root / "aside").rename(two)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (change_a_byte, f"image '{FIRST}' or its label differs"),
        (change_an_image, f"image '{FIRST}' or its label differs"),
        (rename, f"image '{FIRST}' is missing (and 1 more)"),
        (remove, f"image '{FIRST}' is missing"),
        (swap_labels, f"image '{FIRST}' or its label differs (and 1 more)"),
    ],
)
def test_a_change_changes_the_key_and_is_named(root: Path, change: Callable[[Path], None], told: str) -> None:
    other = copied(root, "elsewhere")
    change(other)
    here, there = content(CAMVID, "val", other), content(CAMVID, "val", root)
    assert here.key != there.key
    assert difference(here, there) == told
    assert content_key(CAMVID, "train", other) == content_key(CAMVID, "train", root)


def test_a_difference_in_order_alone_is_named() -> None:
    one, two = ("a", "1"), ("b", "2")
    assert difference(Content("x", (one, two)), Content("y", (two, one))) == "the order of its images differs"
    assert difference(Content("x", (one, two)), Content("y", (one,))) == "image 'b' is one too many"


def test_the_second_time_no_file_is_read(root: Path, opened: list[Path]) -> None:
    first = content(CAMVID, "val", root)
    assert len(opened) == 4
    opened.clear()
    assert content(CAMVID, "val", root) == first
    assert opened == []


def test_packing_makes_the_key_on_the_way(root: Path, opened: list[Path]) -> None:
    alone = content(CAMVID, "val", copied(root, "elsewhere"))  # by reading
    open_split(CAMVID, "val", str(root.parent))
    opened.clear()
    assert content(CAMVID, "val", root) == alone
    assert opened == []


def test_a_changed_file_is_read_again(root: Path, cache: Path) -> None:
    before = content_key(CAMVID, "val", root)
    change_a_byte(root)
    assert content_key(CAMVID, "val", root) != before
    assert len(list((cache.parent / "contents").glob("*.json"))) == 2


def test_a_damaged_note_is_made_again(root: Path, cache: Path) -> None:
    before = content(CAMVID, "val", root)
    (note,) = (cache.parent / "contents").glob("*.json")
    note.write_text(note.read_text()[:40])
    assert content(CAMVID, "val", root) == before


def test_without_a_cache_it_is_read_each_time(root: Path, opened: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    blocked = root.with_name("a-file")
    blocked.write_text("")
    with_cache = content(CAMVID, "val", root)
    monkeypatch.setenv("KDTUNE_CACHE", str(blocked))
    for _ in range(2):
        opened.clear()
        assert content(CAMVID, "val", root) == with_cache
        assert len(opened) == 4


def test_settings_and_version_are_part_of_it(root: Path) -> None:
    class Newer(CamVid):
        version = 2

    sized = CamVid(name="camvid", size=(12, 16))
    keys = {content_key(dataset, "val", root) for dataset in (CAMVID, sized, Newer(name="camvid"))}
    assert len(keys) == 3


def test_a_drawn_dataset_is_known_by_its_config(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object) -> None:
        pytest.fail("was drawn")

    monkeypatch.setattr(Demo, "read", never)

    def key(dataset: SegmentationDataset) -> str:
        return content_key(dataset, "val", None)

    assert key(DEMO) == key(Demo(**DEMO.model_dump()))
    assert key(DEMO) != key(DEMO.model_copy(update={"seed": 7}))
    assert [name for name, _ in content(DEMO, "val", None).images] == [s.name for s in DEMO.samples("val", None)]
    assert not cache.parent.exists()


def test_pixels_count_where_a_sample_has_no_files(monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
    """As of a dataset of another package, which reads an archive."""

    class Archived(Demo):
        needs_files = True

    dataset = Archived(**DEMO.model_dump())
    key = content_key(dataset, "val", root)
    monkeypatch.setenv("KDTUNE_CACHE", str(root.with_name("another")))
    assert content_key(dataset, "val", root) == key
    whole = Demo.read
    monkeypatch.setattr(Demo, "read", lambda *args: (whole(*args)[0], whole(*args)[1] ^ 1))
    monkeypatch.setenv("KDTUNE_CACHE", str(root.with_name("a-third")))
    assert content_key(dataset, "val", root) != key


def test_a_file_that_cannot_be_read_is_named(root: Path) -> None:
    (path,) = (root / "val").glob(f"{FIRST}.*")
    path.unlink()
    path.mkdir()
    with pytest.raises(UserError, match=f"{path}: is a folder, not a file"):
        content(CAMVID, "val", root)
    path.rmdir()
    path.symlink_to("/dev/zero")  # would be read for ever
    with pytest.raises(UserError, match=f"{path}: is a device, not a file"):
        content(CAMVID, "val", root)
