"""A Ray that a launch starts itself: for this user and this machine alone.

Its files lie in a folder that only this user can enter, and its processes listen on loopback, which takes the place of
the machine's address. The folder goes with the launch; one that a killed launch left is removed a day later.
"""

import contextlib
import fcntl
import itertools
import os
import secrets
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray._private import ray_constants

PREFIX = "kdt-"
IN_USE = "in-use"  # locked by the launch as long as it lives
LEFT_FOR = 86400.0  # seconds in which what a killed launch left can be looked at
LOOPBACK = "127.0.0.1"


@dataclass(frozen=True)
class OwnRay:
    """What ``ray.init`` gave, and the folder of its files."""

    context: Any
    folder: Path
    _lock: int

    def remove(self) -> None:
        """The folder, once Ray is shut down."""
        shutil.rmtree(self.folder, ignore_errors=True)
        os.close(self._lock)


def start(**options: Any) -> OwnRay:
    """Starts Ray with these options of ``ray.init``.

    Raises:
        OSError: its folder cannot be made, or has a name too long for sockets.
    """
    base = _base()
    base.mkdir(parents=True, exist_ok=True)
    _sweep(base)
    folder, lock = _make(base)
    # Ray lets all users write to the folder it is given; so that one lies in ours. One letter: sockets' paths are short
    options |= {"address": "local", "_temp_dir": str(folder / "r"), "dashboard_host": LOOPBACK}
    try:
        with _on_loopback():
            context = ray.init(**options)
            if ray.nodes()[0]["Resources"].get("CPU", 0) < 1:  # of half a processor Ray makes none
                ray.shutdown()
                context = ray.init(num_cpus=1, **options)
    except (OSError, ValueError):  # nothing was started; else the logs say why Ray did not come up
        OwnRay(None, folder, lock).remove()
        raise
    return OwnRay(context, folder, lock)


def _base() -> Path:
    """Where Ray would put its files, too."""
    environment = os.environ
    named = environment.get("RAY_TMPDIR") or (sys.platform.startswith("linux") and environment.get("TMPDIR"))
    return Path(named or "/tmp").absolute()


def _make(base: Path) -> tuple[Path, int]:
    """A new folder, with the lock that says it is in use."""
    for tries in itertools.count():
        folder = base / f"{PREFIX}{secrets.token_hex(2)}"
        try:
            folder.mkdir(mode=0o700)
            break
        except FileExistsError:
            if tries > 1000:
                raise
    lock = os.open(folder / IN_USE, os.O_WRONLY | os.O_CREAT, 0o600)
    with contextlib.suppress(OSError):  # a network file system without locks; nobody can take it there later, either
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return folder, lock


def _sweep(base: Path) -> None:
    """Removes what killed launches of this user left."""
    for folder in base.glob(f"{PREFIX}????"):
        with contextlib.suppress(OSError):  # another launch removes it, or uses it
            found = folder.lstat()
            if found.st_uid != os.getuid() or time.time() - found.st_mtime < LEFT_FOR:
                continue
            lock = os.open(folder / IN_USE, os.O_WRONLY | os.O_NOFOLLOW)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(lock)


@contextlib.contextmanager
def _on_loopback() -> Iterator[None]:
    """Has Ray take loopback for this machine's address, to which all its processes then bind.

    Given as ``_node_ip_address``, Ray replaces it by the address others reach. This constant is off where Ray supports
    one machine only; it is read while Ray starts.
    """
    before = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before
