"""The nodes of a Ray cluster, each asked for its data before any trial starts.

Ray is imported where it is used: by then ``kdtune.cluster.environment`` has set what Ray reads when it is imported.
"""

import pickle
import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from kdtune.base import RunError, Stuck, UserError
from kdtune.cluster.attended import attended
from kdtune.cluster.halt import Halt, refuse_halted
from kdtune.cluster.inspection import Answer, look
from kdtune.loading.content import Content
from kdtune.records.progress import Reporter, duration
from kdtune.study.plug_ins import Named, plug_ins
from kdtune.study.trial_config import TrialConfig
from kdtune.training.site import Site

TOLD_EVERY = 30.0  # seconds between lines on the nodes that still pack


@dataclass(frozen=True)
class Node:
    """A node as Ray knows it, and as people are told of it: several may share a host or, behind NAT, an address."""

    id: str
    name: str


def able() -> list[Node]:
    """The live nodes that can hold a trial, in order of addresses: those with a GPU if any has one, else a processor.

    A head node that is started with ``--num-cpus 0`` needs no data.
    """
    import ray

    alive = [node for node in ray.nodes() if node["Alive"]]
    kind = "GPU" if any(node["Resources"].get("GPU") for node in alive) else "CPU"
    found = [Node(node["NodeID"], _named(node)) for node in alive if node["Resources"].get(kind)]
    return sorted(found, key=lambda node: node.name)


def free(most: int = 4) -> str:
    """What each node has left: ``127.0.0.1 (host, 0a1b2c3d): 0 of 1 GPU, 3 of 8 CPU free``."""
    import ray

    left = ray._private.state.available_resources_per_node()
    alive = [node for node in ray.nodes() if node["Alive"]]
    told = []
    for node in alive[:most]:
        kinds = [kind for kind in ("GPU", "CPU") if node["Resources"].get(kind)]
        mine = left.get(node["NodeID"], {})
        have = ", ".join(f"{mine.get(kind, 0):g} of {node['Resources'][kind]:g} {kind}" for kind in kinds)
        told.append(f"{_named(node)}: {have or 'no GPU, no CPU'} free")
    return "; ".join(told) + (f" (and {len(alive) - most} more nodes)" if len(alive) > most else "")


def _named(node: Mapping[str, Any]) -> str:
    return f"{node['NodeManagerAddress']} ({node['NodeManagerHostname']}, {node['NodeID'][:8]})"


def _look(sent: bytes, needed: list[Named], site: Site, stall_after: float | None) -> Answer:
    """On a node: what it has. The name is that of its host, where Ray's is not known to who asks."""
    try:
        plug_ins(needed)
    except ValueError as error:
        return Answer(platform.node(), fault=str(error))
    configs: Sequence[TrialConfig] = pickle.loads(sent)  # only now: classes of plug-ins are among them
    try:
        found = attended("reading its data", lambda: look(configs, site), stall_after, lambda line: None)
        return Answer(platform.node(), found)
    except (UserError, Stuck) as error:
        return Answer(platform.node(), fault=str(error))


def ask(
    configs: Sequence[TrialConfig],
    needed: list[Named],
    site: Site,
    progress: Reporter,
    halt: Halt,
    stall_after: float | None = None,
) -> list[Answer]:
    """What each node has of the datasets of these configurations, packed there by now; all nodes at the same time.

    ``needed``: the plug-ins that trials use, which a node must have.

    A cluster without a node for trials, which would start one for the first trial, starts it for this.

    Raises:
        RunError: no node is left to answer, or the launch is to end.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    # a process that ends with the task, for it holds torch; a fault is told, not tried again
    task = ray.remote(num_cpus=0, max_calls=1, max_retries=0)(_look)

    def on(node: Node) -> Any:
        return task.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node.id, soft=False))

    sent = pickle.dumps(configs)
    tasks: dict[Any, Node | None] = {on(node).remote(sent, needed, site, stall_after): node for node in able()}
    if not tasks:
        tasks = {task.options(num_cpus=1).remote(sent, needed, site, stall_after): None}
    found: list[Answer] = []
    contents: dict[str, Content] = {}  # one for all nodes that have the same
    began = told_at = time.monotonic()
    while tasks:
        refuse_halted(halt)
        done, _ = ray.wait(list(tasks), num_returns=1, timeout=1.0)
        for each in done:
            answer = _answer(each, tasks.pop(each), progress)
            if answer is not None:
                shared = {where: contents.setdefault(what.key, what) for where, what in answer.parts.items()}
                found.append(replace(answer, parts=shared))
        if tasks and time.monotonic() - told_at >= TOLD_EVERY:
            told_at = time.monotonic()
            waited = ", ".join(node.name if node else "the first node of the cluster" for node in tasks.values())
            since = duration(told_at - began)
            progress.note(f"data: {len(found)} nodes have looked; waiting for {waited} for {since}")
    if not found:
        raise RunError("every node left the cluster while the data was looked at")
    return sorted(found, key=lambda answer: answer.node)


def _answer(task: Any, node: Node | None, progress: Reporter) -> Answer | None:
    """A node's answer under its name; none of one that left, which no trial will run on either."""
    import ray
    from ray.exceptions import RayError, RayTaskError

    name = node.name if node else "the first node of the cluster"
    try:
        answer: Answer = ray.get(task)
        return replace(answer, node=node.name) if node else answer
    except RayError as error:
        if node is not None and node.id not in {each["NodeID"] for each in ray.nodes() if each["Alive"]}:
            progress.warn(f"node {name} left the cluster while its data was looked at")
            return None
        cause = error.cause if isinstance(error, RayTaskError) else error
        lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
        return Answer(name, fault=f"cannot look at its data: {type(cause).__name__}: {lines[-1] if lines else ''}")
