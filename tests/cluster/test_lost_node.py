"""Nodes of unlike kinds, and one that is lost while it trains."""

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from kdtune.api import results
from tests.support.launching import AT_ONCE, journals, kdtune, same_as, under_way, until, write_study
from tests.support.ray_cluster import RayCluster, ray_cluster

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
LONG = AT_ONCE.replace("num_steps: 6, eval_every: 2", "num_steps: 120, eval_every: 10")
LABELLED = LONG.replace("  - name: student\n", "  - name: student\n    labels: {kind: fast}\n")
HOW = ("--scheduler", "none", "--stage", "student")


@pytest.fixture(scope="module")
def cluster() -> Iterator[RayCluster]:
    """A head that runs no trial, a node of one kind, a node of another."""
    with ray_cluster() as cluster:
        cluster.start_node(num_cpus=0)
        cluster.start_node(num_cpus=1, labels="kind=fast")
        cluster.start_node(num_cpus=1, labels="kind=slow")
        yield cluster


def test_a_stage_runs_on_the_nodes_that_it_asks_for(cluster: RayCluster, tmp_path: Path) -> None:
    """One trial at a time, since one node of two has the label; a label that none has is refused."""
    study = write_study(tmp_path, LABELLED.replace("120", "4"))
    done = cluster.kdtune("launch", study, "--storage", tmp_path, "--address", cluster.address, *HOW)
    assert done.returncode == 0, done.stderr
    rows = sorted((entry["row"] for entry in journals(tmp_path).values()), key=lambda row: row["started_at"])
    assert len(rows) == 4
    assert all(one["finished_at"] <= other["started_at"] for one, other in pairwise(rows))
    metered = results("tiny", str(tmp_path)).table("nodes").to_pylist()
    idle, busy = sorted(metered, key=lambda node: node["trials_kwh"])  # the head, which runs no trial, has no meter
    assert idle["trials_kwh"] == 0.0 < busy["trials_kwh"]
    assert all(node["trials_kwh"] + node["idle_kwh"] == pytest.approx(node["energy_kwh"]) for node in metered)
    write_study(tmp_path, LABELLED.replace("kind: fast", "kind: none"))
    done = cluster.kdtune("launch", study, "--storage", tmp_path / "other", "--address", cluster.address, *HOW)
    assert done.returncode == 2
    last = done.stderr.splitlines()[-1]
    assert "stage 'student' asks for nodes labelled kind=none" in last
    assert "kind=fast, kind=slow" in last


def test_a_node_that_is_lost_costs_no_result(cluster: RayCluster, tmp_path: Path) -> None:
    """Its trial goes on elsewhere, from its last state; what the lost worker still writes is not read."""
    whole = tmp_path / "undisturbed"
    study = write_study(tmp_path, LONG)
    process = cluster.start("launch", study, "--storage", tmp_path, "--address", cluster.address, *HOW)
    try:
        until(lambda: len(under_way(tmp_path)) == 2)
        cluster.kill_node(2)
        _, errors = process.communicate(timeout=400)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == 0, errors
    assert max(entry["attempt"] for entry in journals(tmp_path).values()) > 1
    done = kdtune("launch", study, "--storage", whole, "--max-concurrent", "1", "--threads", "1", *HOW)
    assert done.returncode == 0, done.stderr
    same_as(whole, tmp_path)
