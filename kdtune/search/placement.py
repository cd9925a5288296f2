"""Where a trial may run: what it asks Ray for."""

import kdtune.cluster.environment  # noqa: F401  # isort: skip  # before Ray, which reads it

from collections.abc import Mapping
from typing import Any

import ray
from ray import tune

NODE = "ray.io/node-id"  # a label that Ray gives every node


def asked(resources: Mapping[str, float], labels: Mapping[str, str]) -> Any:
    """So much of a node with these labels, as Tune takes it."""
    selector = [dict(labels)] if labels else None
    return tune.PlacementGroupFactory([_as_nodes(resources)], bundle_label_selector=selector)


def elsewhere(resources: Mapping[str, float], labels: Mapping[str, str], node: str) -> Any:
    """The same on any other node than this one, by its id; none where no other that is there can hold a trial."""
    wanted = _as_nodes(resources)
    for other in ray.nodes():
        fits = all(other["Resources"].get(kind, 0) >= amount for kind, amount in wanted.items())
        labelled = all(other["Labels"].get(key) == value for key, value in labels.items())
        if other["Alive"] and other["NodeID"] != node and fits and labelled:
            return asked(resources, {**labels, NODE: f"!{node}"})
    return None


def _as_nodes(resources: Mapping[str, float]) -> dict[str, float]:
    return {kind.upper(): amount for kind, amount in resources.items()}  # Ray says CPU where Tune says cpu
