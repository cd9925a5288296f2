"""Checkpoints that are small on the disk and would fill the memory."""

import io
from pathlib import Path

import pytest
import torch

from kdtune.base import UserError
from kdtune.training.weights import read_weights


def saved(state: object) -> bytes:
    stream = io.BytesIO()
    torch.save(state, stream)
    return stream.getvalue()


def test_a_few_numbers_shown_many_times_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "bomb.pth"
    file.write_bytes(saved({"weight": torch.zeros(1).expand(10**6, 10**6)}))
    with pytest.raises(UserError, match="its tensors would take 4,000,000,000,000 bytes"):
        read_weights(str(file))


def test_what_is_honest_is_read(tmp_path: Path) -> None:
    """Also an expanded buffer, and tensors that share their numbers."""
    base = torch.arange(6.0)
    state = {"mean": torch.ones(1).expand(3, 4), "one": base, "two": base.view(2, 3)}
    for name, legacy in (("new.pth", False), ("old.pth", True)):
        torch.save(state, tmp_path / name, _use_new_zipfile_serialization=not legacy)
        found = read_weights(str(tmp_path / name))
        assert all(torch.equal(found[key], value) for key, value in state.items())
