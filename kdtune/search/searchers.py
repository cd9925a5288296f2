"""What hands Tune the points of a stage: a list, or Optuna's TPE. Both know what earlier launches have run."""

import kdtune.cluster.environment  # noqa: F401  # isort: skip  # before Ray, which reads it

from collections.abc import Mapping, Sequence
from typing import Any

from ray.tune.search import Searcher
from ray.tune.search.optuna import OptunaSearch

from kdtune.records.rows import FINISHED
from kdtune.records.storage import Record
from kdtune.search.stage_context import SCORE, WORST, Point, StageContext, point_of


class FromPlan(Searcher):  # type: ignore[misc]
    """Hands out the points of a list, in its order, under their own names."""

    def __init__(self, points: Sequence[Point]) -> None:
        super().__init__(metric=SCORE, mode="max")
        self._left = list(points)

    def set_search_properties(self, metric: str | None, mode: str | None, config: dict[str, Any], **spec: Any) -> bool:
        """Nothing to set: the points are complete."""
        return True

    def suggest(self, trial_id: str) -> Any:
        """The next point."""
        return self._left.pop(0) if self._left else Searcher.FINISHED

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """The list does not depend on results."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the journal knows what is done."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: every launch makes a new one."""


class FromOptuna(OptunaSearch):  # type: ignore[misc]
    """Optuna's TPE through Ray's OptunaSearch; its study is filled from the journal, so that it survives a restart.

    Unfinished points of an earlier launch come first. No trial is run twice. The space is a function (Optuna's
    define-by-run), since a temperature is only drawn where its term has a weight.
    """

    def __init__(self, context: StageContext, seed: int, past: Mapping[str, Record], samples: int) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._context, self._samples = context, samples
        self._asked: dict[str, str] = {}  # Tune's id -> the id under which Optuna knows the point
        self._given: set[str] = set()
        known, left = optuna.storages.InMemoryStorage(), []
        study = optuna.create_study(storage=known, study_name=context.study, direction="maximize")
        axes = context.stage.distributions()
        for trial_id, record in past.items():
            point = {path: value for path, value in point_of(record, context.stage).items() if path in axes}
            if record["row"]["status"] not in FINISHED:
                left.append(point)
                continue
            score = record["row"]["miou"] if record["row"]["miou"] is not None else WORST
            drawn = {path: axes[path] for path in point}
            study.add_trial(optuna.trial.create_trial(params=point, distributions=drawn, value=score))
            self._given.add(trial_id)
        for point in left:
            study.enqueue_trial(point)
        super().__init__(
            self._draw,
            metric=SCORE,
            mode="max",
            # another stretch of the generator than the launch before: its draws are known
            sampler=optuna.samplers.TPESampler(seed=seed + len(self._given)),
            study_name=context.study,
            storage=known,
        )

    def _draw(self, trial: Any) -> None:
        """A point, value by value."""
        point: Point = {}
        for path in self._context.stage.distributions():
            weight = self._context.stage.conditions.get(path)
            if weight is not None and point[weight] == 0:
                continue
            if path in self._context.stage.grid:
                point[path] = trial.suggest_categorical(path, self._context.stage.grid[path])
            else:
                axis = self._context.stage.ranges[path]
                point[path] = trial.suggest_float(path, axis.low, axis.high, log=axis.log)

    def set_search_properties(self, metric: str | None, mode: str | None, config: dict[str, Any], **spec: Any) -> bool:
        """Nothing to set: the space is complete."""
        return True

    def suggest(self, trial_id: str) -> Any:
        """A point that no trial of the stage has had, or the end when there are none (a small grid is soon spent)."""
        start = next(iter(self._context.starts))
        for i in range(50 if len(self._given) < self._samples else 0):
            name = f"{trial_id}-{i}"
            point = {"start": start, **super().suggest(name), "seed": self._context.stage.seeds[0]}
            planned = self._context.planned(point).trial_id
            if planned not in self._given:
                self._given.add(planned)
                self._asked[trial_id] = name
                return point
            super().on_trial_complete(name, error=True)
        return Searcher.FINISHED

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Only the last report counts."""

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Tells Optuna the score."""
        name = self._asked.pop(trial_id, None)
        if name is not None:
            super().on_trial_complete(name, result, error=error or not result)

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the journal knows what is done."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: every launch makes a new one."""
