"""Whose cache it is: who can write it chooses the pixels that are trained on."""

import os
from pathlib import Path

import pytest

from kdtune.base import UserError
from kdtune.loading import cache
from kdtune.loading.cache import cache_folder

ROOT = pytest.mark.skipif(os.getuid() != 0, reason="only root gives a folder to another user")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """``KDTUNE_CACHE``, not made yet."""
    monkeypatch.setenv("KDTUNE_CACHE", str(tmp_path / "own"))
    cache._refuse_shared.cache_clear()
    return tmp_path / "own"


def test_a_cache_of_ones_own(folder: Path) -> None:
    assert cache_folder() == folder
    folder.mkdir(mode=0o755)
    assert cache_folder() == folder


@pytest.mark.parametrize(("mode", "told"), [(0o777, "every user may write it"), (0o1777, "every user may write it")])
def test_a_cache_that_everybody_may_write(folder: Path, monkeypatch: pytest.MonkeyPatch, mode: int, told: str) -> None:
    folder.mkdir()
    folder.chmod(mode)
    with pytest.raises(UserError, match=f"{folder}: .*{told}.*KDTUNE_CACHE_SHARED=1"):
        cache_folder()
    monkeypatch.setenv("KDTUNE_CACHE_SHARED", "1")
    assert cache_folder() == folder


@ROOT
def test_a_cache_that_a_group_may_write(folder: Path) -> None:
    folder.mkdir()
    folder.chmod(0o775)
    assert cache_folder() == folder  # root's own group
    os.chown(folder, 0, 54321)
    cache._refuse_shared.cache_clear()
    with pytest.raises(UserError, match="group 54321 may write it"):
        cache_folder()


@ROOT
def test_a_cache_of_another_user(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.mkdir(mode=0o755)
    os.chown(folder, 12345, 12345)
    monkeypatch.setattr(os, "getuid", lambda: 23456)
    with pytest.raises(UserError, match="user 12345 owns it"):
        cache_folder()
