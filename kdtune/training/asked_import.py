"""What ``kdtune teacher import`` was asked for, looked at before torch is imported, which takes seconds."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from kdtune.base import UserError
from kdtune.datasets import DATASETS
from kdtune.filesystem.folder import read_file
from kdtune.study.given_model import network_named
from kdtune.text import did_you_mean

if TYPE_CHECKING:
    from kdtune.training.checkpoint_layouts import Layout


@dataclass(frozen=True)
class Import:
    """What ``kdtune teacher import`` was asked for."""

    file: str
    output: str
    layout: "Layout"
    dataset: str | None = None
    model: str | None = None  # YAML, or a file of it; none: from the keys
    plain_bn: bool = False  # skd: trained with ordinary BatchNorm
    force: bool = False


def check(asked: Import) -> None:
    """Raises UserError if the output is none, or is there already, or model or dataset are none."""
    if not asked.output.endswith(".safetensors"):
        raise UserError(f"-o {asked.output}: the output is a safetensors file: give it a name that ends so")
    if not asked.force and read_file(asked.output) is not None:
        raise UserError(f"{asked.output}: is there already; --force replaces it")
    name, known = asked.dataset, DATASETS.names()
    if name is not None and name not in known and not name.endswith((".yaml", ".yml")):
        raise UserError(f"--dataset {name}: unknown{did_you_mean(name, known)}; there are: {', '.join(known)}")
    if asked.model is not None:
        network_named(asked.model)
