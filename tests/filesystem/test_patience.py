"""A folder whose disk fails for a moment; object stores are in ``test_s3.py``."""

import errno
import logging
import random
import threading
import time
from pathlib import Path

import pytest

from kdtune.base import UserError
from kdtune.filesystem.folder import Folder
from kdtune.filesystem.patience import StorageError, patience, patiently, waiting

BROKEN = Path("/proc/self/mem")  # its first byte cannot be read: EIO, as of a disk that fails
needs_broken = pytest.mark.skipif(not BROKEN.exists(), reason="no file here that cannot be read")


@pytest.fixture(autouse=True)
def _nothing_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process notes what storage is away, and so what an earlier test gave up."""
    monkeypatch.setattr("kdtune.filesystem.patience._away", {})


@needs_broken
def test_a_disk_that_fails_for_a_moment(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "x").symlink_to(BROKEN)
    (tmp_path / "whole").write_bytes(b"1")
    caplog.set_level(logging.WARNING, "kdtune")
    state = random.getstate()
    timer = threading.Timer(1, (tmp_path / "whole").replace, args=(tmp_path / "x",))
    began = time.monotonic()
    timer.start()
    assert Folder(str(tmp_path)).read("x") == b"1"
    assert 1 <= time.monotonic() - began < 6
    timer.join()
    away, back = [record.getMessage() for record in caplog.records]
    assert away.startswith("storage is away, trying again: [Errno 5] Input/output error")
    assert back.startswith("storage is back after")
    assert random.getstate() == state  # the pauses are drawn, and not from the training's numbers


@needs_broken
def test_a_disk_that_goes_on_failing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KDTUNE_STORAGE_PATIENCE", "0.5")
    (tmp_path / "x").symlink_to(BROKEN)
    with pytest.raises(StorageError, match="does not answer: Input/output error; see that it is mounted") as caught:
        Folder(str(tmp_path)).read("x")
    assert caught.value.errno == errno.EIO
    assert isinstance(caught.value, UserError)  # one line on the command line


@pytest.mark.parametrize("kind", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.ENOENT])
def test_what_waiting_cannot_mend_is_not_waited_for(kind: int) -> None:
    tries = []

    def action() -> None:
        tries.append(kind)
        raise OSError(kind, "no")

    with pytest.raises(OSError, match="no"):
        patiently("here", action)
    assert tries == [kind]


def test_the_tries_grow_apart_and_end() -> None:
    tries: list[float] = []

    def action() -> None:
        tries.append(time.monotonic())
        raise OSError(errno.ESTALE, "stale")

    with waiting(3), pytest.raises(OSError, match="stale"):
        patiently("here", action)
    assert 3 <= tries[-1] - tries[0] < 5
    assert 4 <= len(tries) < 12
    with waiting(0), pytest.raises(OSError, match="stale"):
        patiently("here", action)
    assert patience() == 120
