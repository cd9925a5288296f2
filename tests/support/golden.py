"""Golden values: inputs, outputs and gradients of the original authors' code, as arrays in a folder.

The folder is ``KDTUNE_GOLDEN``, or ``shared/golden`` next to the checkout. Without it these tests skip.
"""

import hashlib
import json
import os
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

FOLDER = Path(os.environ.get("KDTUNE_GOLDEN", Path(__file__).resolve().parents[2].parent / "shared" / "golden"))

# SKD's names of the critic's parts, and kdtune's.
NAMES = {
    "preprocess_additional.": "preprocessing.",
    **{f"l{i}.0.module.": f"halve{i}." for i in (1, 2, 3, 4)},
    "attn1.": "attend3.",
    "attn2.": "attend4.",
    "last.0.": "last.",
    "weight_bar": "weight",
    "weight_u": "u",
    "_conv": "",
}


@dataclass(frozen=True)
class Case:
    """One call of a reference: its settings and its arrays, computed in float64."""

    id: str
    args: dict[str, Any]
    arrays: dict[str, np.ndarray]
    recipe: dict[str, Any] | None

    def input(self, name: str, *, grad: bool = False) -> torch.Tensor:
        """An input, floats as float64, labels as int64 with the ignored ones at 255."""
        tensor = torch.from_numpy(self.arrays[f"in.{name}"])
        if not tensor.is_floating_point():
            tensor = tensor.long()
            return tensor.where(tensor >= 0, 255)
        return tensor.double().requires_grad_(grad)

    def out(self, name: str = "loss") -> torch.Tensor:
        """An output as float64."""
        return torch.from_numpy(np.asarray(self.arrays[f"out.{name}"])).double()

    def check(self, value: torch.Tensor, name: str = "loss") -> None:
        """A scalar loss must agree to 1e-7."""
        torch.testing.assert_close(value.detach(), self.out(name), rtol=1e-7, atol=1e-12)

    def check_grad(self, tensor: torch.Tensor, name: str, *, loss: str = "loss") -> None:
        """The gradient of ``loss`` in an input must agree to 1e-6 of its largest entry."""
        assert tensor.grad is not None
        close(tensor.grad, torch.from_numpy(self.arrays[f"grad.{loss}.{name}"]).double())

    def state(self) -> dict[str, torch.Tensor]:
        """The reference's weights, drawn by its recipe from the names of its keys."""
        assert self.recipe is not None
        state = {key: _draw(self.recipe["tag"], key, shape) for key, shape in self.recipe["keys"]}
        digest = hashlib.sha256()
        for key in sorted(key for key in state if not key.endswith("num_batches_tracked")):
            digest.update(key.encode() + state[key].astype("<f4").tobytes())
        assert digest.hexdigest() == self.recipe["sha256"]
        return {key: torch.from_numpy(value) for key, value in state.items()}


def close(actual: torch.Tensor, expected: torch.Tensor) -> None:
    """Tensors were rounded to float32 when they were stored."""
    torch.testing.assert_close(actual.detach(), expected, rtol=0, atol=1e-6 * float(expected.abs().max()) + 1e-15)


def our_name(key: str) -> str:
    """A key of SKD's discriminator as kdtune's."""
    for theirs, ours in NAMES.items():
        key = key.replace(theirs, ours)
    return key


def cases(*kinds: str) -> list[Any]:
    """The cases of these kinds as pytest parameters; one that skips where there is no folder."""
    if not (FOLDER / "manifest.json").exists():
        return [pytest.param(None, marks=pytest.mark.skip(reason="no golden values: set KDTUNE_GOLDEN"))]
    found = [case for case in json.loads((FOLDER / "manifest.json").read_text())["cases"] if case["kind"] in kinds]
    assert found, f"no golden case of {kinds}"
    return [pytest.param(_load(case), id=case["id"]) for case in found]


def _load(case: dict[str, Any]) -> Case:
    with np.load(FOLDER / case["file"]) as arrays:
        return Case(case["id"], case["init_args"] or {}, dict(arrays), case["state_by_recipe"])


def _draw(tag: str, key: str, shape: list[int]) -> np.ndarray:
    seed = zlib.crc32(f"{tag}:{key}".encode())
    uniform = np.random.RandomState(seed).random_sample(int(np.prod(shape))).reshape(shape)
    signed = 2 * uniform - 1
    match key.rsplit(".", 1)[-1]:
        case "num_batches_tracked":
            return np.zeros(shape, dtype=np.int64)
        case "running_mean":
            value = 0.1 * signed
        case "running_var":
            value = 0.5 + uniform
        case "weight_u" | "weight_v":
            value = signed / np.linalg.norm(signed)
        case "gamma":
            value = 0.25 + 0.5 * uniform
        case _ if len(shape) > 1:
            value = signed * np.sqrt(3 / np.prod(shape[1:]))
        case "weight":
            value = 0.75 + 0.5 * uniform
        case _:
            value = 0.1 * signed
    return value.astype(np.float32)
