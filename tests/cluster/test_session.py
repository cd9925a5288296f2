"""Ray as a launch starts it here."""

import fcntl
import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
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
LOOKED_AT = """
import json, os, sys
import psutil, ray
from kdtune.cluster import session
from kdtune.cluster.halt import Halt
from ray._private import ray_constants
with session.cluster(None, "s", Halt()):
    ray.get(ray.remote(lambda: None).remote())
    me = psutil.Process()
    ports = [
        (process.name(), *port.laddr)
        for process in (me, *me.children(recursive=True))
        for port in process.net_connections("inet")
        if port.status == psutil.CONN_LISTEN
    ]
    print(json.dumps([ports, ray._private.worker._global_node.get_session_dir_path(), ray.nodes()[0]]), flush=True)
    sys.stdin.readline()
assert ray_constants.ENABLE_RAY_CLUSTER
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


@pytest.fixture
def base() -> Iterator[Path]:
    """A folder with a name that leaves room for sockets."""
    folder = Path(tempfile.mkdtemp(prefix="kd ", dir="/tmp"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.mark.slow
def test_nobody_else_reaches_a_ray_that_is_started_here(base: Path) -> None:
    """Neither by the network nor through files: Ray itself binds all addresses, and has all users write to its folder.

    What is left to other users of the machine are ports on loopback. They ask for the token, but that of the metrics.
    """
    environment = {name: value for name, value in os.environ.items() if name not in ("RAY_TMPDIR", "TMPDIR")}
    line = [sys.executable, "-c", LOOKED_AT]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(line, env=environment | {"TMPDIR": str(base)}, **pipes) as process:
        assert process.stdout is not None
        ports, session, node = json.loads(process.stdout.readline())
        (top,) = base.glob("kdt-*")
        assert Path(session).is_relative_to(top)
        assert top.stat().st_mode & 0o777 == 0o700
        looked = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "ls", "-d", session]
        if os.getuid() == 0:
            assert "Permission denied" in subprocess.run(looked, capture_output=True, text=True, check=False).stderr
        process.communicate("\n")
    assert process.returncode == 0
    names = {name for name, _, _ in ports}
    assert {"gcs_server", "raylet", "ray::DashboardAgent", "ray::RuntimeEnvAgent"} <= names
    assert len(ports) >= 9
    assert {address.removeprefix("::ffff:") for _, address, _ in ports} == {"127.0.0.1"}
    assert node["NodeManagerAddress"] == "127.0.0.1"
    assert list(base.glob("kdt-*")) == [], "the folder goes with the launch"


def test_what_killed_launches_left_is_removed_a_day_later(tmp_path: Path) -> None:
    from kdtune.cluster import own_ray

    names = ["kdt-dead", "kdt-live", "kdt-late", "kdt-else", "kdt-77-12345678"]
    for name in names:
        (tmp_path / name / "r").mkdir(parents=True)
        if name != "kdt-else":  # some other program's
            (tmp_path / name / own_ray.IN_USE).touch()
        if name != "kdt-late":
            os.utime(tmp_path / name, (0, time.time() - own_ray.LEFT_FOR - 1))
    (tmp_path / "away").mkdir()
    (tmp_path / "kdt-link").symlink_to(tmp_path / "away")
    with (tmp_path / "kdt-live" / own_ray.IN_USE).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        own_ray._sweep(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted({*names, "away", "kdt-link"} - {"kdt-dead"})


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
