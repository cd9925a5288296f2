"""The digest that a file of weights carries of its own content, so that a damaged one is told wherever it lies."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

RECORD = "kdtune"  # the only key in a file's metadata: of several, safetensors writes now the one first, now the other
DIGEST = "sha256"  # in the record


def recorded(weights: Mapping[str, Tensor], record: Mapping[str, Any]) -> dict[str, str]:
    """The metadata of a safetensors file: a record, and the digest of both."""
    return {RECORD: json.dumps({**record, DIGEST: digest(weights, record)}, sort_keys=True)}


def digest(weights: Mapping[str, Tensor], record: Mapping[str, Any]) -> str:
    """SHA-256 of every tensor's name, type, shape and values, and of what else the file says."""
    told = {key: value for key, value in record.items() if key != DIGEST}
    found = hashlib.sha256(json.dumps(told, sort_keys=True).encode())
    for key, value in sorted(weights.items()):
        found.update(f"\0{key}\0{value.dtype}\0{tuple(value.shape)}\0".encode())
        found.update(value.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


def refuse_damaged(weights: Mapping[str, Tensor], content: bytes) -> None:
    """Compares what was read from a safetensors file with its digest; other packages' files have none.

    Raises:
        ValueError: they differ.
    """
    record = _record(content)
    if DIGEST in record and digest(weights, record) != record[DIGEST]:
        raise ValueError("it is damaged, not what was written; get it again")


def noted_digest(content: bytes) -> str | None:
    """The digest that a safetensors file says it has."""
    found: str | None = _record(content).get(DIGEST)
    return found


def _record(content: bytes) -> dict[str, Any]:
    size = int.from_bytes(content[:8], "little")
    found: dict[str, Any] = json.loads(json.loads(content[8 : 8 + size]).get("__metadata__", {}).get(RECORD, "{}"))
    return found
