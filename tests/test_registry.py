"""Names to classes: a package that is installed adds to kdtune's own, and takes the place of none of them."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from kdtune import registry
from kdtune.losses import LOSSES
from kdtune.losses.pixel_wise import PixelWise


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A package whose entry points are called like a term of kdtune's, and like none."""
    folder = tmp_path / "theirs-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1.0\n")
    (folder / "entry_points.txt").write_text("[kdtune.losses]\npi = theirs:Term\nours_not = theirs:Term\n")
    (tmp_path / "theirs.py").write_text("class Term: pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    registry._others.cache_clear()
    yield
    registry._others.cache_clear()
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
