"""The processors and GPUs of a cluster, divided among the trials of a stage."""

import kdtune.cluster.environment  # noqa: F401  # isort: skip  # before Ray, which reads it

from dataclasses import dataclass
from typing import Any

import ray

from kdtune.base import UserError
from kdtune.study.spec import StudySpec
from kdtune.study.stage import Stage

PROCESSOR_TRIALS = 8  # at once on a machine without a GPU, at most: each needs its own copy of torch


@dataclass(frozen=True)
class Share:
    """What each trial gets, and how many run at once."""

    cpus: float
    gpus: float
    at_once: int

    @property
    def threads(self) -> int:
        """Of torch, per trial."""
        return max(1, int(self.cpus))


def share(study: StudySpec, stage: Stage, num_trials: int, *, joined: bool = False) -> Share:
    """Divides the cluster, or the nodes that the stage asks for, among the trials of a stage.

    Decided by the whole plan, not by what is left of it: the number of threads changes the last digits, and a continued
    stage must not differ from an undisturbed one. On a cluster that was ``joined``, and where ``max_concurrent`` is
    given, a study that needs a GPU asks for as many as that even if they are not there yet: an autoscaler starts nodes
    for what waits.

    Raises:
        UserError: no node has the stage's labels.
    """
    have: dict[str, float] = {}
    for node in _nodes(stage):
        for name in ("CPU", "GPU"):
            have[name] = have.get(name, 0) + node["Resources"].get(name, 0)
    cpus, gpus = max(1, int(have.get("CPU", 1))), have.get("GPU", 0)
    waits = joined and study.needs_gpu and study.max_concurrent is not None and not gpus
    if gpus or waits:
        slots = max(1, int(gpus / study.gpus_per_trial + 1e-9))
        at_once = min(num_trials, study.max_concurrent or slots)
        return Share(max(1, cpus // slots) if gpus else 1, study.gpus_per_trial, at_once)
    at_once = min(num_trials, study.max_concurrent or PROCESSOR_TRIALS, cpus)
    return Share(cpus // at_once, 0, at_once)


def _nodes(stage: Stage) -> list[dict[str, Any]]:
    """The nodes that may run the stage."""
    alive = [node for node in ray.nodes() if node["Alive"]]
    fit = [node for node in alive if all(node["Labels"].get(key) == value for key, value in stage.labels.items())]
    if not fit:
        kinds = sorted(
            {f"{key}={node['Labels'][key]}" for node in alive for key in node["Labels"] if key in stage.labels}
        )
        wanted = ", ".join(f"{key}={value}" for key, value in stage.labels.items())
        raise UserError(
            f"stage '{stage.name}' asks for nodes labelled {wanted}, and the cluster has none; "
            f"it has: {', '.join(kinds) or 'no node with such a label'}"
        )
    return fit


def has_gpu() -> bool:
    """Whether the cluster has one."""
    return bool(ray.cluster_resources().get("GPU", 0))
