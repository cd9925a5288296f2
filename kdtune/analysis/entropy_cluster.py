"""The entropy of a teacher's distributions on a Ray cluster: a task per few images, whose counts add up."""

import platform
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ray
import torch
from ray.exceptions import RayError, RayTaskError

from kdtune.analysis.entropy_counts import Asked, Counts, count
from kdtune.base import RunError, UserError
from kdtune.cluster import session
from kdtune.cluster.halt import Halt, interruptible, refuse_halted
from kdtune.cluster.share import PROCESSOR_TRIALS, has_gpu
from kdtune.devices import hide_gpus
from kdtune.loading.content import content_key
from kdtune.loading.pack import dataset_root
from kdtune.study.spec import StudySpec
from kdtune.study.trial_config import TrialConfig
from kdtune.training.site import Site

PER_TASK = 16  # images: a lost node costs that many, and every node has its share
MOST_TASKS = 1000  # however many images are asked for: only a node knows how many there are


@dataclass(frozen=True)
class Shard:
    """What a task found on its node, or what is wrong there."""

    node: str
    key: str = ""  # content of the images
    counts: Counts | None = None
    fault: str | None = None


def _shard(config: TrialConfig, source: str, asked: Asked, site: Site, part: tuple[int, int], threads: int) -> Shard:
    """On a node. A worker keeps teacher and images for its next shard."""
    torch.set_num_threads(threads)
    if not ray.get_gpu_ids():
        hide_gpus()  # Ray lets it see all GPUs of its node
    try:
        key = content_key(config.dataset, asked.split, dataset_root(config.dataset, site.root))
        return Shard(platform.node(), key, count(config, source, asked, site, part))
    except UserError as error:
        return Shard(platform.node(), fault=str(error))


def count_on(
    address: str,
    study: StudySpec,
    config: TrialConfig,
    source: str,
    asked: Asked,
    site: Site,
    progress: Callable[[int, int], None],
) -> Counts:
    """The counts of all images, by the nodes of a cluster; see ``kdtune.analysis.entropy_counts.count``.

    Only nodes read the data and the weights: the machine that asks needs neither.

    Raises:
        UserError: no cluster there, or a node lacks data or weights or has other data than the rest.
        RunError: interrupted, or nodes were lost again and again.
    """
    parts = min(-(-asked.images // PER_TASK), MOST_TASKS)
    halt = Halt()
    with session.cluster(address, study.name, halt), interruptible(halt):
        resources, threads = _resources(study)
        # a shard of a lost node is counted again on another: what it counts does not depend on where
        task = ray.remote(**resources, max_retries=3)(_shard)
        tasks = [task.remote(config, source, asked, site, (i, parts), threads) for i in range(parts)]
        total, first = Counts.none(len(asked.temperatures)), None
        while tasks:
            refuse_halted(halt)
            done, tasks = ray.wait(tasks, num_returns=1, timeout=1.0)  # a signal is heard in between
            for each in done:
                shard = _answer(each)
                first = first or shard
                total += _agreed(shard, first, config)
                progress(total.images, min(asked.images, total.available))
    return total


def _resources(study: StudySpec) -> tuple[dict[str, float], int]:
    """Of a task, and torch's threads in it: a GPU's share as a trial's, else as much as a trial at most has."""
    if has_gpu():
        return {"num_gpus": study.gpus_per_trial, "num_cpus": 1}, 1
    cpus = [node["Resources"].get("CPU", 0) for node in ray.nodes() if node["Alive"]]
    each = max(1, int(min((n for n in cpus if n), default=1)) // PROCESSOR_TRIALS)
    return {"num_cpus": each}, each


def _answer(task: Any) -> Shard:
    try:
        shard: Shard = ray.get(task)
        return shard
    except RayTaskError:
        raise  # a bug keeps its traceback
    except RayError as error:
        reason = str(error).strip().splitlines()[0]
        raise RunError(
            f"the images could not all be measured, nodes were lost: {type(error).__name__}: {reason}"
        ) from None


def _agreed(shard: Shard, first: Shard, config: TrialConfig) -> Counts:
    """The shard's counts.

    Raises:
        UserError: its node has a fault, or other data than the first that answered.
    """
    if shard.counts is None:
        raise UserError(f"node {shard.node}: {shard.fault}")
    if shard.key != first.key:
        raise UserError(
            f"dataset '{config.dataset.name}' has the content key {shard.key[:12]} on node {shard.node}, but "
            f"{first.key[:12]} on node {first.node}: every node needs the same data"
        )
    return shard.counts
