"""A real Ray cluster of several nodes on this machine, in a network of its own: nobody else can reach it.

Each node is what `ray start --block` starts, in a namespace that has nothing but a loopback device.
"""

import contextlib
import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.support.launching import command

PORT = 6379
AT_MOST = 1800  # seconds that a cluster may live, should nobody end it
SIOCSIFFLAGS, IFF_UP, IFF_RUNNING = 0x8914, 0x1, 0x40
# Ports of the first node, one more for each other. A raylet waits 15 seconds for an agent to tell a port, and gives up;
# on a busy machine that is soon. A port that it is given is not waited for.
AGENTS = {
    "dashboard-agent-listen": 52365,
    "dashboard-agent-grpc": 52465,
    "runtime-env-agent": 52565,
    "metrics-export": 52665,
}
ALIVE = "This command will now block forever"  # what ray start says once the node is known to the head
HOLDER = f"""
import fcntl, socket, struct, sys, time
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
    fcntl.ioctl(any_socket, {SIOCSIFFLAGS}, struct.pack("16sh14x", b"lo", {IFF_UP | IFF_RUNNING}))
print("up", flush=True)
time.sleep({AT_MOST})
"""


class NoNamespace(Exception):
    """This machine gives no process a network of its own."""


class RayCluster:
    """Nodes with environments of their own, and commands that run beside them."""

    address = f"127.0.0.1:{PORT}"
    dashboard = "http://127.0.0.1:8265"

    def __init__(self, *, dashboard: bool = False) -> None:
        unshare = shutil.which("unshare")
        if unshare is None or shutil.which("nsenter") is None:
            raise NoNamespace("no unshare and nsenter (util-linux)")
        self._with_dashboard = dashboard
        self._processes: list[subprocess.Popen[str]] = []
        self._temporary = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))  # short: names of sockets have a limit
        self._environment = {
            "RAY_TMPDIR": str(self._temporary),
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(32),
            "RAY_agent_register_timeout_ms": "240000",  # nor does it give up when an agent comes up late
        }
        words = [unshare, "--map-root-user", "--net", sys.executable, "-c", HOLDER]
        self._holder = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert self._holder.stdout is not None
        if self._holder.stdout.readline() != "up\n":
            raise NoNamespace(f"unshare: {self._holder.communicate()[1].strip()}")

    def _inside(self, *words: str) -> list[str]:
        enter = ["nsenter", "--target", str(self._holder.pid), "--user", "--net", "--preserve-credentials"]
        return [*enter, *words]

    def start_node(self, *, num_cpus: int, env: dict[str, str] | None = None, labels: str | None = None) -> None:
        """One more node, the head first; it is alive when this returns. ``labels``: as ``ray start --labels`` wants."""
        number = len(self._processes)
        head = ["--head", f"--port={PORT}", f"--include-dashboard={str(self._with_dashboard).lower()}"]
        where = head if not number else [f"--address={self.address}"]
        limits = [f"--num-cpus={num_cpus}", f"--object-store-memory={80 * 2**20}"]
        limits += [f"--labels={labels}"] if labels else []
        others = ["--node-ip-address=127.0.0.1", "--block"]
        others += [f"--{name}-port={port + number}" for name, port in AGENTS.items()]
        words = [
            sys.executable,
            "-m",
            "ray.scripts.scripts",
            "start",
            *where,
            *limits,
            *others,
            "--disable-usage-stats",
        ]
        environment = os.environ | self._environment | (env or {})
        log = self._temporary / f"node-{number}.log"
        with log.open("w") as output:
            process = subprocess.Popen(
                self._inside("timeout", str(AT_MOST), *words),
                stdout=output,
                stderr=subprocess.STDOUT,
                text=True,
                env=environment,
            )
        while process.poll() is None:
            if ALIVE in log.read_text():
                self._processes.append(process)
                return
            time.sleep(0.1)
        raise RuntimeError(f"node {number} does not start: {log.read_text()[-2000:]}")

    def _environment_of(self, env: dict[str, str] | None, without: Collection[str]) -> dict[str, str]:
        whole = os.environ | self._environment | (env or {})
        return {name: value for name, value in whole.items() if name not in without}

    def run(
        self,
        *words: str,
        env: dict[str, str] | None = None,
        without: Collection[str] = (),
        check: bool = False,
        seconds: float = 300,
    ) -> subprocess.CompletedProcess[str]:
        """A command beside the nodes, to its end; ``without`` these variables."""
        environment = self._environment_of(env, without)
        return subprocess.run(
            self._inside(*words), capture_output=True, text=True, timeout=seconds, env=environment, check=check
        )

    def kdtune(
        self, *words: str | Path, env: dict[str, str] | None = None, without: Collection[str] = ()
    ) -> subprocess.CompletedProcess[str]:
        """``kdtune WORDS`` beside the nodes."""
        return self.run(*command(*words), env=env, without=without)

    def start(self, *words: str | Path) -> subprocess.Popen[str]:
        """``kdtune WORDS`` beside the nodes, in the background; the caller ends it."""
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        environment = self._environment_of(None, ())
        return subprocess.Popen(self._inside(*command(*words)), text=True, env=environment, **pipes)

    def fetch(self, path: str) -> Any:
        """What the dashboard's API answers."""
        text = (
            "import sys, urllib.request as web\n"
            "question = web.Request(sys.argv[1], headers={'Authorization': sys.argv[2]})\n"
            "sys.stdout.write(web.urlopen(question, timeout=60).read().decode())\n"
        )
        token = f"Bearer {self._environment['RAY_AUTH_TOKEN']}"
        return json.loads(self.run(sys.executable, "-c", text, f"{self.dashboard}{path}", token, check=True).stdout)

    def kill_node(self, number: int) -> None:
        """Its raylet, as a machine that is gone; its workers may outlive it by a second or two."""
        below = psutil.Process(self._processes[number].pid).children(recursive=True)
        (raylet,) = [each for each in below if each.name() == "raylet"]
        raylet.kill()

    def close(self) -> None:
        """Ends every process that it started."""
        below = []
        for process in reversed(self._processes):
            with contextlib.suppress(psutil.NoSuchProcess):  # a node ends by itself when the head is gone
                below += psutil.Process(process.pid).children(recursive=True)
            process.terminate()
        _, alive = psutil.wait_procs(below, timeout=3)
        for each in alive:
            each.kill()
        for process in self._processes:
            process.wait()
        self._holder.kill()
        self._holder.wait()
        shutil.rmtree(self._temporary, ignore_errors=True)


@contextlib.contextmanager
def ray_cluster(*, dashboard: bool = False) -> Iterator[RayCluster]:
    """A cluster without nodes yet, ended with the block; the test is skipped where it has no network of its own."""
    try:
        cluster = RayCluster(dashboard=dashboard)
    except NoNamespace as error:
        pytest.skip(f"a network of its own is needed: {error}")
    try:
        yield cluster
    finally:
        cluster.close()
