"""``kdtune bench gpu``: here on a processor, at the smallest size."""

import json
from pathlib import Path

import pytest

from kdtune.base import UserError
from kdtune.bench.gpu import gpu
from kdtune.bench.gpu_parts import PARTS, TERMS


@pytest.mark.slow
def test_every_part_runs_and_is_written(tmp_path: Path) -> None:
    found = gpu(str(tmp_path / "gpu.json"))
    assert json.loads((tmp_path / "gpu.json").read_text()) == json.loads(json.dumps(found))
    assert [*found] == ["where", "size", *PARTS]
    assert not [name for name in PARTS if "error" in found[name]], found
    assert all(found["repeated"][method]["equal"] for method in ("student", "all"))
    assert found["stored"]["equal"]
    gates = {name: part["waits"] for name, part in found["gate"].items() if name != "seconds"}
    assert gates == dict.fromkeys([*TERMS, "pi, writing", "pi, reading"], "4 steps")
    assert all(found["steps"][method]["step_ms"] > 0 for method in (*TERMS,))
    assert [*found["together"]][:2] == ["1", "2"]


def test_no_part_begins_when_the_time_is_up(tmp_path: Path) -> None:
    found = gpu(str(tmp_path / "gpu.json"), seconds=0.0)
    assert {found[name] for name in PARTS} == {"not begun: the time was up"}


def test_a_file_that_cannot_be_written_is_told_before_anything_runs(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere/gpu\.json: cannot be written: No such file"):
        gpu(str(tmp_path / "nowhere" / "gpu.json"))
