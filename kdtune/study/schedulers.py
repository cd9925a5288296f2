"""Early stopping as a study names it: by one of four names, or as a mapping with rungs of its own."""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import BeforeValidator, Field, PlainSerializer, PlainValidator, model_validator

from kdtune.base import Config

SchedulerName = Literal["asha", "halving", "median", "none"]


def stands(status: str, rule: SchedulerName) -> bool:
    """Whether a trial that ended so is final: a stopped one goes on when nothing stops it, a failed one is tried again.

    Where trials are judged together, whether a stopped one goes on hangs on the others.
    """
    return status in ("completed", "diverged") or (status == "stopped" and rule in ("asha", "median"))


class Halving(Config):
    """ASHA's two numbers. A rung never shortens the learning-rate schedule."""

    # Measured, not inherited: `kdtune bench asha` on the learning rate x weight decay grids of demo (seeds 0 to 2) and
    # camvid-small, see kdtune/bench/README.md. In mean over the grids, half and 2 takes 77 % of the steps and finds the
    # full grid's best in 99 % of the orders. A grace of 0.2 takes 53 % and finds it in 51 %, worse than running
    # as many random trials to their ends: curves cross until half of the steps. Nine trials a grid are few; measure
    # your own.
    grace: Annotated[float, Field(gt=0, lt=1)] = 0.5  # share of the steps before a trial can be stopped
    reduction_factor: Annotated[float, Field(gt=1)] = 2.0  # at each rung one in this many goes on


def _share(value: Any) -> Any:
    """A share of a trial's steps as a person writes it: ``1/3``."""
    found = re.fullmatch(r"\s*(\d+)\s*/\s*(\d+)\s*", value) if isinstance(value, str) else None
    return int(found[1]) / int(found[2]) if found and int(found[2]) else value


Share = Annotated[float, BeforeValidator(_share), Field(gt=0, lt=1)]


class SuccessiveHalving(Config):
    """Trials of a stage that are judged together: all pause at a rung, and the better part of them goes on."""

    name: Literal["halving"] = "halving"
    rungs: Annotated[tuple[Share, ...], Field(min_length=1)] = (1 / 4, 1 / 2)  # shares of the steps
    factor: Annotated[float, Field(gt=1)] = 2.0  # at each rung one in this many goes on, rounded up; ties go on

    @model_validator(mode="after")
    def _rising(self) -> Self:
        if list(self.rungs) != sorted(set(self.rungs)):
            raise ValueError(f"rungs must rise, got {list(self.rungs)}")
        return self

    def steps(self, num_steps: int) -> tuple[int, ...]:
        """The steps of the rungs of trials that run so many."""
        return tuple(sorted({round(rung * num_steps) for rung in self.rungs} - {0, num_steps}))


def _scheduler(value: Any) -> Any:
    """A scheduler by its name, or halving with rungs of its own."""
    if isinstance(value, Mapping):
        return SuccessiveHalving.model_validate(value)
    names = get_args(SchedulerName)
    if value in names or isinstance(value, SuccessiveHalving):
        return value
    listed = ", ".join(f"'{name}'" for name in names[:-1])
    raise ValueError(f"input should be {listed} or '{names[-1]}'; got {value!r}")


def _as_written(scheduler: SchedulerName | SuccessiveHalving) -> Any:
    """As a file has it."""
    return scheduler.model_dump(mode="json") if isinstance(scheduler, SuccessiveHalving) else scheduler


Scheduler = Annotated[
    SchedulerName | SuccessiveHalving,
    PlainValidator(_scheduler, json_schema_input_type=SchedulerName | SuccessiveHalving),
    PlainSerializer(_as_written),
]


def scheduler_name(scheduler: SchedulerName | SuccessiveHalving) -> SchedulerName:
    """Its name, with or without rungs of its own."""
    return scheduler.name if isinstance(scheduler, SuccessiveHalving) else scheduler
