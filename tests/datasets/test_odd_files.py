"""Files as cameras, editors and other systems leave them: taken as they are meant, or refused by name."""

import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kdtune.base import UserError
from kdtune.datasets.camvid import CamVid
from kdtune.datasets.check import check
from kdtune.datasets.decode import ORIENTATION
from kdtune.datasets.synth import write_synthetic
from kdtune.datasets.voc import Voc
from kdtune.loading.images import read_directly
from kdtune.loading.pack import open_split

HIGH, WIDE = 24, 32
# EXIF 2.32, tag 274: how the stored pixels come from the upright picture
STORED: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    2: lambda upright: upright[:, ::-1],
    3: lambda upright: upright[::-1, ::-1],
    4: lambda upright: upright[::-1],
    5: lambda upright: upright.swapaxes(0, 1),
    6: lambda upright: np.rot90(upright, 1),
    7: lambda upright: upright.swapaxes(0, 1)[::-1, ::-1],
    8: lambda upright: np.rot90(upright, -1),
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_synthetic("camvid", tmp_path, 1, size=(HIGH, WIDE))
    return tmp_path


def train_files(root: Path) -> tuple[Path, Path]:
    image, label = CamVid(name="camvid").samples("train", root)[0].files
    return image, label


def photograph(path: Path, pixels: np.ndarray, orientation: int) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    path.unlink(missing_ok=True)
    Image.fromarray(np.ascontiguousarray(pixels)).save(path.with_suffix(".png"), exif=exif)


@pytest.mark.parametrize("orientation", list(STORED))
def test_a_photograph_is_read_the_way_it_was_held(root: Path, orientation: int) -> None:
    image, _ = train_files(root)
    upright = np.random.default_rng(0).integers(0, 256, (HIGH, WIDE, 3), np.uint8)
    photograph(image, STORED[orientation](upright), orientation)
    images = read_directly(CamVid(name="camvid"), "train", root)
    assert images.sizes.tolist() == [[HIGH, WIDE]]
    np.testing.assert_array_equal(images.image(0), upright)
    assert check(CamVid(name="camvid"), root).faults == []


def test_a_photograph_that_was_labelled_as_it_is_stored(root: Path) -> None:
    image, _ = train_files(root)
    stored = np.random.default_rng(0).integers(0, 256, (HIGH, WIDE, 3), np.uint8)
    photograph(image, stored, 6)  # upright it would be 32 high
    np.testing.assert_array_equal(read_directly(CamVid(name="camvid"), "train", root).image(0), stored)


def test_turned_photographs_in_a_pack(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KDTUNE_CACHE", str(tmp_path / "cache"))
    upright = np.random.default_rng(0).integers(0, 256, (HIGH, WIDE, 3), np.uint8)
    photograph(train_files(root)[0], STORED[8](upright), 8)
    root.joinpath("data").mkdir()
    root.joinpath("data", "camvid").symlink_to(root)
    packed = open_split(CamVid(name="camvid"), "train", str(root / "data"))
    np.testing.assert_array_equal(packed.image(0), upright)


def complaint(root: Path) -> str:
    (fault,) = check(CamVid(name="camvid"), root).faults
    with pytest.raises(UserError) as refused:
        read_train(root)
    assert str(refused.value) == str(fault)
    return str(fault)


def read_train(root: Path) -> list[tuple[np.ndarray, np.ndarray]]:
    dataset = CamVid(name="camvid")
    return [dataset.read("train", sample) for sample in dataset.samples("train", root)]


def test_a_mask_that_was_reduced_to_colours(root: Path) -> None:
    """Coloured by class, then quantised: the editor numbers the colours as it likes."""
    _, label = train_files(root)
    dataset = CamVid(name="camvid")
    colours = np.array([*dataset.palette, (0, 0, 0)], np.uint8)[np.asarray(Image.open(label))]
    reduced = Image.fromarray(colours).quantize(12)
    reduced.save(label)
    assert "its palette shows it in the colour of class" in complaint(root)


def test_a_mask_with_its_datasets_colours(root: Path) -> None:
    _, label = train_files(root)
    dataset = CamVid(name="camvid")
    indices = np.asarray(Image.open(label)).copy()
    mask = Image.fromarray(indices, "P")
    mask.putpalette(np.array([*dataset.palette, (0, 0, 0)], np.uint8).tobytes())
    mask.save(label)
    raw = dataset.read("train", dataset.samples("train", root)[0])[1]
    np.testing.assert_array_equal(np.where(raw == 255, 11, raw), indices)


def test_an_animation(root: Path) -> None:
    image, _ = train_files(root)
    frames = [Image.new("RGB", (WIDE, HIGH), colour) for colour in ("red", "blue")]
    image.unlink()
    frames[0].save(image.with_suffix(".png"), save_all=True, append_images=frames[1:])
    assert "is an animation of 2 images" in complaint(root)


def test_a_telephones_photograph_with_a_preview(root: Path) -> None:
    image, _ = train_files(root)
    pixels = Image.open(image).convert("RGB")
    image.unlink()
    pixels.save(image.with_suffix(".jpg"), "MPO", save_all=True, append_images=[pixels.resize((8, 6))])
    assert check(CamVid(name="camvid"), root).faults == []


FORMATS = {"EPS": "PostScript", "TIFF": "TIFF", "WEBP": "WebP", "JPEG2000": "JPEG 2000", "GIF": "GIF", "BMP": "BMP"}
PHOTOSHOP = (  # version, reserved, channels, height, width, depth, RGB; no colours, resources, layers; not compressed
    b"8BPS" + struct.pack(">H6xHIIHH", 1, 3, HIGH, WIDE, 8, 3) + bytes(4 + 4 + 4 + 2 + 3 * HIGH * WIDE)
)


@pytest.mark.parametrize("place", [0, 1], ids=["image", "label"])
@pytest.mark.parametrize("name", [*FORMATS, "PSD"])
def test_another_format_behind_the_suffix(root: Path, name: str, place: int) -> None:
    """Each such file opens with Pillow, which would start Ghostscript for the first."""
    path = train_files(root)[place]
    if name == "PSD":
        path.write_bytes(PHOTOSHOP)
    else:
        with Image.open(path) as image:
            picture = image.convert("RGB" if name in ("EPS", "WEBP") else "L")
        picture.save(path, name)
    with Image.open(path) as image:
        assert image.format == name
    told = FORMATS.get(name, "Photoshop")
    said = f"is {told}, whatever its suffix says: convert it to JPEG or PNG, no other is read"
    assert complaint(root) == f"{path}: {said}"
    with pytest.raises(UserError, match=f"is {told}"):
        read_directly(CamVid(name="camvid"), "train", root).image(0)


def test_formats_that_are_not_known_by_their_first_bytes(root: Path) -> None:
    image, _ = train_files(root)
    Image.new("RGB", (WIDE, HIGH)).save(image, "PPM")
    assert "cannot be read" in complaint(root)


def bomb(wide: int, high: int) -> bytes:
    """A grey PNG of zeros that is a thousandth of its pixels."""
    packer, row = zlib.compressobj(9), bytes(1 + wide)
    rows = b"".join(packer.compress(row) for _ in range(high)) + packer.flush()
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", wide, high, 8, 0, 0, 0, 0)), (b"IDAT", rows), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")  # pytest undoes our own filter
@pytest.mark.parametrize("side", [13000, 16000])  # Pillow itself refuses from twice the limit on
def test_an_image_that_would_fill_the_memory(root: Path, side: int) -> None:
    """Refused by its header."""
    _, label = train_files(root)
    label.write_bytes(bomb(side, side))
    assert label.stat().st_size < 500_000
    told = f"{label}: has more than 120000000 pixels: if it is meant to, set KDTUNE_IMAGE_PIXELS to the number"
    assert complaint(root).startswith(told)


def test_another_limit_of_pixels(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KDTUNE_IMAGE_PIXELS", str(HIGH * WIDE))
    assert read_train(root)
    monkeypatch.setenv("KDTUNE_IMAGE_PIXELS", str(HIGH * WIDE - 1))
    with pytest.raises(UserError, match=f"{train_files(root)[0]}: has more than {HIGH * WIDE - 1} pixels"):
        read_train(root)
    monkeypatch.setenv("KDTUNE_IMAGE_PIXELS", "many")
    with pytest.raises(UserError, match="KDTUNE_IMAGE_PIXELS=many: is no number of pixels"):
        read_train(root)


def test_suffixes_in_capitals(root: Path) -> None:
    for path in train_files(root):
        path.rename(path.with_suffix(path.suffix.upper()))
    report = check(CamVid(name="camvid"), root)
    assert (report.faults, report.contents["train"].images) == ([], 1)


def test_suffixes_in_capitals_that_a_list_names(tmp_path: Path) -> None:
    write_synthetic("voc", tmp_path, 2, size=(HIGH, WIDE))
    for sample in Voc(name="voc").samples("train", tmp_path):
        for path in sample.files:
            path.rename(path.with_suffix(path.suffix.upper()))
    assert check(Voc(name="voc"), tmp_path).faults == []


def test_a_name_that_is_no_text(root: Path) -> None:
    for path in train_files(root):
        path.rename(os.fsdecode(os.fsencode(path.parent) + b"/caf\xe9" + os.fsencode(path.suffix)))
    said = complaint(root)
    assert r"caf\xe9" in said
    assert "its name is not text in UTF-8" in said
    said.encode()


def test_spaces_dots_and_letters_of_other_languages(root: Path) -> None:
    for path in train_files(root):
        path.rename(path.with_name(f"Straße 1.5 北京{path.suffix}"))
    assert check(CamVid(name="camvid"), root).faults == []
    assert CamVid(name="camvid").samples("train", root)[0].name == "Straße 1.5 北京"
