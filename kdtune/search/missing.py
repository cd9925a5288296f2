"""All that a launch lacks, so that it is named at once; a launch that began would end at the first."""

from collections.abc import Iterator, Sequence

from kdtune.base import UserError
from kdtune.cluster.inspection import check_there
from kdtune.search.checkpoints import Checkpoints
from kdtune.search.data_check import datasets_of
from kdtune.study.spec import StudySpec


def missing(study: StudySpec, only: Sequence[str], data_root: str | None, *, joined: bool) -> list[str]:
    """A line for each thing that these stages (none: all) need and that is not here, with the way to get it.

    ``joined``: a cluster runs them, whose nodes have the data and the GPUs.
    """
    found = [*_weights(study, only), *([] if joined else _data(study, only, data_root))]
    if found and study.needs_gpu and not joined:
        import torch

        if not torch.cuda.is_available():
            found.append(
                f"study '{study.name}' is made for a GPU, and there is none here: on a processor it takes months; "
                "--address ADDR runs it on a Ray cluster that has some"
            )
    return found


def _weights(study: StudySpec, only: Sequence[str]) -> Iterator[str]:
    told = set()
    for stage in (stage for stage in study.stages if not only or stage.name in only):
        try:
            Checkpoints().locate(study, [stage.name])
        except UserError as error:
            if str(error) not in told:
                yield str(error)
            told.add(str(error))


def _data(study: StudySpec, only: Sequence[str], data_root: str | None) -> Iterator[str]:
    for config in datasets_of(study, only):
        try:
            check_there([config], data_root)
        except UserError as error:
            yield str(error)
