"""What a trial asks for on clusters of any shape, and how many of them Ray then places."""

from typing import Any

import pytest

from kdtune.base import UserError
from kdtune.cluster.auth import MODE, require_token
from kdtune.cluster.share import PROCESSOR_TRIALS, Share, share
from kdtune.study.spec import StudySpec
from tests.support.alone import alone
from tests.support.tiny import BASE

Shape = list[tuple[int, int]]  # CPUs and GPUs of each node


def study(labels: dict[str, str] | None = None, **changes: Any) -> StudySpec:
    stage = {"name": "student", "labels": labels or {}}
    return StudySpec.model_validate({"name": "s", "base": BASE, "stages": [stage], **changes})


def shared(shape: Shape, monkeypatch: pytest.MonkeyPatch, trials: int = 1000, joined: bool = True, **of: Any) -> Share:
    """The share on nodes that are there in name only."""
    nodes = [
        {"Alive": True, "Labels": {}, "Resources": {k: v for k, v in (("CPU", cpus), ("GPU", gpus)) if v}}
        for cpus, gpus in shape
    ]
    monkeypatch.setattr("ray.nodes", lambda: nodes)
    spec = study(**of)
    return share(spec, spec.stages[0], trials, joined=joined)


@pytest.mark.parametrize(
    ("shape", "cpus", "at_once"),
    [
        ([(64, 0), (16, 8)], 2, 8),
        ([(32, 0), *4 * [(32, 8)]], 4, 32),
        ([(8, 0), *2 * [(8, 1)], (96, 8)], 8, 10),
        ([(8, 1), (256, 1)], 8, 2),
        ([(2, 8)], 1, 8),
        ([(0, 0), (12, 4)], 3, 4),
    ],
)
def test_gpus_of_any_cluster(shape: Shape, cpus: int, at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Divided node by node: what the poorest node can give to each of its slots."""
    assert shared(shape, monkeypatch) == Share(cpus, 1, at_once)


@pytest.mark.parametrize(
    ("shape", "each", "cpus", "at_once"),
    [
        ([(16, 2)], 0.5, 4, 4),
        ([(16, 2)], 0.33, 2, 6),  # three on each GPU: Ray puts no trial across two
        ([(16, 8), (16, 1)], 2.0, 4, 4),  # the second node holds none
    ],
)
def test_shares_of_a_gpu(shape: Shape, each: float, cpus: int, at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    assert shared(shape, monkeypatch, gpus_per_trial=each) == Share(cpus, each, at_once)


@pytest.mark.parametrize(
    ("shape", "trials", "cpus", "at_once"),
    [
        ([(1, 0), (1, 0)], 1, 1, 1),
        ([(1, 0), (1, 0)], 9, 1, 2),
        ([(8, 0)], 1, 8, 1),
        ([(8, 0)], 3, 2, 3),
        ([(64, 0)], 100, 8, PROCESSOR_TRIALS),
        ([(4, 0), (16, 0)], 5, 4, 5),
        ([(4, 0), (16, 0)], 2, 8, 2),
    ],
)
def test_processors_of_any_cluster(
    shape: Shape, trials: int, cpus: int, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert shared(shape, monkeypatch, trials) == Share(cpus, 0, at_once)


@pytest.mark.parametrize(
    ("shape", "threads", "cpus", "at_once"),
    [
        ([(8, 0)], 2, 2, 4),
        ([(8, 0)], 3, 3, 2),
        ([(5, 0), (3, 0)], 2, 2, 3),  # node by node, and not four of eight
        ([(2, 0), (1, 0)], 4, 2, 1),  # as many as the largest has
        ([(0, 0)], 4, 1, 1),  # an autoscaler's head alone
        ([(64, 0)], 1, 1, PROCESSOR_TRIALS),
    ],
)
def test_a_study_with_its_number_of_threads(
    shape: Shape, threads: int, cpus: int, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert shared(shape, monkeypatch, threads=threads) == Share(cpus, 0, at_once)


def test_threads_do_not_change_the_share_of_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    assert shared([(16, 8)], monkeypatch, threads=5) == Share(2, 1, 8)


def test_a_trial_that_no_node_can_hold_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"no node can hold a trial of 2 GPUs: the nodes have 1, 1; .*--gpus-per-trial"):
        shared([(8, 1), (8, 1)], monkeypatch, gpus_per_trial=2.0)


def test_nodes_that_an_autoscaler_will_start_are_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    assert shared([(2, 0)], monkeypatch, needs_gpu=True, max_concurrent=4) == Share(1, 1, 4)


def placed() -> dict[str, tuple[int, int]]:
    """For each kind of node the trials that are to run at once, and those that Ray has placed."""
    import ray
    from ray.cluster_utils import Cluster
    from ray.util import placement_group

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "num_gpus": 0, "include_dashboard": False})
    kinds: dict[str, Shape] = {"gpus": [(64, 0), (16, 8)], "processors": [(1, 0), (1, 0)]}
    found = {}
    try:
        for kind, shape in kinds.items():
            for cpus, gpus in shape:
                cluster.add_node(num_cpus=cpus, num_gpus=gpus, labels={"kind": kind})
        ray.init(cluster.address)
        for kind in kinds:
            spec = study({"kind": kind})
            each = share(spec, spec.stages[0], 1 if kind == "processors" else 100)
            asked = {"CPU": each.cpus, **({"GPU": each.gpus} if each.gpus else {})}
            groups = [placement_group([asked], bundle_label_selector=[{"kind": kind}]) for _ in range(each.at_once)]
            done, _ = ray.wait([group.ready() for group in groups], num_returns=len(groups), timeout=30)
            found[kind] = (each.at_once, len(done))
    finally:
        ray.shutdown()
        cluster.shutdown()
    return found


@pytest.mark.slow
def test_ray_places_all_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(MODE, "token")
    require_token()
    assert alone(placed) == {"gpus": (8, 8), "processors": (1, 1)}
