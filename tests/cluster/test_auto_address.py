"""``--address auto``: the cluster of this user, not the one that another has left a note of."""

import os
from pathlib import Path

import pytest

from kdtune.base import UserError
from kdtune.cluster.addresses import address_of_auto, joinable
from kdtune.cluster.jobs import state_of


@pytest.fixture
def note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file in which Ray notes the address of the cluster that was started last."""
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray" / "ray_current_cluster").write_text("127.0.0.1:6399\n")
    return tmp_path / "ray" / "ray_current_cluster"


def test_this_users_cluster_is_taken(note: Path) -> None:
    assert joinable("auto") == "127.0.0.1:6399"


@pytest.mark.skipif(os.getuid() != 0, reason="only root gives a file to another user")
def test_another_users_cluster_is_not(note: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.chown(note, 12345, 12345)
    for ask in (lambda: joinable("auto"), lambda: state_of("job", "auto", 1.0)):
        with pytest.raises(UserError, match="another user started the cluster"):
            ask()
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")  # as Ray gives it to a job
    assert address_of_auto() == "head:6379"


def test_no_cluster_is_one_line(note: Path) -> None:
    note.unlink()
    with pytest.raises(UserError, match="no Ray cluster was started on this machine"):
        joinable("auto")
