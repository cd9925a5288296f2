"""Ray as a launch starts it here."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from kdtune.base import UserError
from kdtune.cluster.halt import Halt

STARTED = """
from kdtune.cluster import session
from kdtune.cluster.halt import Halt
import ray
with session.cluster(None, "s", Halt()):
    print("CPU", ray.cluster_resources()["CPU"])
"""
LIMITS = {  # of a processor, in a control group of version 2 and of version 1
    Path("/sys/fs/cgroup/cpu.max"): "50000 100000",
    Path("/sys/fs/cgroup/cpu/cpu.cfs_quota_us"): "50000",
}


@pytest.mark.slow
def test_half_a_processor_runs_one_trial(tmp_path: Path) -> None:
    """Ray counts whole processors, and of a container that has half of one it makes none: nothing would ever run."""
    place = next((path for path in LIMITS if path.exists()), None)
    if place is None:
        pytest.skip("no control group limits the processor here")
    limit = tmp_path / "limit"
    limit.write_text(LIMITS[place])
    mount = shlex.join(["mount", "--bind", str(limit), str(place)])
    if subprocess.run(["unshare", "-rm", "sh", "-c", mount], capture_output=True, check=False).returncode:
        pytest.skip("no mount namespaces here")
    line = f"{mount} && exec {shlex.join([sys.executable, '-c', STARTED])}"
    environment = os.environ | {"KDTUNE_DASHBOARD": "0"}
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", line], capture_output=True, text=True, env=environment, check=False
    )
    assert done.stdout == "CPU 1.0\n", done.stderr


@pytest.mark.parametrize("folder", ["/proc/nowhere", "/tmp/" + 100 * "x"])
def test_a_folder_in_which_ray_cannot_start(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """No address was given, so none is blamed."""
    from kdtune.cluster import session

    monkeypatch.setenv("RAY_TMPDIR", folder)
    with pytest.raises(UserError) as refused, session.cluster(None, "s", Halt()):
        pass
    assert str(refused.value).startswith("Ray did not start here: ")
    assert "RAY_TMPDIR (else TMPDIR)" in str(refused.value)


@pytest.mark.parametrize("by", ["RAY_ADDRESS=", "--address "])
def test_an_address_is_named_by_what_gave_it(by: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from kdtune.cluster import session

    if by == "RAY_ADDRESS=":
        monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.1:9")
    with (
        pytest.raises(UserError, match=rf"^{by}http://127\.0\.0\.1:9: is a dashboard's address.*--detach"),
        session.cluster("http://127.0.0.1:9", "s", Halt()),
    ):
        pass


def test_silence_is_counted_while_awake() -> None:
    """Stopped for a minute, between two looks, is no silence; a control store that says nothing for as long is."""
    from kdtune.cluster.session import ANSWER_WITHIN, ASKED_EVERY
    from kdtune.cluster.silence import Silence

    silence = Silence(0.0, ASKED_EVERY)
    assert silence.at(2.0, answered=True) == 0
    assert silence.at(70.0, answered=False) <= 2 * ASKED_EVERY < ANSWER_WITHIN
    assert silence.at(72.0, answered=True) == 0
    looks = [silence.at(72.0 + 2 * i, answered=False) for i in range(1, 31)]
    assert looks[-1] == 60
    assert looks[-1] > ANSWER_WITHIN
