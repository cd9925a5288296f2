"""Weights of a network to and from a file, and the record that says whose weights they are."""

import hashlib
import io
import operator
from collections.abc import Mapping
from typing import Any

import safetensors.torch
import torch
from pydantic import Field, PositiveInt, ValidationError
from torch import Tensor, nn

from kdtune.base import Config, SegNet, UserError
from kdtune.filesystem import json_text
from kdtune.filesystem.folder import Folder, read_file
from kdtune.training.hub_folder import folder_fields
from kdtune.training.weights_digest import DIGEST, RECORD, recorded, refuse_damaged
from kdtune.training.weights_refused import refusal, refuse_inflated, refuse_packed

Weights = dict[str, Tensor]
Size = tuple[PositiveInt, PositiveInt]

HEADS = ("fc.", "classifier.")  # of torchvision's classification networks
# under which training scripts save a state dict beside other things; an average of weights where there is nothing else
WRAPPERS = (
    "state_dict", "model", "model_state_dict", "model_state", "net", "network",
    "state_dict_ema", "ema_state_dict", "model_ema", "ema",
)  # fmt: skip
PREFIXES = ("module.", "_orig_mod.")  # of parallel training and of torch.compile, one around the other


class WeightsRecord(Config):
    """Whose weights a file holds; kdtune writes it into every file of weights."""

    model: dict[str, Any]  # as in a study; read as data: nothing is built from what a file says
    num_classes: PositiveInt
    dataset: str | None = None
    classes: tuple[str, ...] | None = None  # names, in the order of the logits
    source: dict[str, str] = {}  # what it was made from: layout and sha256 of another file, or a trial
    # left out of what is written where there is none: files from before they were there keep their digests
    size: Size | None = Field(default=None, exclude_if=operator.not_)  # H, W that its images were resized to
    window: Size | None = Field(default=None, exclude_if=operator.not_)  # H, W of the tiles that it was evaluated in
    # RGB of each class, where the dataset's name does not tell
    palette: tuple[tuple[int, int, int], ...] | None = Field(default=None, exclude_if=operator.not_)
    result: dict[str, Any] = Field(default={}, exclude_if=operator.not_)  # what a study found of it


def trusted_weights(reference: str, uri: str) -> Weights:
    """The weights at ``uri``, if they are those that a trial's configuration names: ``trial:ID`` or ``sha256:HEX``.

    Raises:
        UserError: no such file, not a file of weights, or other ones.
    """
    made = reference.startswith("trial:")
    try:
        return read_weights(uri, reference.removeprefix("sha256:") if reference.startswith("sha256:") else None)
    except UserError as error:
        if not made:
            raise
        raise UserError(
            f"{error}; launched again, the study runs trial {reference.removeprefix('trial:')} anew"
        ) from None


def read_weights(uri: str, sha256: str | None = None) -> Weights:
    """A state dict from a safetensors file or from what ``torch.save`` wrote; nothing in it is executed.

    ``sha256``: of the whole file, where it must be a certain one.

    Raises:
        UserError: no such file, not a file of weights, or another one.
    """
    folder, name = Folder(uri).split()
    if folder.local is not None and (folder.local / name).is_dir():
        raise UserError(f"{uri}: is a folder, not a weights file")
    content = folder.read(name)
    if content is None:
        raise UserError(f"{uri}: no such weights file")
    if sha256 is not None and hashlib.sha256(content).hexdigest() != sha256:
        raise UserError(f"{uri}: not the file that the study began with (sha256 {sha256[:12]}); put that one there")
    try:
        if name.endswith(".safetensors"):
            found = safetensors.torch.load(content)
            refuse_damaged(found, content)
        else:
            refuse_packed(content)
            found = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
            if not isinstance(found, Mapping):
                raise TypeError(f"it holds a {type(found).__name__}, not a mapping of names to tensors")
            wrapped = (found[key] for key in WRAPPERS if isinstance(found.get(key), Mapping))
            found = next(wrapped, found)
        weights = {_bare(key): value for key, value in found.items() if isinstance(value, Tensor)}
        refuse_inflated(weights, len(content))
        return weights
    except Exception as error:  # pickle, zip and safetensors each raise their own kinds
        reason = refusal(uri, content, error)
        raise UserError(f"{uri}: not a file of weights (safetensors or a plain state dict): {reason}") from None


def _bare(key: str) -> str:
    while key.startswith(PREFIXES):
        key = key.split(".", 1)[1]
    return key


def weights_bytes(network: SegNet, record: WeightsRecord | None = None) -> bytes:
    """The network's parameters and buffers as safetensors, with a record of whose they are, and their digest."""
    return recorded_bytes(network.state_dict(), record)


def recorded_bytes(weights: Weights, record: WeightsRecord | None) -> bytes:
    """The same of weights that are in no network."""
    tensors: Weights = {}
    seen: set[int] = set()
    for key, value in weights.items():
        tensor = value.detach().cpu().contiguous()
        place = tensor.untyped_storage().data_ptr()
        tensors[key] = tensor.clone() if place in seen else tensor  # safetensors refuses memory that is shared
        seen.add(place)
    said = record.model_dump(mode="json") if record else {}
    content: bytes = safetensors.torch.save(tensors, recorded(tensors, said))
    return content


def read_noted(uri: str) -> str | None:
    """The digest that a safetensors file says it has, once its content has been seen to have it.

    Raises:
        UserError: no such file, or it is damaged.
    """
    read_weights(uri)
    return noted(uri)


def noted(uri: str) -> str | None:
    """The digest that a safetensors file says it has, unseen; none of another file."""
    found: str | None = _said(uri).get(DIGEST)
    return found


def _said(uri: str) -> dict[str, Any]:
    """What kdtune wrote into a file of weights beside them; nothing, where another package wrote it."""
    text = ((read_header(uri) or {}).get("__metadata__") or {}).get(RECORD, "{}")
    try:
        found: dict[str, Any] = json_text.parsed(text)
    except ValueError:
        raise UserError(f"{uri}: its kdtune record is damaged; get it again") from None
    return found


def read_header(uri: str) -> dict[str, Any] | None:
    """The header of a safetensors file, key -> type and shape; none if it is no such file. On disk, no tensor is read.

    Raises:
        UserError: the file is damaged.
    """
    folder, name = Folder(uri).split()
    if not name.endswith(".safetensors"):
        return None
    if folder.local is not None:
        path = folder.local / name
        if not path.is_file():
            return None
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            content = file.read(min(size, path.stat().st_size))
    else:
        whole = read_file(uri)
        if whole is None:
            return None
        size = int.from_bytes(whole[:8], "little")
        content = whole[8 : 8 + size]
    try:
        header: dict[str, Any] = json_text.parsed(content[:size])
    except ValueError:
        raise UserError(f"{uri}: not a safetensors file, or damaged; get it again") from None
    return header


def read_record(uri: str) -> WeightsRecord | None:
    """The record in a file of weights, or what transformers' folder around it says; none if there is neither.

    Raises:
        UserError: the file or its record is damaged.
    """
    said = _said(uri)
    said.pop(DIGEST, None)
    if not said:
        said = folder_fields(uri) or {}
    if not said:
        return None
    try:
        return WeightsRecord.model_validate(said, strict=False)
    except ValidationError as error:
        where = ".".join(str(part) for part in error.errors()[0]["loc"])
        raise UserError(f"{uri}: its kdtune record cannot be read (at '{where}'): another version wrote it") from None


def load_weights(network: SegNet, weights: Weights, source: str, part: str = "all") -> None:
    """Copies weights into a network; ``part`` "backbone" takes only those of the backbone.

    For the backbone, a state dict of torchvision's classification network serves as well as one of the whole network.

    Raises:
        UserError: keys or shapes differ; names the first of each kind.
    """
    target, given = fitting(network, weights, source, part)
    target.load_state_dict(given, strict=False)


def fitting(network: SegNet, weights: Weights, source: str, part: str = "all") -> tuple[nn.Module, Weights]:
    """The network, or its backbone, and the weights under its keys. No value is read, so it may be without any.

    Raises:
        UserError: keys or shapes differ; names the first of each kind.
    """
    target: nn.Module
    weights = {**network.own_keys(weights)}
    if part == "backbone":
        target, given = network.backbone, _of_backbone(network, weights)
    else:
        target, given = network, own_names(weights, network.state_dict())
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
    return target, given


def own_names(weights: Weights, own: Weights) -> Weights:
    """The weights under the network's own keys, as far as they can be told.

    A file of another package's network has its keys without kdtune's ``network.``, one of a training framework has all
    of them behind one more name (``model.``).
    """
    for given in (weights, unwrapped(weights)):
        for prefix in ("", "network."):
            named = {f"{prefix}{key}": value for key, value in given.items()} if prefix else given
            if named.keys() & own.keys():
                return named
    return weights


def unwrapped(weights: Weights) -> Weights:
    """The weights without the first part of their names, where all share it."""
    first = {key.partition(".")[0] for key in weights}
    if len(first) != 1 or not all("." in key for key in weights):
        return weights
    return {key.partition(".")[2]: value for key, value in weights.items()}


def _of_backbone(network: SegNet, weights: Weights) -> Weights:
    """The backbone's weights under its own keys: of a whole network, or of torchvision's classification network."""
    own = network.backbone.state_dict()
    path = next(name for name, module in network.named_modules() if module is network.backbone)
    for prefix in (f"{path}.", f"{path}.".removeprefix("network.")):
        if prefix and any(key.startswith(prefix) for key in weights):
            return {key.removeprefix(prefix): value for key, value in weights.items() if key.startswith(prefix)}
    stages = {key.split(".")[1] for key in own if key.startswith("features.")}
    return {
        key: value
        for key, value in weights.items()
        if key in own
        or not (key.startswith(HEADS) or (key.startswith("features.") and key.split(".")[1] not in stages))
    }


def _shapes(keys: list[str], own: Weights, given: Weights) -> str:
    if not keys:
        return ""
    key = keys[0]
    return (
        f"{len(keys)} of other shape, first {key} is {tuple(given[key].shape)}, the network has {tuple(own[key].shape)}"
    )
