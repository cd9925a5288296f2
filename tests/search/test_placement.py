"""A trial that hung is tried again on another node than the one it hung on, where there is one that can hold it."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray import tune

from kdtune.cluster.halt import Halt
from kdtune.cluster.lookout import Stall
from kdtune.records.progress import Reporter
from kdtune.records.storage import Storage
from kdtune.search.placement import asked, elsewhere
from kdtune.search.stalls import Stalls

HERE, THERE = "a" * 56, "b" * 56
ID = "student-0a-s1"


def node(id_: str, cpus: int = 2, gpus: int = 0, alive: bool = True, **labels: str) -> dict[str, Any]:
    return {
        "NodeID": id_,
        "Alive": alive,
        "Labels": labels,
        "Resources": {"CPU": cpus, **({"GPU": gpus} if gpus else {})},
    }


@pytest.mark.parametrize(
    ("other", "cpus", "gpus", "labels", "found"),
    [
        (None, 1, 0, {}, False),
        (node(THERE), 1, 0, {}, True),
        (node(THERE), 2, 0, {}, True),
        (node(THERE), 3, 0, {}, False),
        (node(THERE), 1, 0.5, {}, False),
        (node(THERE, gpus=1), 1, 0.5, {}, True),
        (node(THERE, alive=False), 1, 0, {}, False),
        (node(THERE), 1, 0, {"kind": "fast"}, False),
        (node(THERE, kind="slow"), 1, 0, {"kind": "fast"}, False),
        (node(THERE, kind="fast"), 1, 0, {"kind": "fast"}, True),
    ],
)
def test_what_counts_as_another_node(
    other: dict[str, Any] | None,
    cpus: float,
    gpus: float,
    labels: dict[str, str],
    found: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    nodes = [node(HERE, cpus=8, gpus=8, kind="fast"), *([other] if other else [])]
    monkeypatch.setattr("ray.nodes", lambda: nodes)
    resources = {"cpu": cpus, "gpu": gpus} if gpus else {"cpu": cpus}
    place = elsewhere(resources, labels, HERE)
    assert (place is not None) == found
    if found:
        amounts = {"CPU": cpus, "GPU": gpus} if gpus else {"CPU": cpus}
        selector = [{**labels, "ray.io/node-id": f"!{HERE}"}]
        assert place == tune.PlacementGroupFactory([amounts], bundle_label_selector=selector)


class Kept(Reporter):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def warn(self, message: str) -> None:
        self.lines.append(message)


@pytest.mark.parametrize("other", [True, False])
@pytest.mark.parametrize("killed", [True, False])
def test_its_second_try_is_kept_from_the_node_and_the_tries_after_that_are_not(
    other: bool, killed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ray.nodes", lambda: [node(HERE), *([node(THERE)] if other else [])])
    kept, stage = Kept(), SimpleNamespace(name="student", labels={})
    found = Stalls(Storage(str(tmp_path), "tiny"), kept, Halt())
    found.begin({"cpu": 1}, stage)  # type: ignore[arg-type]
    usual = asked({"cpu": 1}, {})
    trial = SimpleNamespace(placement_group_factory=usual, max_failures=3)
    found.begins(ID, trial)
    at_the_end = []

    def kill() -> bool:
        at_the_end.append(trial.placement_group_factory)
        return killed

    stall = Stall(ID, HERE, 120.0, 1.0, "", "")
    found.found(stall, kill)
    away = elsewhere({"cpu": 1}, {}, HERE)
    assert at_the_end == [away if other else usual]  # before its process ends, which Tune sees at once
    assert trial.placement_group_factory == (away if other and killed else usual)
    found.begins(ID, trial)
    assert trial.placement_group_factory == usual
    told = "ended, and tried once more, on another node" if other else "ended, and tried once more"
    assert [line.split("; ")[1] for line in kept.lines] == ([told] if killed else [])
