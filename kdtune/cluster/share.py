"""The processors and GPUs of a cluster, divided among the trials of a stage."""

import kdtune.cluster.environment  # noqa: F401  # isort: skip  # before Ray, which reads it

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ray

from kdtune.base import UserError
from kdtune.study.spec import StudySpec
from kdtune.study.stage import Stage

PROCESSOR_TRIALS = 8  # at once on a machine without a GPU, at most: each needs its own copy of torch

Node = Mapping[str, float]  # what a node has: CPU, GPU


@dataclass(frozen=True)
class Share:
    """What each trial gets, and how many run at once."""

    cpus: float
    gpus: float
    at_once: int

    @property
    def resources(self) -> dict[str, float]:
        """Of each trial, as Tune takes them."""
        return {"cpu": self.cpus, **({"gpu": self.gpus} if self.gpus else {})}

    @property
    def threads(self) -> int:
        """Of torch, per trial."""
        return max(1, int(self.cpus))


def share(study: StudySpec, stage: Stage, num_trials: int, *, joined: bool = False) -> Share:
    """Divides the cluster, or the nodes that the stage asks for, among the trials of a stage.

    Decided by the whole plan, not by what is left of it: where a study has no number of threads they follow from the
    share, and change the last digits, and a continued stage must not differ from an undisturbed one. On a cluster that
    was ``joined``, and where ``max_concurrent`` is given, a study that needs a GPU asks for as many as that even if
    they are not there yet: an autoscaler starts nodes for what waits.

    Raises:
        UserError: no node has the stage's labels, or none can hold a trial.
    """
    nodes = [node["Resources"] for node in _nodes(stage)]
    if any(node.get("GPU") for node in nodes):
        return _of_gpus(study, stage, nodes, num_trials)
    if joined and study.needs_gpu and study.max_concurrent is not None:
        return Share(1, study.gpus_per_trial, min(num_trials, study.max_concurrent))
    return _of_processors(nodes, min(num_trials, study.max_concurrent or PROCESSOR_TRIALS), study.threads)


def _of_gpus(study: StudySpec, stage: Stage, nodes: Sequence[Node], num_trials: int) -> Share:
    """Each trial gets the processors that the node with the fewest per slot can give to each of its slots."""
    slots = [_slots(node.get("GPU", 0), study.gpus_per_trial) for node in nodes]
    if not any(slots):
        have = ", ".join(f"{node['GPU']:g}" for node in nodes if node.get("GPU"))
        raise UserError(
            f"stage '{stage.name}': no node can hold a trial of {study.gpus_per_trial:g} GPUs: the nodes have {have}; "
            "give a smaller --gpus-per-trial"
        )
    cpus = min(int(node.get("CPU", 0)) // count for node, count in zip(nodes, slots, strict=True) if count)
    at_once = min(num_trials, study.max_concurrent or sum(slots))
    return Share(max(1, cpus), study.gpus_per_trial, at_once)


def _slots(gpus: float, each: float) -> int:
    """How many trials the GPUs of a node hold: Ray puts a share of a GPU on one, never across two."""
    return int(gpus) * int(1 / each + 1e-9) if each < 1 else int(gpus / each + 1e-9)


def _of_processors(nodes: Sequence[Node], wanted: int, threads: int | None) -> Share:
    """As many trials at once as are wanted, if there are so many processors; each as many processors as fit then.

    With ``threads``: each as many processors as these, or as the largest node has, and as many at once as fit.
    """
    whole = [int(node.get("CPU", 0)) for node in nodes]
    if threads is not None:
        cpus = max(1, min(threads, max(whole)))
        return Share(cpus, 0, max(1, min(wanted, sum(node // cpus for node in whole))))
    at_once = max(1, min(wanted, sum(whole)))
    for cpus in range(max(whole, default=1), 1, -1):
        if sum(node // cpus for node in whole) >= at_once:
            return Share(cpus, 0, at_once)
    return Share(1, 0, at_once)


def begun_with(study: StudySpec, *, joined: bool = False) -> int | None:
    """The threads that the stage with most trials at once gives each of them; none on a cluster that has GPUs."""
    if has_gpu():
        return None
    shares = []
    for stage in study.stages:
        with contextlib.suppress(UserError):  # no node has the labels of a stage that does not run yet
            shares.append(share(study, stage, study.num_trials(stage), joined=joined))
    if any(each.gpus for each in shares):
        return None  # an autoscaler will start them
    most = max((each.at_once for each in shares), default=0)
    return min((each.threads for each in shares if each.at_once == most), default=None)


def largest(stage: Stage) -> int:
    """The processors of the largest node that may run the stage."""
    return max(int(node["Resources"].get("CPU", 0)) for node in _nodes(stage))


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
