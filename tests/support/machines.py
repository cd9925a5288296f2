"""Other machines, as far as one machine can be several: a host name of its own, and a clock that is off."""

import shutil
import subprocess
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import libfaketime
import pytest


@cache
def _allowed() -> bool:
    there = shutil.which("unshare") and shutil.which("hostname")
    return bool(there) and not subprocess.run(["unshare", "--uts", "true"], capture_output=True, check=False).returncode


def on_machine(name: str, command: Sequence[str], clock: str = "") -> list[str]:
    """The command as it would be run on a machine of this name whose clock is off by e.g. ``+1h``."""
    if not _allowed():
        pytest.skip("no right to give a process another host name here")
    off = []
    if clock:
        (library,) = Path(libfaketime.__file__).parent.rglob("libfaketime.so*")
        # what measures durations goes on as it is: machines differ in the time of day
        off = ["env", f"LD_PRELOAD={library}", f"FAKETIME={clock}", "FAKETIME_DONT_FAKE_MONOTONIC=1"]
        off += ["DONT_FAKE_MONOTONIC=1", "FAKETIME_NO_CACHE=1"]
    return ["unshare", "--uts", "sh", "-c", 'hostname "$0" && exec "$@"', name, *off, *command]
