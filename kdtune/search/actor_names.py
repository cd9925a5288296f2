"""What Ray's dashboard shows of processes that run trials; Tune calls them all ``ImplicitFunc``, without a name.

A process runs one trial after the other. Ray takes the name and the ``repr`` of an actor once, when it is made: they
are those of its first trial, and dots, for others follow. Each task of an actor has a name of its own, which the
process has as its title while it runs: that of the trial that runs now.
"""

import kdtune.cluster.environment  # noqa: F401  # isort: skip  # before Ray, which reads it

import copy
import itertools
from collections.abc import Callable
from typing import Any

from ray.air.execution._internal.actor_manager import RayActorManager
from ray.tune.execution import class_cache, tune_controller
from ray.tune.trainable.function_trainable import wrap_function

_numbers = itertools.count(1)  # a name stands once among those of a driver


def trial_class(function: Callable[[dict[str, Any]], None]) -> type:
    """A function as Tune's trainable, called ``Trial`` and described by its first trial's title."""

    class Trial(wrap_function(function)):  # type: ignore[misc]
        def __repr__(self) -> str:
            return f"{self.config.get('title', 'trial')} ..."

    Trial.__qualname__ = "Trial"
    return Trial


class NamedActors(class_cache._ActorClassCache):  # type: ignore[misc]
    """Gives each actor that is made from a class a name."""

    title: str | None = None  # of the trial that the next actor is for

    def get(self, trainable_cls: Any) -> Any:
        """The class as Ray makes actors of it."""
        made = super().get(trainable_cls)
        if self.title is None:
            return made
        named = copy.copy(made)
        named._default_options = {**made._default_options, "name": f"{self.title} ... #{next(_numbers)}"}
        return named


class _NamedTasks:
    """An actor whose tasks have a name."""

    def __init__(self, actor: Any, title: str) -> None:
        self._actor, self._title = actor, title

    def __getattr__(self, method: str) -> Any:
        return getattr(self._actor, method).options(name=self._title)


tune_controller._ActorClassCache = NamedActors
_schedule_actor = tune_controller.TuneController._schedule_trial_actor
_schedule_task = tune_controller.TuneController._schedule_trial_task
_start_task = RayActorManager._schedule_tracked_actor_task


def _with_title(self: Any, trial: Any) -> Any:
    self._class_cache.title = trial.config.get("title")
    return _schedule_actor(self, trial)


def _task_with_title(self: Any, trial: Any, *args: Any, **kwargs: Any) -> Any:
    self._actor_manager.title = trial.config.get("title")
    return _schedule_task(self, trial, *args, **kwargs)


def _start_with_title(self: Any, tracked_actor_task: Any, *args: Any, **kwargs: Any) -> Any:
    title = getattr(self, "title", None)
    live, tracked = self._live_actors_to_ray_actors_resources, tracked_actor_task._tracked_actor
    if title is None or tracked not in live:
        return _start_task(self, tracked_actor_task, *args, **kwargs)
    actor, resources = live[tracked]
    live[tracked] = (_NamedTasks(actor, title), resources)
    try:
        return _start_task(self, tracked_actor_task, *args, **kwargs)
    finally:
        live[tracked] = (actor, resources)


tune_controller.TuneController._schedule_trial_actor = _with_title
tune_controller.TuneController._schedule_trial_task = _task_with_title
RayActorManager._schedule_tracked_actor_task = _start_with_title
