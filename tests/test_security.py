"""What an attacker would try first, each refused with one line."""

import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from kdtune.base import UserError
from kdtune.filesystem.folder import Folder
from kdtune.records.storage import Storage
from kdtune.training.weights import read_weights
from tests.support.launching import STUDY, kdtune, write_study


@pytest.mark.parametrize("name", ["../../x", "..", ".", "", "/etc", "a/b", "a\\b", ".hidden", "x\n", "-x"])
def test_a_study_cannot_leave_the_storage(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match="is no name of a study") as caught:
        Storage(str(tmp_path), name)
    assert len(str(caught.value).splitlines()) <= 2  # two where the name itself has a line break


def test_a_study_file_cannot_leave_the_storage(tmp_path: Path) -> None:
    done = kdtune(
        "launch", write_study(tmp_path, STUDY.replace("name: tiny", "name: ../../x")), "--storage", tmp_path / "s"
    )
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "name" in line
    assert list(tmp_path.iterdir()) == [tmp_path / "tiny.yaml"]


@pytest.mark.parametrize("command", ["results", "status", "logs", "stop"])
def test_no_command_reads_outside_of_the_storage(tmp_path: Path, command: str) -> None:
    (tmp_path / "storage").mkdir()
    (tmp_path / "x").mkdir()
    done = kdtune(command, "../x", "--storage", tmp_path / "storage")
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("name", ["../x", "a/b", "/x", "..", ""])
def test_a_file_cannot_leave_its_folder(tmp_path: Path, name: str) -> None:
    folder = Folder(str(tmp_path / "inner"))
    for act in (folder.read, folder.exists, folder.remove, folder.__truediv__, lambda n: folder.write(n, b"")):
        with pytest.raises(UserError, match="no name of a file"):
            act(name)
    assert list(tmp_path.iterdir()) == []


class Runs:
    """Pickled, it runs a command when it is read."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[object, ...]:
        return os.system, (f"touch {self.file}",)


def test_a_checkpoint_that_would_run_code_is_refused(tmp_path: Path) -> None:
    trace, harmful = tmp_path / "ran", tmp_path / "teacher.pth"
    harmful.write_bytes(pickle.dumps({"state_dict": Runs(trace)}, protocol=2))
    with pytest.raises(UserError) as caught:
        read_weights(str(harmful))
    assert len(str(caught.value).splitlines()) == 1
    done = kdtune("launch", write_study(tmp_path), "--storage", tmp_path / "s", "--teacher", harmful)
    assert done.returncode == 2
    assert not trace.exists()


def test_a_state_that_would_run_code_is_not_run(tmp_path: Path) -> None:
    """Whoever can write to the storage can write a state with a fitting checksum."""
    import hashlib

    trace, storage = tmp_path / "ran", Storage(str(tmp_path), "s")
    content = pickle.dumps(Runs(trace), protocol=2)
    (storage.folder / "checkpoints" / "t").write("state-1-0.pt", content)
    state = {"file": "state-1-0.pt", "step": 2, "sha256": hashlib.sha256(content).hexdigest()}
    with pytest.raises(pickle.UnpicklingError):
        storage.read_state("t", state)
    assert not trace.exists()


@pytest.mark.slow
def test_a_ray_that_launch_starts_asks_for_a_token(tmp_path: Path) -> None:
    """Without it a job is refused, and the dashboard listens on loopback alone."""
    home = tmp_path / "home"
    home.mkdir()
    code = """
from kdtune.cluster.auth import require_token
require_token()
from kdtune.cluster.halt import Halt
from kdtune.cluster.session import cluster
import urllib.request, urllib.error, os, psutil, subprocess, sys
with cluster(None, "test", Halt()) as dashboard:
    without = {k: v for k, v in os.environ.items() if not k.startswith("RAY_AUTH")} | {"HOME": "/nonexistent"}
    submit = [sys.executable, "-m", "ray.scripts.scripts", "job", "submit", "--no-wait"]
    submit += ["--address", "http://" + dashboard, "--", "true"]
    refused = subprocess.run(submit, env=without, capture_output=True, text=True)
    print(refused.returncode, "401" in refused.stderr or "nauth" in refused.stderr)
    try:
        urllib.request.urlopen(f"http://{dashboard}/api/jobs/")
    except urllib.error.HTTPError as error:
        print(error.code)
    port = int(dashboard.rsplit(":", 1)[1])
    print({c.laddr.ip for p in psutil.Process().children(recursive=True) for c in p.net_connections()
           if c.status == "LISTEN" and c.laddr.port == port})
    words = [" ".join(p.cmdline()) for p in psutil.Process().children(recursive=True)]
    token = open(os.path.expanduser("~/.ray/auth_token")).read()
    print(any(token in line for line in words))
"""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_AUTH")} | {"HOME": str(home)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=240)
    assert done.stdout.splitlines() == ["1 True", "401", "{'127.0.0.1'}", "False"], done.stderr
