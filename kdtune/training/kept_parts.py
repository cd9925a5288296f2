"""What terms make of the teacher alone before training, kept on a node's disk: other trials of that seed find it there.

``KDTUNE_CACHE/teacher/<key>/parts/<hash>.part``: a SHA-256, then tensors in the form of safetensors. It lies among what
the teacher made of the same crops (see ``teacher_store``), and goes with it. Two trials that need a part at the same
time both make it, of the same digits.
"""

import hashlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from kdtune.base import Loss
from kdtune.filesystem.folder import Folder
from kdtune.training.teacher_store import Store, store_folder

if TYPE_CHECKING:
    from kdtune.training.teaching import Asked

PARTS = "parts"
DIGEST = 32  # bytes at a file's beginning
COUNTS = torch.float64  # of what is kept beside the tensors: steps of the teacher, and seconds
ASKED = "kdtune.asked"


@dataclass(frozen=True)
class KeptParts:
    """The parts of one teacher, its crops and a seed."""

    key: Callable[[], str]  # see ``teacher_key``
    limit: float | None  # bytes, see ``Store``

    def found(self, loss: Loss, asked: "Asked") -> bool:
        """Whether the term has its part now, read from the disk; what it took counts as the teacher's, read."""
        made = loss.made_of_teacher()
        if made is None:
            return False
        recipe, tensors = made
        kept = _read(store_folder() / self.key() / PARTS, _name(recipe))
        if (
            kept is None
            or kept.keys() != {*tensors, ASKED}
            or any(kept[k].shape != t.shape for k, t in tensors.items())
        ):
            return False
        steps, seconds = kept[ASKED].tolist()
        with torch.no_grad():
            for name, tensor in tensors.items():
                tensor.copy_(kept[name])
        asked.read += int(steps)
        asked.seconds_used += seconds
        return True

    def keep(self, loss: Loss, before: "Asked", asked: "Asked", seconds: float) -> None:
        """Writes what the term has just made; without room, or a disk that takes it, it is made again elsewhere."""
        made = loss.made_of_teacher()
        if made is None:
            return
        recipe, tensors = made
        counts = torch.tensor([asked.run - before.run, seconds], dtype=COUNTS)
        content = save({name: each.detach().cpu().contiguous() for name, each in tensors.items()} | {ASKED: counts})
        try:
            store = Store(self.key(), self.limit)
            try:
                if store.has_room(DIGEST + len(content)):
                    Folder(str(store.folder / PARTS)).write(_name(recipe), hashlib.sha256(content).digest() + content)
            finally:
                store.close()
        except OSError as error:
            logging.getLogger("kdtune").warning(
                "%s: what a term makes before training is not kept: %s", store_folder(), error.strerror or error
            )


def _name(recipe: str) -> str:
    return f"{hashlib.sha256(recipe.encode()).hexdigest()[:16]}.part"


def _read(folder: Path, name: str) -> dict[str, Tensor] | None:
    """The tensors of a file; none if it is not there, or damaged."""
    try:
        content = Folder(str(folder)).read(name) or b""
    except OSError:
        return None
    digest, body = content[:DIGEST], content[DIGEST:]
    if hashlib.sha256(body).digest() != digest:
        return None
    try:
        found: dict[str, Tensor] = load(body)
        return found
    except SafetensorError:
        return None
