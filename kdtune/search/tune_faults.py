"""Faults of Ray Tune, mended here.

A worker that ends for its memory ends all; keys of AWS travel with trials; each launch imports MLflow and wandb; the
means of all that trials report are kept; where trials wait for others, all workers end but one, and those that follow
import everything anew.
"""

import kdtune.cluster.environment  # noqa: F401  # isort: skip  # before Ray, which reads it

import time
from collections.abc import Iterator
from typing import Any

from ray.air._internal import usage
from ray.air.execution._internal.actor_manager import RayActorManager
from ray.exceptions import OutOfMemoryError, RayActorError
from ray.tune.execution import class_cache, tune_controller
from ray.tune.trainable import metadata
from ray.tune.utils.object_cache import _ObjectCache

# Tune would send the driver's AWS keys along with every trial, and Ray writes what it sends into logs and dashboard
class_cache.ENV_VARS_TO_PROPAGATE -= {name for name in class_cache.ENV_VARS_TO_PROPAGATE if name.startswith("AWS_")}
# to count callbacks of each kind, Tune would import every experiment tracker that is installed: two seconds
usage.tag_callbacks = lambda callbacks: False
# of every number that a trial reports Tune would keep means and last values, 17 KB a trial, to the end of the launch
metadata._TrainingRunMetadata.update_metric = lambda self, metric, value, step=1: None


class Unread:
    """Of what Tune pickles into a file of its own: nobody reads ours back, so there is nothing to keep."""

    def __getstate__(self) -> dict[str, Any]:
        return {}


class OutOfMemory(RayActorError):  # type: ignore[misc]
    """A worker that Ray ended to save its node."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self._text = text

    def __str__(self) -> str:
        return self._text

    def __reduce__(self) -> tuple[Any, ...]:  # Tune keeps errors in files
        return OutOfMemory, (self._text,)


_task_failed = RayActorManager._actor_task_failed


def _actor_task_failed(self: Any, tracked_actor_task: Any, exception: Exception) -> None:
    """Tune takes a worker that Ray ends for its memory as a fault of its own, and would end every other trial."""
    if isinstance(exception, OutOfMemoryError):
        exception = OutOfMemory(str(exception))
    _task_failed(self, tracked_actor_task, exception)


RayActorManager._actor_task_failed = _actor_task_failed


KEPT_FOR = 60.0  # seconds that a worker without a trial is kept: more, and a cluster that could shrink would not


class Warm(_ObjectCache):  # type: ignore[misc]
    """Workers that wait for a trial: kept, though none is there at the moment, unless one waits for their place."""

    def __init__(self, may_keep_one: bool = True) -> None:
        super().__init__(may_keep_one)
        self._since: dict[Any, float] = {}

    def cache_object(self, key: Any, obj: Any) -> bool:
        """Keeps a worker; whether it did."""
        if self._others_wait(key):
            return bool(super().cache_object(key, obj))
        self._cached_objects[key].append(obj)
        self._num_cached_objects += 1
        self._since[obj] = time.monotonic()
        return True

    def flush_cached_objects(self, force_all: bool = False) -> Iterator[Any]:
        """The workers that are to end now."""
        if force_all or any(self._others_wait(key) for key, kept in self._cached_objects.items() if kept):
            yield from super().flush_cached_objects(force_all)
            return
        for key, kept in self._cached_objects.items():
            while len(kept) > self._max_num_objects[key] and self._num_cached_objects > 1:
                if time.monotonic() - self._since.get(kept[0], 0.0) < KEPT_FOR:
                    break
                self._num_cached_objects -= 1
                yield kept.pop(0)

    def _others_wait(self, key: Any) -> bool:
        """Whether a trial waits that asks for something else than these workers hold."""
        return any(number > 0 for other, number in self._max_num_objects.items() if other != key)


tune_controller._ObjectCache = Warm
