"""Files of weights that are not read, and why."""

import contextlib
import io
import pickletools
import re
import zipfile
from collections.abc import Mapping

from torch import Tensor

SPARE = 2**26  # bytes: an expanded buffer of a small network


def refuse_packed(content: bytes) -> None:
    """``torch.save`` packs nothing: a file that unpacks to far more than it holds was made to fill the memory.

    Raises:
        ValueError: it does.
    """
    with contextlib.suppress(zipfile.BadZipFile), zipfile.ZipFile(io.BytesIO(content)) as archive:
        if sum(member.file_size for member in archive.infolist()) > 10 * len(content):
            raise ValueError("it unpacks to more than ten times its size; write it anew with torch.save")


def refuse_inflated(weights: Mapping[str, Tensor], size: int) -> None:
    """Looks at the shapes of what was read from a file of that many bytes.

    Raises:
        ValueError: few elements are shown so often that copies of the tensors would be far larger than the file.
    """
    needed = sum(tensor.numel() * tensor.element_size() for tensor in weights.values())
    if needed > 10 * size + SPARE:
        raise ValueError(
            f"its tensors would take {needed:,} bytes, its file has {size:,}; write it anew with torch.save"
        )


def refusal(uri: str, content: bytes, error: Exception) -> str:
    """Why a file was not read, and what to do."""
    if not content:
        return "it is empty; get it again"
    if not uri.endswith(".safetensors") and content[:2] != b"PK" and content[:1] != b"\x80" and not _is_tar(content):
        return "it is another kind of file"
    text = str(error)
    foreign = re.search(r"Unsupported (?:global|class|operand)[^\n]*|Trying to \w+ [^\n]*", text)
    if "Weights only load failed" in text and foreign:
        named = re.search(r"GLOBAL ([\w.]+)", foreign[0])
        what = f"it holds {named[1]}" if named else foreign[0].rstrip(".")
        inner = ".state_dict()" if _is_an_object(content) else "['state_dict']"
        return (
            f"{what}, which is no tensor and could run code when it is read; if you trust the file, re-save it as a "
            f"plain state dict: torch.save(torch.load('{uri}', weights_only=False){inner}, 'plain.pth')"
        )
    cut = ("central directory", "not fully covered", "MetadataIncompleteBuffer", "HeaderTooSmall", "unexpected EOF")
    if isinstance(error, EOFError) or any(sign in text for sign in (*cut, "InvalidHeaderLength")):
        if content[:2] == b"PK" or content[:1] == b"\x80" or uri.endswith(".safetensors"):
            return "it is cut off or damaged; get it again"
    return next(iter(text.splitlines()), type(error).__name__)


def _is_tar(content: bytes) -> bool:
    """The oldest form of torch.save."""
    return content[257:262] == b"ustar"


def _is_an_object(content: bytes) -> bool:
    """Whether ``torch.save`` was given a network, not a mapping: its pickle's first name says so. Nothing is run."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            pickled = archive.read(next(name for name in archive.namelist() if name.endswith("/data.pkl")))
        for opcode, argument, _ in pickletools.genops(pickled):
            if opcode.name == "EMPTY_DICT":
                return False
            if opcode.name in ("GLOBAL", "STACK_GLOBAL"):
                return argument != "collections OrderedDict"
    except (zipfile.BadZipFile, StopIteration, ValueError):
        pass
    return False
