"""Names to classes: a package that is installed adds to kdtune's own, and takes the place of none of them."""

import pickle
import sys
from collections.abc import Iterator
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from kdtune import registry
from kdtune.base import UserError
from kdtune.cluster.nodes import _look
from kdtune.losses import LOSSES
from kdtune.losses.catalogue import loss_lines
from kdtune.losses.pixel_wise import PixelWise
from kdtune.records.rows import trials_schema
from kdtune.records.status import status_of
from kdtune.records.status_lines import lines
from kdtune.records.storage import Storage
from kdtune.search.changes import versions
from kdtune.study.file import load_study
from kdtune.study.plug_ins import named
from kdtune.training.site import Site

TERM = """
from typing import ClassVar

from kdtune.base import LossTerm


class Term(LossTerm):
    symbol: ClassVar[str] = "L_theirs"
    source: ClassVar[str] = "theirs"
"""
STUDY = """
name: theirs
base:
  dataset: {name: demo}
  student: {name: pspnet, backbone: resnet18}
  teacher: {model: {name: pspnet, backbone: resnet50}, checkpoint: teacher.safetensors}
  losses: {ce: {weight: 1.0}, ours_not: {weight: 1.0}}
  recipe: {lr: 1e-2, weight_decay: 5e-4, num_steps: 4, eval_every: 2, crop: [32, 32], batch_size: 2}
stages: [{name: distill}]
"""


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A package whose entry points are called like a term of kdtune's, and like none."""
    folder = tmp_path / "theirs-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1.0\n")
    entries = "pi = theirs:Term\nours_not = theirs:Term\nbroken = theirs_too:Term\n"
    (folder / "entry_points.txt").write_text(f"[kdtune.losses]\n{entries}")
    (tmp_path / "theirs.py").write_text(TERM)
    (tmp_path / "theirs_too.py").write_text("import os\nimport nothing_such\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(registry, "entry_points", entry_points)
    for cached in (registry._others, registry._loaded):
        cached.cache_clear()
    yield
    for cached in (registry._others, registry._loaded):
        cached.cache_clear()
    sys.modules.pop("theirs", None)


@pytest.mark.usefixtures("installed")
def test_a_built_in_goes_before_a_plug_in_of_its_name() -> None:
    assert LOSSES.resolve("pi") is PixelWise
    assert "theirs" not in sys.modules
    assert LOSSES.names().count("pi") == 1


@pytest.mark.usefixtures("installed")
def test_a_plug_in_is_imported_when_it_is_named() -> None:
    assert "ours_not" in LOSSES.names()
    assert "theirs" not in sys.modules
    assert LOSSES.resolve("ours_not").__name__ == "Term"


@pytest.mark.usefixtures("installed")
def test_one_that_cannot_be_imported_is_named_and_in_nobodys_way() -> None:
    with pytest.raises(
        ValueError, match=r"loss 'broken' of theirs 1.0 cannot be imported: .*'nothing_such' \(theirs_too"
    ):
        LOSSES.resolve("broken")
    assert {"broken"} == {*LOSSES.names()} - {*LOSSES.usable()}
    assert "lambda_ours_not" in trials_schema().names
    assert any(line.startswith("broken") and "cannot be imported" in line for line in loss_lines())


@pytest.mark.usefixtures("installed")
def test_what_a_study_uses_of_other_packages_is_noted_and_asked_for(tmp_path: Path) -> None:
    """In its versions, of the nodes, and by who reads it where it is not installed."""
    (tmp_path / "study.yaml").write_text(STUDY)
    study = load_study(str(tmp_path / "study.yaml"))
    assert named(study) == [("kdtune.losses", "ours_not")]
    assert versions(study)["theirs"] == "1.0"
    where = Storage(str(tmp_path / "runs"), study.name)
    where.write_study(study, versions(study) | {"theirs_gone": "2.0"})
    assert "theirs_gone" not in "".join(lines(status_of(where)))
    (tmp_path / "runs" / "theirs" / "study.yaml").write_text(where_text(where).replace("ours_not", "not_there"))
    with pytest.raises(UserError, match=r"was run with theirs_gone 2.0, not installed here: unknown loss 'not_there'"):
        status_of(where)
    answer = _look(pickle.dumps([]), [("kdtune.losses", "broken")], Site(), None)
    assert answer.fault is not None
    assert "theirs 1.0" in answer.fault


def where_text(where: Storage) -> str:
    """Its study, as a file."""
    content = where.folder.read("study.yaml")
    assert content is not None
    return content.decode()
