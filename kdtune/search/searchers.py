"""What hands Tune the trials of a launch, and Optuna's TPE, which knows what earlier launches have run."""

import kdtune.cluster.environment  # noqa: F401  # isort: skip  # before Ray, which reads it

from collections.abc import Callable, Collection, Mapping
from typing import Any

from ray.tune.search import Searcher
from ray.tune.search.optuna import OptunaSearch

from kdtune.base import RunError, UserError
from kdtune.cluster.halt import Halt
from kdtune.records.storage import Record
from kdtune.search.course import Course, Offer
from kdtune.search.stage_context import SCORE, WORST, Point, StageContext, point_of
from kdtune.search.tune_faults import Unread


class FromCourse(Unread, Searcher):  # type: ignore[misc]
    """Hands out what the course of the launch has next."""

    def __init__(self, course: Course, halt: Halt) -> None:
        super().__init__(metric=SCORE, mode="max")
        self._course, self._halt = course, halt

    def set_search_properties(self, metric: str | None, mode: str | None, config: dict[str, Any], **spec: Any) -> bool:
        """Nothing to set: the points are complete."""
        return True

    def suggest(self, trial_id: str) -> Any:
        """The next trial, none until another has ended, or the end. An error of a stage that begins ends the launch."""
        try:
            offer = self._course.next(trial_id)
            if offer is not None:
                return dict(offer.config)
            return None if self._course.advance() else Searcher.FINISHED
        except (UserError, RunError, OSError) as error:
            self._halt.end("refused", error)
            return Searcher.FINISHED

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """For searches that learn from it."""
        self._course.completed(trial_id, result, error)

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the journal knows what is done."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: every launch makes a new one."""


class FromOptuna(OptunaSearch):  # type: ignore[misc]
    """Optuna's TPE through Ray's OptunaSearch; its study is filled from the journal, so that it survives a restart.

    Points of an earlier launch that are to run come first. No trial is run twice. The space is a function (Optuna's
    define-by-run), since a temperature is only drawn where its term has a weight.
    """

    def __init__(
        self,
        context: StageContext,
        seed: int,
        past: Mapping[str, Record],
        kept: Collection[str],
        offer: Callable[[str, Point], Offer],
    ) -> None:
        """``kept``: the trials of ``past`` that do not run again; the points of the others come first."""
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._context, self._samples, self._offer = context, context.stage.samples or 0, offer
        self.left = True  # whether there may be another point
        self._asked: dict[str, str] = {}  # Tune's id -> the id under which Optuna knows the point
        self._given: set[str] = set()
        known, left = optuna.storages.InMemoryStorage(), []
        study = optuna.create_study(storage=known, study_name=context.study, direction="maximize")
        axes = context.stage.distributions()
        for trial_id, record in past.items():
            point = {path: value for path, value in point_of(record, context.stage).items() if path in axes}
            if trial_id not in kept:
                left.append(point)
                continue
            score = record["row"]["miou"] if record["row"]["miou"] is not None else WORST
            drawn = {path: axes[path] for path in point}
            came: dict[str, Any] = {"value": score}
            if record["row"]["status"] == "stopped":
                pruned = optuna.trial.TrialState.PRUNED
                came = {"state": pruned, "intermediate_values": {record["row"]["step"]: score}}
            study.add_trial(optuna.trial.create_trial(params=point, distributions=drawn, **came))
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

    def take(self, tune_id: str) -> Offer | None:
        """A point that no trial of the stage has had; none when there are none (a small grid is soon spent)."""
        start = next(iter(self._context.starts))
        for i in range(50 if len(self._given) < self._samples else 0):
            name = f"{tune_id}-{i}"
            point = {"start": start, **self.suggest(name), "seed": self._context.stage.seeds[0]}
            planned = self._context.planned(point).trial_id
            if planned not in self._given:
                self._given.add(planned)
                self._asked[tune_id] = name
                return self._offer(planned, point)
            self.on_trial_complete(name, error=True)
        self.left = False
        return None

    def over(self, trial: str) -> None:
        """Optuna is told by ``completed``."""

    def completed(self, tune_id: str, result: dict[str, Any] | None, error: bool) -> None:
        """Tells Optuna the score, if it is of one of its points; of one that was stopped, how far it came."""
        name = self._asked.pop(tune_id, None)
        if name is None:
            return
        if result and result["status"] == "running":
            self._ot_trials[name].report(result[SCORE], result["step"])
            self.on_trial_complete(name)  # pruned, as Optuna calls it: without a final value
        else:
            self.on_trial_complete(name, result, error=error or not result)
