"""Bad input: one line that names the file and says what to do. And the real CamVid, where it is there."""

import os
import pickle
import shutil
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kdtune.base import IGNORE, SegmentationDataset, UserError
from kdtune.datasets import DATASETS
from kdtune.datasets.camvid import CamVid
from kdtune.datasets.files import BadFile, FolderDataset
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


@pytest.mark.parametrize("name", ["camvid", "cityscapes", "ade20k"])
def test_label_without_image(name: str, tmp_path: Path) -> None:
    dataset, _, label = one_image(name, tmp_path)
    lonely = label.with_name(label.name.replace("0", "7"))
    assert lonely != label
    shutil.copy(label, lonely)
    message = complaint(dataset, tmp_path)
    assert message.startswith(f"{lonely}: ")
    assert "remove it" in message


def test_labels_of_a_city_without_images(tmp_path: Path) -> None:
    dataset, _, label = one_image("cityscapes", tmp_path)
    label.parent.with_name("ulm").mkdir()
    lonely = label.parent.with_name("ulm") / "ulm_000000_000019_gtFine_labelIds.png"
    shutil.copy(label, lonely)
    assert complaint(dataset, tmp_path).startswith(f"{lonely}: ")


def test_only_label_ids_of_cityscapes_and_listed_names_of_voc_count(tmp_path: Path) -> None:
    dataset, _, label = one_image("cityscapes", tmp_path / "city")
    for ending in ("color.png", "instanceIds.png", "polygons.json"):
        shutil.copy(label, label.with_name(label.name.replace("labelIds.png", ending)))
    shutil.copy(label, label.with_name("lindau_000077_000019_gtFine_color.png"))
    assert len(dataset.samples("val", tmp_path / "city")) == 1
    dataset, image, label = one_image("voc", tmp_path / "voc")
    shutil.copy(label, label.with_name("2011_000077.png"))
    shutil.copy(image, image.with_name("2011_000078.jpg"))
    assert len(dataset.samples("val", tmp_path / "voc")) == 1


def test_a_city_without_images(tmp_path: Path) -> None:
    dataset, image, _ = one_image("cityscapes", tmp_path)
    image.parent.with_name("zurich").mkdir()
    assert complaint(dataset, tmp_path).startswith(f"{image.parent.with_name('zurich')}: no *.png in this folder")


@pytest.mark.parametrize("missing", [0, 1], ids=["image", "label"])
def test_listed_by_voc_but_missing(missing: int, tmp_path: Path) -> None:
    dataset, *both = one_image("voc", tmp_path)
    both[missing].unlink()
    message = complaint(dataset, tmp_path)
    assert message.startswith(f"{both[0]}: ")
    assert str(both[missing]) in message


def test_listed_twice_by_voc(tmp_path: Path) -> None:
    dataset, image, _ = one_image("voc", tmp_path)
    assert isinstance(dataset, FolderDataset)
    listed = tmp_path / "VOCdevkit/VOC2012/ImageSets/Segmentation/val.txt"
    listed.write_text(f"{image.stem}\n\n{image.stem}\n{image.stem}\n")
    assert complaint(dataset, tmp_path) == (
        f"{listed}: names '{image.stem}' more than once: remove all such lines but one"
    )
    found = dataset.find("val", tmp_path)
    assert (len(found.samples), len(found.faults)) == (1, 1)  # one fault, not one per line


@pytest.mark.parametrize("name", NAMES)
def test_label_with_16_bits(name: str, tmp_path: Path) -> None:
    dataset, _, label = one_image(name, tmp_path)
    Image.fromarray(np.array(Image.open(label), np.uint16)).save(label)
    message = complaint(dataset, tmp_path)
    assert message.startswith(f"{label}: has 16 bits per channel")
    assert "convert it to 8 bits" in message


def png(pixels: np.ndarray, bits: int, colour: int) -> bytes:
    """A PNG as Pillow does not write it: any depth, colour type 0 (grey) or 2 (RGB)."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    height, width = pixels.shape[:2]
    if bits == 16:
        rows = [row.astype(">u2").tobytes() for row in pixels]
    else:  # 4 bits of grey, two pixels per byte
        rows = [(row[::2] << 4 | row[1::2]).astype(np.uint8).tobytes() for row in pixels]
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + row for row in rows))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def test_image_with_16_bits(tmp_path: Path) -> None:
    dataset, image, _ = one_image("cityscapes", tmp_path)
    image.write_bytes(png(257 * np.array(Image.open(image), np.uint16), 16, 2))
    assert Image.open(image).mode == "RGB"  # Pillow would not tell
    assert complaint(dataset, tmp_path).startswith(f"{image}: has 16 bits per channel")


def test_label_in_grey_of_4_bits(tmp_path: Path) -> None:
    dataset, _, label = one_image("ade20k", tmp_path)
    label.write_bytes(png(np.minimum(np.array(Image.open(label)), 3), 4, 0))
    assert np.array(Image.open(label)).max() == 51  # Pillow stretches 3 to this, which is a class
    assert complaint(dataset, tmp_path).startswith(f"{label}: is grey with 4 bits")


@pytest.mark.parametrize(("mode", "suffix"), [("P", ".png"), ("RGBA", ".png"), ("LA", ".png"), ("CMYK", ".jpg")])
def test_photograph_that_is_neither_rgb_nor_grey(mode: str, suffix: str, tmp_path: Path) -> None:
    dataset, image, _ = one_image("camvid", tmp_path)
    with Image.open(image) as old:
        new = old.convert(mode)
    image.unlink()
    new.save(image.with_suffix(suffix))
    message = complaint(dataset, tmp_path)
    assert message.startswith(f"{image.with_suffix(suffix)}: is ")
    assert mode in message
    assert "convert it to RGB" in message


@pytest.mark.parametrize("name", NAMES)
def test_grey_photograph(name: str, tmp_path: Path) -> None:
    dataset, image, _ = one_image(name, tmp_path)
    grey = Image.open(image).convert("L")
    grey.save(image)
    pixels = dataset.read("val", dataset.samples("val", tmp_path)[0])[0]
    assert pixels.shape == (24, 32, 3)
    np.testing.assert_array_equal(pixels, np.stack([np.array(Image.open(image))] * 3, axis=-1))


@pytest.mark.parametrize("name", NAMES)
def test_coloured_labels_have_to_be_converted(name: str, tmp_path: Path) -> None:
    dataset, _, label = one_image(name, tmp_path)
    Image.open(label).convert("RGB").save(label)
    message = complaint(dataset, tmp_path)
    assert message.startswith(f"{label}: pixels are RGB")
    assert "convert coloured labels to class indices" in message


@pytest.mark.parametrize("name", ["cityscapes", "camvid"])
def test_file_cut_at_its_end(name: str, tmp_path: Path) -> None:
    for which in (0, 1):
        dataset, *both = one_image(name, tmp_path / str(which))
        content = both[which].read_bytes()
        both[which].write_bytes(content[: 9 * len(content) // 10])
        assert complaint(dataset, tmp_path / str(which)).startswith(f"{both[which]}: cannot be read")


def test_a_fault_survives_pickling() -> None:
    fault = pickle.loads(pickle.dumps(BadFile(Path("a.png"), "is bad: mend it")))
    assert (str(fault), fault.path) == ("a.png: is bad: mend it", Path("a.png"))


@pytest.mark.data
@pytest.mark.skipif(not (DATA_ROOT / "camvid").is_dir(), reason="no camvid/ in KDTUNE_DATA_ROOT or ../shared/data")
def test_the_real_camvid() -> None:
    full, small = CamVid(name="camvid"), CamVid(name="camvid", size=(90, 120))
    root = DATA_ROOT / "camvid"
    seen = np.zeros(256, np.int64)
    for split, count in full.published_counts.items():
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
