"""The file of weights that a command was given. Asked before torch is imported, which takes seconds."""

import os

from kdtune.base import UserError
from kdtune.filesystem.folder import Folder, absolute
from kdtune.records.storage import WEIGHTS
from kdtune.training.hub_folder import FILES, weights_of


def file_of(checkpoint: str) -> str:
    """The file itself, or that in the folder of a trial's checkpoint, or in one that transformers wrote.

    Raises:
        UserError: there is none.
    """
    folder, name = Folder(absolute(checkpoint.rstrip("/") or "/")).split()
    if folder.exists(name):
        return checkpoint
    inside = folder / name
    if not name.endswith(FILES) and inside.exists("config.json"):
        return weights_of(inside.uri)
    if not name.endswith(FILES) and inside.exists(WEIGHTS):
        return (inside / WEIGHTS).uri
    raise UserError(f"{checkpoint}: no such file, nor the folder of a trial's checkpoint, which has a {WEIGHTS}")


def refuse_absent(file: str) -> None:
    """Raises UserError if there is nothing of that name."""
    folder, name = Folder(file).split()
    if not os.path.isdir(file) and not folder.exists(name):
        raise UserError(f"{file}: no such weights file")
