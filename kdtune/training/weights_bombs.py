"""Files of weights that are small on the disk and would not be in memory."""

import io
import zipfile
from collections.abc import Mapping

from torch import Tensor

SPARE = 2**26  # bytes: few elements may be shown as many, as long as it is not out of all proportion


def refuse_bomb(content: bytes) -> None:
    """Looks at what ``torch.save`` wrote before it is read: it stores its parts as they are, one after the other.

    Raises:
        ValueError: its parts would be larger than the file.
    """
    if not zipfile.is_zipfile(io.BytesIO(content)):
        return  # its older format: each part is read from the file, and ends with it
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        size = sum(part.file_size for part in archive.infolist())
    if size > len(content):
        raise ValueError(f"its parts would take {size:,} bytes of a file of {len(content):,}: it was made to harm")


def refuse_inflated(weights: Mapping[str, Tensor], size: int) -> None:
    """Looks at the shapes of what was read from a file of that many bytes.

    Raises:
        ValueError: elements are shown so often that copies of the tensors would be far larger than the file.
    """
    needed = sum(tensor.numel() * tensor.element_size() for tensor in weights.values())
    if needed > 2 * size + SPARE:
        raise ValueError(f"its tensors would take {needed:,} bytes of a file of {size:,}: it was made to harm")
