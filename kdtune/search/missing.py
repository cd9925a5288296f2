"""All that a launch lacks, so that it is named at once; a launch that began would end at the first. Without torch."""

import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from kdtune.base import UserError
from kdtune.cluster.inspection import check_there
from kdtune.filesystem.folder import Folder
from kdtune.search.data_check import datasets_of
from kdtune.study.spec import StudySpec
from kdtune.study.trial_config import STAGE_REFERENCE
from kdtune.training.absent_weights import absent
from kdtune.training.gpu_index import any_here


def missing(study: StudySpec, only: Sequence[str], data_root: str | None, *, joined: bool) -> list[str]:
    """A line for each thing that these stages (none: all) need and that is not here, with the way to get it.

    ``joined``: a cluster runs them, whose nodes have the data and the GPUs.
    """
    found = [*_weights(study, only), *([] if joined else _data(study, only, data_root))]
    if study.needs_gpu and not joined and not gpu_here():
        found.append(
            f"study '{study.name}' is made for a GPU, and there is none here: on a processor it takes months; "
            "--address ADDR runs it on a Ray cluster that has some"
        )
    return found


def downloads(study: StudySpec, only: Sequence[str]) -> Iterator[str]:
    """A line for each backbone whose ImageNet weights the first trial would get from torchvision's server."""
    home = os.environ.get("TORCH_HOME") or os.path.join(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "torch")
    folder = Path(home).expanduser() / "hub" / "checkpoints"
    templates = [config for name, config in study.templates().items() if not only or name in only]
    names = [getattr(config.student, "backbone", None) for config in templates if config.student.init == "imagenet"]
    for name in dict.fromkeys(names):
        if name and not any(folder.glob(f"{name}[-_]*.pth")):
            yield (
                f"ImageNet weights of {name} are not in {folder}: the first trial gets them from download.pytorch.org; "
                "where that cannot be reached, put the file there, or --set student.init=random"
            )


def gpu_here() -> bool:
    """Whether this machine has a GPU: as torch says, where it is imported anyway."""
    torch = sys.modules.get("torch")
    return bool(torch.cuda.is_available()) if torch is not None else any_here()


def _weights(study: StudySpec, only: Sequence[str]) -> Iterator[str]:
    """Files that are not there, each once. That they are what the study needs is seen by the launch."""
    told = set()
    for stage in (stage for stage in study.stages if not only or stage.name in only):
        for path, file in (item for config in study.loading(stage) for item in config.checkpoints().items()):
            if file in told or file.startswith((STAGE_REFERENCE, "trial:", "sha256:")):
                continue
            told.add(file)
            folder, name = Folder(file).split()
            if not folder.exists(name):
                yield absent(path, file)


def _data(study: StudySpec, only: Sequence[str], data_root: str | None) -> Iterator[str]:
    for config in datasets_of(study, only):
        try:
            check_there([config], data_root)
        except UserError as error:
            yield str(error)
