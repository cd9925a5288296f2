"""Two nodes with folders of their own: a launch begins only if both have the same data."""

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from kdtune.datasets.synth import write_synthetic
from tests.support.launching import essence, journals, write_study
from tests.support.ray_cluster import RayCluster, ray_cluster

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

STUDY = """
name: tiny
base:
  dataset: {name: camvid}
  student: {name: pspnet, backbone: resnet18, width: 0.0625}
  losses: {ce: {weight: 1.0}}
  recipe: {lr: 1e-2, weight_decay: 5e-4, crop: [32, 48], batch_size: 2, num_steps: 2, eval_every: 2}
stages:
  - name: student
    grid: {recipe.lr: [1e-1, 1e-2]}
"""
NODE = r"127\.0\.0\.1 \(\S+, [0-9a-f]{8}\)"
IMAGE = "0016E5_000000"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The data roots of the two nodes: equal."""
    one, two = tmp_path_factory.mktemp("one"), tmp_path_factory.mktemp("two")
    write_synthetic("camvid", one / "camvid", 2, size=(32, 48))
    shutil.copytree(one / "camvid", two / "camvid", copy_function=shutil.copyfile)  # without its times
    return one, two


@pytest.fixture(scope="module")
def cluster(folders: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayCluster]:
    """A head that runs no trial and has no data, and two nodes."""
    with ray_cluster() as cluster:
        cluster.start_node(num_cpus=0)
        for folder in folders:
            cache = tmp_path_factory.mktemp("cache")
            cluster.start_node(num_cpus=1, env={"KDTUNE_DATA_ROOT": str(folder), "KDTUNE_CACHE": str(cache)})
        yield cluster


def test_two_nodes(cluster: RayCluster, folders: tuple[Path, Path], tmp_path: Path) -> None:
    """One story, for each launch takes seconds: a missing label, a changed one, equal data, then other data."""
    study = write_study(tmp_path, STUDY)
    words = ("launch", study, "--address", cluster.address, "--scheduler", "none", "--storage")
    two = folders[1] / "camvid" / "valannot" / f"{IMAGE}.png"
    right = two.read_bytes()

    two.unlink()
    done = cluster.kdtune(*words, tmp_path)
    assert done.returncode == 2, done.stderr
    told = done.stderr.splitlines()[-1]
    assert re.search(
        rf"1 of 2 nodes cannot train this study: node {NODE}: {two.parent.parent}/val/{IMAGE}\S+ has no label", told
    )
    assert journals(tmp_path) == {}
    assert not (tmp_path / "tiny" / "data.json").exists()

    two.write_bytes(right + b"\0")
    done = cluster.kdtune(*words, tmp_path)
    assert done.returncode == 2, done.stderr
    told = done.stderr.splitlines()[-1]
    assert re.search(
        rf"1 of 2 nodes cannot train this study: node ({NODE}): camvid, val: image '{IMAGE}' or its label differs "
        rf"\(content key [0-9a-f]{{12}}, but [0-9a-f]{{12}} on node (?!\1)({NODE})\)",
        told,
    )
    assert journals(tmp_path) == {}

    two.write_bytes(right)
    done = cluster.kdtune(*words, tmp_path)
    assert done.returncode == 0, done.stderr
    rows = essence(tmp_path, "trials")
    assert [row["status"] for row in rows] == ["completed"] * 2
    (noted,) = json.loads((tmp_path / "tiny" / "data.json").read_bytes()).values()
    assert {split: entry["images"] for split, entry in noted.items()} == {"train": 2, "val": 2}

    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(folders[1], elsewhere)
    (elsewhere / "camvid" / "valannot" / f"{IMAGE}.png").write_bytes(right + b"\0")
    before = journals(tmp_path)
    more = ("--set", "recipe.momentum=0.5")  # a finished study would need no data
    done = cluster.kdtune(*words, tmp_path, "--data-root", elsewhere, *more)  # a flag holds for all nodes
    assert done.returncode == 2, done.stderr
    told = done.stderr.splitlines()[-1]
    assert re.search(r"dataset 'camvid', val: its content key is [0-9a-f]{12}, but the trials in .*tiny were tr", told)
    assert journals(tmp_path) == before
