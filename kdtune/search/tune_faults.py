"""Faults of Ray Tune, mended here.

A worker that ends for its memory ends all; keys of AWS travel with trials; each launch imports MLflow and wandb.
"""

import kdtune.cluster.environment  # noqa: F401  # isort: skip  # before Ray, which reads it

from typing import Any

from ray.air._internal import usage
from ray.air.execution._internal.actor_manager import RayActorManager
from ray.exceptions import OutOfMemoryError, RayActorError
from ray.tune.execution import class_cache

# Tune would send the driver's AWS keys along with every trial, and Ray writes what it sends into logs and dashboard
class_cache.ENV_VARS_TO_PROPAGATE -= {name for name in class_cache.ENV_VARS_TO_PROPAGATE if name.startswith("AWS_")}
# to count callbacks of each kind, Tune would import every experiment tracker that is installed: two seconds
usage.tag_callbacks = lambda callbacks: False


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
