"""A stage's points as trials: what the driver, the searchers and the workers share."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kdtune.answers.cells import scientific
from kdtune.base import RunError, UserError
from kdtune.records.journal_files import check_id
from kdtune.records.rows import Row
from kdtune.records.storage import Record, Storage
from kdtune.records.trial_record import Planned
from kdtune.study.spec import StudySpec
from kdtune.study.stage import Stage
from kdtune.study.trial_config import TrialConfig, Value
from kdtune.training.site import Site
from kdtune.training.trainer import Trainer, train_and_evaluate

SCORE = "score"  # what schedulers compare: mIoU in percent, or WORST
WORST = -1.0  # of a diverged trial: NaN would never be stopped, and would win no comparison

Point = dict[str, Value]


class NoStart(RunError):
    """A stage has come to nothing that others could start from."""


@dataclass(frozen=True)
class StageContext:
    """What a worker needs to turn a point into a trial."""

    study: str
    stage: Stage
    starts: Mapping[str, TrialConfig]
    references: Mapping[str, str]
    site: Site
    storage: Storage
    threads: int
    token: str | None = None  # of the launch; a worker whose launch has lost the study writes nothing more
    gpus: float = 0.0  # GPUs, or the share of one, that each trial asks for
    followed: bool = False  # whether a tool beside the journal is told of every evaluation
    trainer: Trainer = train_and_evaluate

    def planned(self, point: Point) -> Planned:
        """The trial at a point."""
        config = self.stage.config(self.starts, point).resolved(self.references)
        return Planned(self.study, self.stage.name, point["start"], config)

    def at(self, given: Mapping[str, Any]) -> Planned:
        """The trial of what ``handed`` made."""
        return self.planned({key: value for key, value in given.items() if key not in HANDED})


HANDED = ("stage", "id", "context", "title")


def handed(study: str, stage: Stage, trial_id: str, context: str, point: Point) -> dict[str, Any]:
    """What Tune hands to the worker of a trial: its point, and under which key the context of its stage is told."""
    return {"stage": stage.name, "id": trial_id, "context": context, "title": title(study, stage, point), **point}


def title(study: str, stage: Stage, point: Point) -> str:
    """A trial in a few words, for Ray's dashboard: ``demo/student lr=1e-2 wd=5e-4 s0``."""
    words = [f"from {point['start']}"] if len(stage.start_from) > 1 else []
    for path, value in point.items():
        if path not in ("start", "seed"):
            name = SHORT.get(path) or ".".join(part for part in path.split(".")[1:] if part != "weight") or path
            number = isinstance(value, float | int) and not isinstance(value, bool)
            words.append(f"{name}={_brief(value) if number else value}")
    return " ".join([f"{study}/{stage.name}", *words, f"s{point['seed']}"])


SHORT = {"recipe.lr": "lr", "recipe.weight_decay": "wd"}


def _brief(value: float) -> str:
    return f"{value:g}" if value == 0 or 0.1 <= abs(value) < 1000 else scientific(value)


def recorded(row: Row) -> TrialConfig:
    """The configuration of a trial on record.

    Raises:
        UserError: it is not the one that the trial's id stands for. A journal of that kind is not read; a table was.
    """
    try:
        check_id(row)
        return TrialConfig.model_validate_json(row["config"])
    except (KeyError, TypeError, ValueError):
        raise UserError(
            f"{row['study']}/trials.parquet: trial {row['trial_id']} stands there with a configuration that is not "
            "its own; remove the file: the next launch writes it anew from the journals"
        ) from None


def refuse_other_code(study: StudySpec, starts: Mapping[str, TrialConfig]) -> None:
    """What lies on storage may choose among the networks of the study that is launched, and brings none of its own.

    Raises:
        UserError: the best of an earlier stage names another builder.
    """
    foreign = {name: config.builders for name, config in starts.items() if config.builders}
    known = study.builders if foreign else []
    for name, builders in foreign.items():
        for builder in sorted(builders.difference(known)):
            raise UserError(
                f"study '{study.name}': the best trial of stage '{name}' was built by {builder}, which the study does "
                f"not name: launch it without --stage, so that '{name}' runs as the study stands"
            )


def point_of(record: Record, stage: Stage) -> Point:
    """The point at which a recorded trial stands."""
    config = recorded(record["row"])
    axes = stage.live({path: config.at(path) for path in (*stage.grid, *stage.ranges)})
    return {"start": record["row"]["start"], **axes, "seed": config.seed}
