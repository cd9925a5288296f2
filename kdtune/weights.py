"""Weights of a network to and from a file."""

import io

import safetensors.torch
import torch
from torch import Tensor

from kdtune.base import SegNet, UserError
from kdtune.files import Folder

Weights = dict[str, Tensor]


def read_weights(uri: str) -> Weights:
    """A state dict from a safetensors file or from what ``torch.save`` wrote; nothing in it is executed.

    Raises:
        UserError: no such file, or not a file of weights.
    """
    folder, name = Folder(uri).split()
    if folder.local is not None and (folder.local / name).is_dir():
        raise UserError(f"{uri}: is a folder, not a weights file")
    content = folder.read(name)
    if content is None:
        raise UserError(f"{uri}: no such weights file")
    try:
        if name.endswith(".safetensors"):
            found = safetensors.torch.load(content)
        else:
            found = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
            found = found.get("state_dict", found)  # training scripts often save it beside other things
        return {key.removeprefix("module."): value for key, value in found.items() if isinstance(value, Tensor)}
    except Exception as error:  # pickle, zip and safetensors each raise their own kinds
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise UserError(f"{uri}: not a file of weights (safetensors or a plain state dict): {reason}") from None


def weights_bytes(network: SegNet) -> bytes:
    """The network's parameters and buffers as safetensors."""
    content: bytes = safetensors.torch.save({k: v.detach().cpu().contiguous() for k, v in network.state_dict().items()})
    return content


def load_weights(network: SegNet, weights: Weights, source: str, part: str = "all") -> None:
    """Copies weights into a network; ``part`` "backbone" takes only those of the backbone.

    Raises:
        UserError: keys or shapes differ; names the first of each kind.
    """
    target, prefix = (network.backbone, "backbone.") if part == "backbone" else (network, "")
    given = {key.removeprefix(prefix): value for key, value in weights.items() if key.startswith(prefix)}
    own = target.state_dict()
    optional = {key for key in own if key.endswith("num_batches_tracked")}
    missing = [key for key in own if key not in given and key not in optional]
    extra = [key for key in given if key not in own]
    shapes = [key for key in own if key in given and own[key].shape != given[key].shape]
    if missing or extra or shapes:
        parts = [
            f"{len(missing)} missing, first {missing[0]}" if missing else "",
            f"{len(extra)} unknown, first {extra[0]}" if extra else "",
            _shapes(shapes, own, given),
        ]
        raise UserError(
            f"{source}: weights of another architecture: {'; '.join(filter(None, parts))}; "
            "give a checkpoint of the network that the study names, or change the study's model"
        )
    target.load_state_dict(given, strict=False)


def _shapes(keys: list[str], own: Weights, given: Weights) -> str:
    if not keys:
        return ""
    key = keys[0]
    return (
        f"{len(keys)} of other shape, first {key} is {tuple(given[key].shape)}, the network has {tuple(own[key].shape)}"
    )
