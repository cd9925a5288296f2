"""An image file, opened: only the two formats that datasets have, and of a size that one decodes.

Pillow would take any format whatever the suffix says, PostScript (for which it starts Ghostscript) among them.
"""

import contextlib
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from PIL import Image, UnidentifiedImageError

from kdtune.datasets.files import BadFile
from kdtune.errors import UserError

FORMATS = ("JPEG", "PNG")
MOST = "KDTUNE_IMAGE_PIXELS"  # the limit, where another is wanted
MOST_PIXELS = 120_000_000  # a photograph of 100 megapixels passes; decoded it takes 4 bytes per pixel, and more to turn
UNREADABLE = (OSError, SyntaxError, ValueError, EOFError)  # what Pillow raises
OTHERS = (  # where in the file, which bytes, what it is then
    (0, b"%!PS", "PostScript"),
    (0, b"\xc5\xd0\xd3\xc6", "PostScript"),
    (0, b"%PDF", "PDF"),
    (0, b"8BPS", "Photoshop"),
    (0, b"II*\0", "TIFF"),
    (0, b"MM\0*", "TIFF"),
    (0, b"GIF8", "GIF"),
    (0, b"BM", "BMP"),
    (8, b"WEBP", "WebP"),
    (0, b"\0\0\0\x0cjP  ", "JPEG 2000"),
    (0, b"\xff\x4f\xff\x51", "JPEG 2000"),
    (4, b"ftyp", "HEIC or AVIF"),
)

warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # what is too large is refused


@contextlib.contextmanager
def opened(path: Path, file: IO[bytes]) -> Iterator[Image.Image]:
    """The image in an open file, whose header has been read.

    Raises:
        BadFile: another format, or more pixels than the limit.
        OSError, SyntaxError, ValueError, EOFError: what Pillow makes of a damaged file.
    """
    head = file.read(12)
    file.seek(0)
    other = next((name for at, begin, name in OTHERS if head.startswith(begin, at)), None)
    if other is not None:
        raise BadFile(path, f"is {other}, whatever its suffix says: convert it to JPEG or PNG, no other is read")
    most = most_pixels()
    if Image.MAX_IMAGE_PIXELS is not None:  # Pillow's own limit
        Image.MAX_IMAGE_PIXELS = max(Image.MAX_IMAGE_PIXELS, most)
    try:
        image = Image.open(file, formats=FORMATS)
    except UnidentifiedImageError:
        raise ValueError("no JPEG or PNG by its content") from None  # Pillow would name an object of Python
    except Image.DecompressionBombError:  # raised for twice Pillow's limit
        image = None
    if image is None or image.width * image.height > most:
        advice = f"if it is meant to, set {MOST} to the number that an image may have"
        raise BadFile(path, f"has more than {most} pixels: {advice}")
    with image:
        yield image


def most_pixels() -> int:
    """Of an image, which is decoded whole.

    Raises:
        UserError: the variable is no number.
    """
    given = os.environ.get(MOST, str(MOST_PIXELS))
    if not given.isdecimal() or int(given) < 1:
        raise UserError(f"{MOST}={given}: is no number of pixels")
    return int(given)
