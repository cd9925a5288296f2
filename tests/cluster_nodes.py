"""A Ray cluster of real nodes on this machine, in a network of its own where that is allowed."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from tests.launching import command

LIFE = 1500  # seconds after which what a test forgot ends by itself


@dataclass(frozen=True)
class Cluster:
    """Where it is, and how a process gets into its network."""

    enter: tuple[str, ...]  # the words before a command that runs in its network
    port: int
    dashboard: str
    environment: Mapping[str, str]  # with the token

    def kdtune(self, *words: str | Path, token: bool = True) -> subprocess.CompletedProcess[str]:
        """Runs a command to its end, as a user at a machine of this network."""
        return subprocess.run(
            [*self.enter, *command(*words)],
            capture_output=True,
            text=True,
            timeout=300,
            env=self._as(token),
            check=False,
        )

    def start(self, *words: str | Path) -> subprocess.Popen[str]:
        """Starts a command."""
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.Popen([*self.enter, *command(*words)], text=True, env=self._as(True), **pipes)

    def _as(self, token: bool) -> dict[str, str]:
        return {k: v for k, v in self.environment.items() if token or not k.startswith("RAY_AUTH")}

    def get(self, path: str) -> Any:
        """What the dashboard's API answers."""
        code = "import sys, urllib.request as u; r = u.Request(sys.argv[1], headers={'Authorization': sys.argv[2]}); "
        code += "sys.stdout.write(u.urlopen(r, timeout=20).read().decode())"
        bearer = f"Bearer {Path(self.environment['RAY_AUTH_TOKEN_PATH']).read_text()}"
        words = [*self.enter, sys.executable, "-c", code, f"{self.dashboard}{path}", bearer]
        return json.loads(subprocess.run(words, capture_output=True, text=True, check=True, timeout=60).stdout)


def _network() -> tuple[subprocess.Popen[bytes] | None, str]:
    """A process that holds a network with nothing but loopback, or none and why."""
    if not all(map(shutil.which, ("unshare", "nsenter", "ip"))):
        return None, "unshare, nsenter or ip is missing"
    holder = subprocess.Popen(
        ["unshare", "--net", "sh", "-c", f"ip link set lo up && echo up && exec sleep {LIFE}"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert holder.stdout is not None
    if holder.stdout.readline().strip() != b"up":
        holder.wait()
        return None, "a network of its own is not allowed"
    return holder, ""


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def cluster(nodes: int, folder: Path) -> Iterator[Cluster]:
    """A head and workers, one processor each, as ``ray start`` makes them. They ask for a token in any case."""
    network, why = _network()
    if network is None:
        print(f"the cluster's ports are protected by its token alone: {why}")
    token = folder / "token"
    token.write_text(os.urandom(32).hex())
    temp = tempfile.mkdtemp(prefix="kdr")  # sockets lie in it: the path must be short
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "RAY_ADDRESS", "RAY_AUTH_TOKEN")}
    environment |= {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "HOME": str(folder),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    enter = ("nsenter", f"--net=/proc/{network.pid}/ns/net") if network else ()
    port, dashboard = _free_port(), _free_port()
    ray = [*enter, sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--num-cpus", "1"]
    ray += ["--object-store-memory", "80000000", "--node-ip-address", "127.0.0.1"]
    head = ["--head", "--port", str(port), "--dashboard-port", str(dashboard), "--temp-dir", temp]
    started: list[subprocess.Popen[bytes]] = []
    try:
        for i in range(nodes):
            with (folder / f"node-{i}.log").open("wb") as log:
                words = [*ray, "--dashboard-agent-listen-port", str(_free_port())]
                words += ["--address", f"127.0.0.1:{port}"] if i else head
                started.append(subprocess.Popen(words, env=environment, stdout=log, stderr=log, start_new_session=True))
            if i == 0:
                _wait_for(environment, enter, dashboard, folder)
        mine = os.environ | {key: environment[key] for key in ("RAY_AUTH_TOKEN_PATH", "HOME")}
        mine.pop("RAY_AUTH_MODE", None)
        found = Cluster(enter, port, f"http://127.0.0.1:{dashboard}", mine)
        end = time.monotonic() + 120
        while len([n for n in _nodes(found) if n["state"] == "ALIVE"]) < nodes:
            assert time.monotonic() < end, "\n".join(path.read_text() for path in folder.glob("node-*.log"))
            time.sleep(0.5)
        yield found
    finally:
        _end([*started, *([network] if network else [])])
        shutil.rmtree(temp, ignore_errors=True)


def _nodes(cluster: Cluster) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = cluster.get("/api/v0/nodes?limit=100")["data"]["result"]["result"]
    return found


def _wait_for(environment: Mapping[str, str], enter: tuple[str, ...], port: int, folder: Path) -> None:
    """Until the dashboard listens: workers that come before the head is whole give up."""
    probe = [*enter, sys.executable, "-c", f"import socket; socket.create_connection(('127.0.0.1', {port}), 1)"]
    end = time.monotonic() + 120
    while subprocess.run(probe, capture_output=True, check=False).returncode:
        assert time.monotonic() < end, (folder / "node-0.log").read_text()
        time.sleep(0.5)


def _end(processes: list[subprocess.Popen[bytes]]) -> None:
    """Ends them and all that they started."""
    below = [child for p in processes for child in _children(p.pid)]
    for process in processes:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)  # `ray start --block` ends its node
    for process in processes:
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    for child in below:
        if child.is_running():
            child.kill()
    psutil.wait_procs(below, timeout=10)


def _children(pid: int) -> list[psutil.Process]:
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []
