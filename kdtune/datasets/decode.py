"""An image and its label as pixels: what is taken as it is, what is put right, what is refused."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from kdtune import signs
from kdtune.base import IGNORE, Sample
from kdtune.datasets.files import FORBIDDEN, BadFile
from kdtune.datasets.opened import UNREADABLE, opened

Size = tuple[int, int]  # H, W [pixels]
Colours = Sequence[tuple[int, int, int]]  # RGB of each class
PHOTOGRAPHS = ("RGB", "L")  # Pillow's modes; ADE20K has a few grey ones
LABELS = ("L", "P", "1")
COLOURED = ("RGB", "RGBA", "P", "L")
ORIENTATION = 0x0112  # the EXIF tag; 1: as stored
PNG = b"\x89PNG\r\n\x1a\n"


def read_pair(
    sample: Sample, values: NDArray[np.int16], allowed: str, colours: Colours, size: Size | None = None
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Image (H, W, 3) uint8 RGB and label (H, W) uint8 of a sample.

    Args:
        sample: its files are image and label.
        values: from the values in label files to classes, see ``table``.
        allowed: the allowed values in words, for the error.
        colours: of the classes.
        size: resize to this: the image bilinear with averaging when it shrinks, the label by nearest pixel.

    Raises:
        UserError: an unreadable file, image and label of different sizes, a forbidden label value, a label whose
            palette contradicts its values.
    """
    label_path = sample.files[1]
    image, label = _loaded(sample)
    if label.mode not in LABELS:
        advice = "convert coloured labels to class indices first"
        raise BadFile(label_path, f"pixels are {label.mode}, but labels are 8-bit indices (modes L or P): {advice}")
    _check_sizes(sample, image, label)
    raw = np.asarray(label, np.uint8)  # (H, W)
    present = _check(raw, values, allowed, label_path)  # before resizing, which may drop the offending pixel
    if label.mode == "P":
        _check_palette(present, label.getpalette() or [], values, colours, label_path)
    pixels, raw = _at_size(image, raw, size)
    return pixels, values.astype(np.uint8)[raw]


def read_coloured(
    sample: Sample, classes: Mapping[tuple[int, ...], int], rest: int | None, size: Size | None = None
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """The same of a sample whose label shows each class in its own colours.

    Args:
        sample: its files are image and label.
        classes: colour (RGB) -> class or ``IGNORE``.
        rest: what all other colours stand for; none: there may be no other.
        size: as ``read_pair``.

    Raises:
        UserError: as ``read_pair``, or a colour that stands for nothing.
    """
    image, label = _loaded(sample)
    _check_sizes(sample, image, label)
    found = _of_colours(label, classes, rest, sample.files[1])
    return _at_size(image, found, size)


def _of_colours(
    label: Image.Image, classes: Mapping[tuple[int, ...], int], rest: int | None, path: Path
) -> NDArray[np.uint8]:
    """The class (H, W) of each pixel of a label by its colour."""
    coded = colour_codes(label, path)
    by_code = {code_of(colour): number for colour, number in classes.items()}
    codes = np.array(sorted(by_code))
    numbers = np.array([by_code[code] for code in codes.tolist()])
    place = np.searchsorted(codes, coded).clip(max=len(codes) - 1)
    named = codes[place] == coded
    if rest is None and not named.all():
        first = int(coded[~named][0])
        pixels = int(np.count_nonzero(coded == first))
        shown = f"({first >> 16}, {first >> 8 & 255}, {first & 255})"
        raise BadFile(
            path,
            f"colour {shown} at {pixels} pixel(s) is of no class: name it in the dataset's colours or ignore, or set "
            "ignore_rest: true",
        )
    return np.where(named, numbers[place], rest if rest is not None else 0).astype(np.uint8)


def colour_codes(label: Image.Image, path: Path) -> NDArray[np.int32]:
    """The colours (H, W) of a label, each as one number; see ``code_of``."""
    if label.mode not in COLOURED:
        raise BadFile(path, f"pixels are {label.mode}, but coloured labels are RGB: convert it")
    if label.mode == "RGBA" and label.getchannel("A").getextrema() != (255, 255):
        raise BadFile(path, "is transparent in places, which says nothing of a class: give them a colour")
    rgb = np.asarray(label.convert("RGB"), np.int32)
    coded: NDArray[np.int32] = rgb @ np.array([1 << 16, 1 << 8, 1], np.int32)
    return coded


def code_of(colour: Sequence[int]) -> int:
    """A colour (RGB) as one number."""
    return (colour[0] << 16) | (colour[1] << 8) | colour[2]


def _loaded(sample: Sample) -> tuple[Image.Image, Image.Image]:
    """Photograph and label, decoded."""
    image_path, label_path = sample.files
    image, label = load(image_path), load(label_path, grey=8)
    return _photograph(image, image_path, label.size), label


def _check_sizes(sample: Sample, image: Image.Image, label: Image.Image) -> None:
    if image.size != label.size:
        sizes = " but its label is ".join("x".join(map(str, each.size)) for each in (image, label))
        image_path, label_path = sample.files
        raise BadFile(image_path, f"is {sizes} pixels: {label_path} belongs to another image, copy both again")


def _at_size(
    image: Image.Image, label: NDArray[np.uint8], size: Size | None
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Image and label (H, W) at a size, the image as RGB: bilinear with averaging, the label by nearest pixel."""
    image = image.convert("RGB")
    if size is not None and image.size != (size[1], size[0]):
        image = image.resize((size[1], size[0]), Image.Resampling.BILINEAR)
        label = np.asarray(Image.fromarray(label).resize((size[1], size[0]), Image.Resampling.NEAREST))
    return np.array(image, np.uint8), label


def photograph(path: Path) -> NDArray[np.uint8]:
    """A photograph (H, W, 3) uint8 RGB, upright as its camera says.

    Raises:
        UserError: it cannot be read, or is another kind of image.
    """
    return np.array(_photograph(load(path), path).convert("RGB"), np.uint8)


def resized(image: NDArray[np.uint8], size: Size) -> NDArray[np.uint8]:
    """An image (H, W, 3) at another size, as datasets resize theirs: bilinear, with averaging when it shrinks."""
    return np.array(Image.fromarray(image).resize((size[1], size[0]), Image.Resampling.BILINEAR), np.uint8)


def _photograph(image: Image.Image, path: Path, label: Size | None = None) -> Image.Image:
    """The image, upright if it is a photograph; ``label``: the size (W, H) of its label, if it has one."""
    if image.getexif().get(ORIENTATION, 1) != 1:
        image = _upright(image, label)
    if image.mode not in PHOTOGRAPHS:
        kind = "a palette image (mode P)" if image.mode == "P" else f"of mode {image.mode}"
        raise BadFile(path, f"is {kind}, but photographs are RGB or grey with 8 bits: convert it to RGB")
    return image


def load(path: Path, grey: int = 1) -> Image.Image:
    """A decoded file; a PNG in grey with fewer than ``grey`` bits is refused, and so is one with 16.

    8 is for labels, whose values are what they mean.
    """
    try:
        with signs.reading(path), path.open("rb") as file:
            head = file.read(26)
            file.seek(0)
            with opened(path, file) as image:
                image.load()
    except FileNotFoundError:
        raise BadFile(path, "no such file any more: unpack the dataset's archives again") from None
    except UNREADABLE as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise BadFile(path, f"cannot be read ({reason}): the file is damaged, copy it again") from None
    if head.startswith(PNG):
        bits, colour = head[24], head[25]
        if bits > 8:  # Pillow would drop the lower eight without a word
            kept = (
                " and keep the values" if grey == 8 else ", and if it is a mask, keep the values" if not colour else ""
            )
            raise BadFile(path, f"has {bits} bits per channel, but only 8 are read: convert it to 8 bits{kept}")
        if colour == 0 and 1 < bits < grey:  # Pillow would stretch its values to 0..255
            raise BadFile(
                path, f"is grey with {bits} bits, but labels have 8: convert it to 8 bits and keep the values"
            )
    frames = getattr(image, "n_frames", 1)
    if frames > 1 and image.format != "MPO":  # a telephone's JPEG with a preview beside
        raise BadFile(path, f"is an animation of {frames} images: save one of them as a file of its own")
    if image.mode.startswith(("I", "F")):
        raise BadFile(path, f"has more than 8 bits per channel (mode {image.mode}): convert it to 8 bits")
    return image


def _upright(image: Image.Image, label: Size | None) -> Image.Image:
    """A photograph as its camera says it was held, and so as those who labelled it saw it.

    Unless only the stored pixels fit the label's size (W, H): then it was labelled as it is stored.
    """
    turned = ImageOps.exif_transpose(image)
    return image if image.size == label != turned.size else turned


def _check_palette(
    present: Sequence[int], palette: Sequence[int], values: NDArray[np.int16], colours: Colours, path: Path
) -> None:
    """A mask that was coloured and then reduced to a palette has the right colours over arbitrary indices."""
    class_of = {tuple(colour): number for number, colour in enumerate(colours)}
    meant = {}
    for value in present:
        colour = tuple(palette[3 * value : 3 * value + 3])
        if values[value] == IGNORE:
            continue
        if colour not in class_of:
            return  # another palette, which says nothing of the classes
        meant[value] = class_of[colour]
    wrong = [value for value, number in meant.items() if values[value] != number]
    if wrong and len(meant) > 1:
        raise BadFile(
            path,
            f"its value {wrong[0]} is class {values[wrong[0]]}, but its palette shows it in the colour of class "
            f"{meant[wrong[0]]}: it was reduced to colours; make its values the numbers of the classes",
        )


def _check(raw: NDArray[np.uint8], values: NDArray[np.int16], allowed: str, path: Path) -> list[int]:
    """The values that a label has, all of which are allowed."""
    present = np.flatnonzero(np.bincount(raw.ravel(), minlength=256))
    bad = present[values[present] == FORBIDDEN]
    if bad.size:
        pixels = int(np.count_nonzero(raw == bad[0]))
        advice = "take the label of the original dataset, or convert its values"
        raise BadFile(path, f"label value {bad[0]} at {pixels} pixel(s), but allowed are {allowed}: {advice}")
    return [int(value) for value in present]
