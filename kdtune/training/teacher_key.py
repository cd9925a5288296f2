"""What a teacher's outputs depend on: the name of the folder in which they are kept."""

import functools
import hashlib
import json
import platform
import re
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from kdtune.base import Config
from kdtune.filesystem.folder import read_file
from kdtune.study.holdout import Holdout
from kdtune.study.trial_config import TrialConfig
from kdtune.training.evaluation import half_precision, layout
from kdtune.training.numerics import NUMERICS
from kdtune.training.site import Site
from kdtune.training.teacher_store import FORMAT
from kdtune.training.weights import noted

CROP = ("batch_size", "crop", "scale_min", "scale_max", "scale_step", "flip")  # the recipe's fields that make batches


def key(config: TrialConfig, site: Site, device: torch.device) -> str:
    """The hash of all that may change a bit of what the trial's teacher makes of its batches.

    Not the number of steps: a longer trial goes on where a shorter one has ended.

    Raises:
        UserError: the teacher's file, or the training images, cannot be read.
    """
    assert config.teacher is not None
    recipe = config.recipe
    told = {
        "weights": _content(config.teacher.checkpoint, site.locate(config.teacher.checkpoint)),
        "model": _told(config.teacher.model),
        "data": site.split_key(config.dataset, "train"),
        "dataset": _told(config.dataset),
        "crop": {name: getattr(recipe, name) for name in CROP},
        "seed": config.seed,
        "half": half_precision(recipe, device),
        "layout": str(layout(recipe, device)),
        "compile": recipe.compile,
        "device": _device(device),
        "torch": [str(torch.__version__), torch.version.cuda, torch.backends.cudnn.version()],  # type: ignore[no-untyped-call]
        "numerics": NUMERICS,
        "format": FORMAT,
    }
    builder = getattr(config.teacher.model, "builder", None) or type(config.teacher.model).__module__
    if (module := builder.partition(":")[0]).partition(".")[0] != "kdtune":
        told["code"] = _code(module)
    if isinstance(config.select_on, Holdout):  # other images are trained on
        told["select_on"] = _told(config.select_on)
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


def _told(part: Config) -> Any:
    return part.model_dump(mode="json")


@functools.cache
def _code(module: str) -> dict[str, str]:
    """What another package's network is computed by: the package's version, and the source of the module.

    Of a package that is not installed, as one that ``--py-module`` names, the source of all of it.
    """
    top = module.partition(".")[0]
    told = {name: metadata.version(name) for name in metadata.packages_distributions().get(top, ())}
    spec = find_spec(module if told else top)
    own = Path(spec.origin) if spec is not None and spec.origin else None
    files = [own] if own is not None else []
    if own is not None and not told and own.name == "__init__.py":
        files = sorted(own.parent.rglob("*.py"))
    source = hashlib.sha256()
    for path in files:
        source.update(path.read_bytes() if path.is_file() else b"")
    return told | {"source": source.hexdigest()}


@functools.lru_cache(maxsize=8)
def _content(reference: str, source: str) -> str:
    """What the weights are: the digest that their file names, else that of the file. The name of a trial is neither."""
    if reference.startswith("sha256:"):
        return reference
    found = noted(source) if reference.startswith("trial:") else None  # what a file of others says is no proof
    if found is not None:
        return found
    content = read_file(source)
    return hashlib.sha256(b"" if content is None else content).hexdigest()


def _device(device: torch.device) -> list[Any]:
    """The device's kind; on a processor the threads and what its instructions are, too."""
    if device.type == "cuda":
        return [torch.cuda.get_device_name(device), torch.cuda.get_device_capability(device)]
    return [_processor(), torch.backends.cpu.get_cpu_capability(), torch.get_num_threads()]


@functools.cache
def _processor() -> str:
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        found = None
    return found.group(1) if found else f"{platform.machine()} {platform.processor()}"
