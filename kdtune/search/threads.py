"""How many threads the trials of a study compute with on a processor: decided once, for they change the last digits."""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from kdtune.base import UserError
from kdtune.cluster.share import begun_with, has_gpu, largest
from kdtune.records.storage import Record
from kdtune.study.spec import StudySpec
from kdtune.study.stage import Stage


@dataclass(frozen=True)
class Threads:
    """The study with its number of threads, as far as it is known before Ray is there."""

    study: StudySpec
    told: str = ""  # where the number comes from, for people
    open: bool = False  # whether it is still to be decided

    def decided(self, *, joined: bool) -> "Threads":
        """The same once Ray is there: of a study that only begins, from the nodes that there are."""
        if not self.open:
            return self
        number = begun_with(self.study, joined=joined)
        return Threads(_with(self.study, number), ", from now on part of the study")

    def lines(self, stages: Iterable[Stage]) -> Iterator[str]:
        """What to say when these stages are about to run; nothing on GPUs, or of a study without a number."""
        number = self.study.threads
        if number is None or has_gpu():
            return
        fewest = min(largest(stage) for stage in stages)
        if 0 < fewest < number:
            told = f"{self.told}," if self.told else ""
            yield f"trials compute with {number} threads{told} on nodes of {_counted(fewest, 'processor')}"
        else:
            yield f"{_counted(number, 'thread')} per trial{self.told}"


def known(study: StudySpec, before: Mapping[str, Any] | None, past: Iterable[Record]) -> Threads:
    """What is given; else what the study began with, by its file on storage or, where that is lost, its trials."""
    if study.threads is not None:
        return Threads(study)
    kept = [json.loads(record["row"]["config"]) for record in past] if before is None else [before]
    if not kept:
        return Threads(study, open=True)
    number = kept[0].get("threads")
    if number is not None and not (type(number) is int and number > 0):
        raise UserError(f"{study.name}/study.yaml: threads is {number!r}, no number of them; give --threads N")
    return Threads(_with(study, number), ", as the study began")


def _with(study: StudySpec, number: int | None) -> StudySpec:
    return study.model_copy(update={"threads": number})


def _counted(number: int, word: str) -> str:
    return f"{number} {word}{'s' * (number != 1)}"
