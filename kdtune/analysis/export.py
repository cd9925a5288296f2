"""``kdtune export``: a network as one file that other programs run, with preprocessing and enlarging inside."""

import io
import json
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from kdtune.analysis.given import ONNX, exported_as, found_images
from kdtune.analysis.weights_file import Opened, opened_network
from kdtune.base import Preprocessing, RunError, SegNet, UserError
from kdtune.datasets.decode import photograph
from kdtune.filesystem.folder import Folder, absolute
from kdtune.models.builders import first_line
from kdtune.resize import enlarged, pooled_by_products

EXAMPLE = (2, 3, 96, 160)  # N, 3, H, W with which the network is traced
TRIED = ((1, 3, 96, 160), (3, 3, 97, 131), (1, 3, 130, 67))  # sizes of noise on which the file is compared
ALIKE = 1e-4  # of logits, for each unit of the largest one above 1

Size = tuple[int, int]  # H, W [pixels]


@dataclass(frozen=True)
class Asked:
    """What ``kdtune export`` was asked for."""

    weights: str
    output: str
    model: str | None = None  # as YAML; none: as the file's record says
    size: Size | None = None  # the only one that the file is to take; none: any
    images: Sequence[str] = ()  # on which the file is compared with the network; none: noise


class Whole(nn.Module):
    """From pixels to logits and labels: preprocessing, network, enlarging."""

    mean: Tensor
    std: Tensor

    def __init__(self, network: SegNet, how: Preprocessing) -> None:
        super().__init__()
        self.network = network
        self.bgr = how.order == "bgr"
        self.register_buffer("mean", torch.tensor(how.mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(how.std).view(1, 3, 1, 1))

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """``image`` (N, 3, H, W) uint8 RGB to logits (N, K, H, W) float32 and labels (N, H, W) int64."""
        ordered = image.flip(1) if self.bgr else image
        logits = self.network((ordered.float() - self.mean) / self.std).logits.float()
        large = enlarged(logits, image.shape[-2:])
        return large, large.max(dim=1).indices


def export(asked: Asked) -> Iterator[str]:
    """Writes the file and compares it with the network; yields what it is, and the largest difference.

    Raises:
        UserError: no such weights, another suffix, a package that is missing, or a network that cannot be exported.
        RunError: the file does not answer as the network does.
    """
    folder, name = Folder(absolute(asked.output)).split()
    kind = exported_as(asked.output)
    pictures = [_batch(file, asked.size) for file in found_images(asked.images)]
    opened = opened_network(asked.weights, asked.model)
    whole = Whole(opened.network.cpu(), opened.model.preprocessing).eval()
    program = _program(whole, asked)
    content = _in_onnx(program, opened) if kind == ONNX else _in_torch(program, opened)
    compared = pictures or [_noise(size) for size in ([(1, 3, *asked.size)] if asked.size else TRIED)]
    worst, apart, pixels = _compared(whole, content, kind, compared)
    try:
        folder.write(name, content)
    except OSError as error:
        raise UserError(f"{asked.output}: cannot be written: {error.strerror or error}") from None
    height, width = asked.size or ("H", "W")
    yield f"{asked.output}: {len(content) / 1e6:.1f} MB; image uint8 N x 3 x {height} x {width}, RGB"
    yield f"outputs: logits float32 N x {opened.network.num_classes} x {height} x {width}, labels int64"
    on = f"{len(compared)} {'images' if pictures else 'pieces of noise'}"
    yield f"against torch, on {on}: logits differ by {worst:.1e} at most, {apart} of {pixels} labels differ"
    yield from _remarks(opened)


def _remarks(opened: Opened) -> Iterator[str]:
    """What the file does not do of what evaluations did."""
    size, window = opened.record.size, opened.record.window
    if size is not None:
        yield f"note: it was evaluated on images resized to {size[0]} x {size[1]} (height, width): give it such"
    if window is not None:
        yield f"note: it was evaluated in tiles of {window[0]} x {window[1]}; the file takes what it is given whole"


def _program(whole: Whole, asked: Asked) -> ExportedProgram:
    """The traced network.

    Average pools to several cells become products: of sizes that are not known before, ONNX has no such pool.
    """
    free = {0: Dim.DYNAMIC} | ({} if asked.size else {2: Dim.DYNAMIC, 3: Dim.DYNAMIC})
    example = _noise((2, 3, *asked.size) if asked.size else EXAMPLE)
    try:
        with torch.no_grad(), _quiet():
            program = torch.export.export(whole, (example,), dynamic_shapes={"image": free})
            found: ExportedProgram = program.run_decompositions({torch.ops.aten.adaptive_avg_pool2d.default: _pooled})
            return found
    except Exception as error:  # whatever tracing makes of another package's code
        less = "" if asked.size else "; with --size H,W it may for one size"
        raise UserError(f"{asked.weights}: this network cannot be exported: {first_line(error)}{less}") from error


def _pooled(source: Tensor, size: Sequence[int]) -> Tensor:
    return pooled_by_products(source, (size[0], size[-1]))


def _in_torch(program: ExportedProgram, opened: Opened) -> bytes:
    stream = io.BytesIO()
    torch.export.save(program, stream, extra_files={"kdtune.json": _record(opened)})
    return stream.getvalue()


def _in_onnx(program: ExportedProgram, opened: Opened) -> bytes:
    with torch.no_grad(), _quiet():
        found: Any = torch.onnx.export(
            program, (), input_names=["image"], output_names=["logits", "labels"], dynamo=True, verbose=False
        )
    found.model.metadata_props["kdtune"] = _record(opened)
    content: bytes = found.model_proto.SerializeToString()
    return content


def _record(opened: Opened) -> str:
    return json.dumps(opened.record.model_dump(mode="json"), sort_keys=True)


def _compared(whole: Whole, content: bytes, kind: str, images: Sequence[Tensor]) -> tuple[float, int, int]:
    """The largest difference of logits, how many labels differ, of how many.

    Raises:
        RunError: logits differ by more than rounding does.
    """
    run = _in_onnxruntime(content) if kind == ONNX else torch.export.load(io.BytesIO(content)).module()
    worst, apart, pixels = 0.0, 0, 0
    for image in images:
        with torch.no_grad():
            logits, labels = whole(image)
            theirs, named = run(image)
        difference = float((logits - theirs).abs().max())
        if not difference <= ALIKE * max(1.0, float(logits.abs().max())):
            raise RunError(
                f"the exported file answers otherwise than the network: logits differ by {difference:.1e} at an image "
                f"of {image.shape[2]} x {image.shape[3]} pixels; nothing was written"
            )
        worst, apart, pixels = max(worst, difference), apart + int((labels != named).sum()), pixels + labels.numel()
    return worst, apart, pixels


def _in_onnxruntime(content: bytes) -> Any:
    import onnxruntime

    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])

    def run(image: Tensor) -> list[Tensor]:
        return [torch.from_numpy(each) for each in session.run(["logits", "labels"], {"image": image.numpy()})]

    return run


def _batch(file: Path, size: Size | None) -> Tensor:
    """An image as the exported network takes it, (1, 3, H, W)."""
    image = photograph(file)
    if size is not None and image.shape[:2] != size:
        raise UserError(f"{file}: is of {image.shape[0]} x {image.shape[1]} pixels, not of --size {size[0]},{size[1]}")
    return torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None].contiguous()


def _noise(size: Sequence[int]) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, tuple(size), dtype=torch.uint8, generator=generator)


@contextmanager
def _quiet() -> Iterator[None]:
    """Torch's exporter warns and logs of its own parts."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
