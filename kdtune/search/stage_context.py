"""A stage's points as trials: what the driver, the searchers and the workers share."""

from collections.abc import Mapping
from dataclasses import dataclass

from kdtune.records.journal import Planned
from kdtune.records.storage import Record, Storage
from kdtune.study.stage import Stage
from kdtune.study.trial_config import TrialConfig, Value
from kdtune.training.site import Site
from kdtune.training.trial import Trainer
from kdtune.training.trial import run as train_and_evaluate

SCORE = "score"  # what schedulers compare: mIoU in percent, or WORST
WORST = -1.0  # of a diverged trial: NaN would never be stopped, and would win no comparison

Point = dict[str, Value]


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


def point_of(record: Record, stage: Stage) -> Point:
    """The point at which a recorded trial stands."""
    config = TrialConfig.model_validate_json(record["row"]["config"])
    axes = stage.live({path: config.at(path) for path in (*stage.grid, *stage.ranges)})
    return {"start": record["row"]["start"], **axes, "seed": config.seed}
