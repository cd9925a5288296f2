"""What the tests of loading share."""

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of its own for each test; the folder of packs."""
    monkeypatch.setenv("KDTUNE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "packs"


@pytest.fixture(autouse=True)
def _two_threads(two_threads: None) -> None:
    """Crops are made by as many threads at once as torch has."""
