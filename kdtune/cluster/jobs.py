"""A launch as a Ray job: submitted, asked, followed and stopped from any machine that reaches the cluster's dashboard.

What is sent: the package, the study's file, and a command line. No environment, no credentials and no data of the
submitting machine.
"""

import asyncio
import contextlib
import json
import logging
import os
import shlex
import shutil
import socket
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import requests
from ray.exceptions import AuthenticationError
from ray.job_submission import JobStatus, JobSubmissionClient
from ray.util.state import list_nodes

import kdtune
from kdtune.base import UserError
from kdtune.cluster.addresses import address_of_auto
from kdtune.models import builders
from kdtune.study.file import dump
from kdtune.study.spec import StudySpec

STUDY_FILE = "study.yaml"  # in the job's working folder
WAIT = 30.0  # seconds for an answer when something is submitted; what only looks waits shorter
OVERRIDES = ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS")  # the client would take these before its own argument

_log = logging.getLogger("kdtune")


class Unreachable(UserError):
    """The cluster does not answer, or does not let us in; one line that says which."""


@dataclass(frozen=True)
class Submission:
    """A job that the cluster has accepted."""

    id: str
    dashboard: str  # URL
    notes: tuple[str, ...]


class _Client(JobSubmissionClient):  # type: ignore[misc]
    """Ray's client, which by itself would wait for an answer for ever."""

    def __init__(self, address: str, timeout: float) -> None:
        self._timeout = timeout
        before = {name: os.environ.pop(name) for name in OVERRIDES if name in os.environ}
        try:
            super().__init__(address)
        finally:
            os.environ.update(before)

    def _do_request(self, *args: Any, **kwargs: Any) -> Any:
        return super()._do_request(*args, **{"timeout": self._timeout, **kwargs})


@contextlib.contextmanager
def _client(address: str, timeout: float) -> Iterator[_Client]:
    """The jobs of the cluster at ``http://HOST:8265``, ``HOST:6379`` or ``auto``.

    Raises:
        Unreachable: from here or from within the block; why, in one line.
    """
    for name in ("ray", "ray.dashboard.modules.dashboard_sdk", "ray.dashboard.modules.job.sdk"):
        logging.getLogger(name).setLevel(logging.ERROR)
    if address == "auto":
        address = address_of_auto()
    scheme = address.partition("://")[0] if "://" in address else ""
    if scheme not in ("", "http", "https"):  # Ray would import a module of that name
        raise Unreachable(f"cluster {address}: is no address of a dashboard; give http://HOST:8265")
    try:
        if "://" not in address and ":" in address:
            host, _, port = address.rpartition(":")
            socket.create_connection((host, int(port)), timeout=min(timeout, 10)).close()  # Ray would try for minutes
        yield _Client(address, timeout)
    except BrokenPipeError:
        raise  # whoever read the log has gone
    except AuthenticationError as error:
        wrong = "refuses this token" if "failed" in str(error).splitlines()[0] else "asks for its token"
        raise Unreachable(
            f"cluster {address}: it {wrong}: name its file with RAY_AUTH_TOKEN_PATH, or put it into ~/.ray/auth_token"
        ) from error
    except (OSError, ValueError, RuntimeError, requests.RequestException, aiohttp.ClientError) as error:
        reason = (str(error.__cause__ or error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
        raise Unreachable(
            f"cluster {address}: its Jobs API does not answer: {reason}; it is where the dashboard is, http://HOST:8265"
        ) from error


def submit(study: StudySpec, words: Sequence[str], address: str, storage: str) -> Submission:
    """Has the cluster run ``kdtune launch`` on this study; ``words`` are its further options.

    Raises:
        Unreachable: the cluster does not answer, or refuses.
    """
    name = f"{study.name}-{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{uuid.uuid4().hex[:6]}"
    with tempfile.TemporaryDirectory() as folder:
        sent = package(study, Path(folder))
        with _client(address, WAIT) as client:
            client.submit_job(
                entrypoint=entrypoint(words),
                submission_id=name,
                runtime_env=sent,
                metadata={"job_name": study.name, "stage": "", "progress": "submitted"},  # the dashboard shows job_name
            )
            dashboard = client.get_address()
    return Submission(name, dashboard, tuple(_notes(dashboard, storage)))


def entrypoint(words: Sequence[str]) -> str:
    """The job's command. Ray hands it to a shell, so every word is quoted."""
    return shlex.join(["python", "-m", "kdtune", "launch", STUDY_FILE, "--address", "auto", *words])


def package(study: StudySpec, folder: Path) -> dict[str, Any]:
    """What the job is sent, laid out in ``folder``: kdtune itself, and the study's file in a working folder."""
    code, working = folder / "kdtune", folder / "job"
    left_out = shutil.ignore_patterns("__pycache__", "*.pyc", ".*", "*.md", "*.png", "*.parquet", "bench", "testing")
    shutil.copytree(Path(kdtune.__file__).parent, code, ignore=left_out)
    working.mkdir()
    (working / STUDY_FILE).write_text(dump(study), encoding="utf-8")
    own = builders.runtime_env()
    modules = [Path(path) for path in own.get("py_modules", [])]
    for path in modules:
        if path.is_file():  # Ray's client sends folders alone
            shutil.copy(path, working)
    folders = [str(path) for path in modules if path.is_dir()]
    return {**own, "working_dir": str(working), "py_modules": [str(code), *folders]}


def _notes(dashboard: str, storage: str) -> list[str]:
    """A storage that is a folder must be one that the nodes share."""
    if "://" in storage:
        return []
    try:
        nodes = [node for node in list_nodes(address=dashboard, timeout=10) if node.state == "ALIVE"]
        own = {address.address for found in psutil.net_if_addrs().values() for address in found}
        if len(nodes) == 1 and nodes[0].node_ip in own:
            return []
        seen = f"a cluster of {len(nodes)} node{'s' * (len(nodes) != 1)}"
    except Exception as error:  # the list is a courtesy, and its interface is not a stable one
        _log.debug("nodes of %s: %s", dashboard, error)
        seen = "the cluster"
    return [f"{storage} is a folder, and {seen} runs the study: this machine and all nodes must share it at this path"]


@dataclass(frozen=True)
class JobState:
    """What the cluster says of a job."""

    status: str  # PENDING, RUNNING, STOPPED, SUCCEEDED, FAILED
    message: str | None
    metadata: Mapping[str, str]

    @property
    def ended(self) -> bool:
        """Whether it will not change any more."""
        return bool(JobStatus(self.status).is_terminal())


def state_of(submission_id: str, address: str, timeout: float) -> JobState:
    """The state of a job.

    Raises:
        Unreachable: the cluster does not answer, or does not know the job.
    """
    with _client(address, timeout) as client:
        info = client.get_job_info(submission_id)
    return JobState(str(info.status), info.message, info.metadata or {})


def tail(submission_id: str, address: str, timeout: float, write: Callable[[str], None], *, follow: bool) -> None:
    """Hands the log of a job to ``write``, part by part; ``follow``: until the job ends.

    Raises:
        Unreachable: see ``state_of``.
    """
    with _client(address, timeout) as client:
        if not follow:
            write(client.get_job_logs(submission_id))
            return
        client.get_job_info(submission_id)  # an unknown job would be followed for ever

        async def followed() -> None:
            async for part in client.tail_job_logs(submission_id):
                write(part)

        asyncio.run(followed())


def stop_job(submission_id: str, address: str, timeout: float) -> None:
    """Has Ray end a job: by SIGTERM, and by SIGKILL a few seconds later. Does not wait for it.

    Raises:
        Unreachable: see ``state_of``.
    """
    with _client(address, timeout) as client:
        client.stop_job(submission_id)


# the job's side


def publisher(submission_id: str) -> Callable[[Mapping[str, str]], None]:
    """Adds facts to the metadata of the job that this process is, where the dashboard and the Jobs API show them.

    Ray 2.60 has no public call for that, so this changes the job's own record in the control store. What goes wrong is
    noted for debugging: nothing depends on it.
    """
    clients: list[Any] = []  # one of its own: it also works before Ray is started here, and after its end

    def publish(facts: Mapping[str, str]) -> None:
        try:
            from ray._raylet import GcsClient  # type: ignore[attr-defined,unused-ignore]
            from ray.dashboard.modules.job.common import JobInfoStorageClient

            key = JobInfoStorageClient.JOB_DATA_KEY.format(job_id=submission_id).encode()
            store = clients[0] if clients else GcsClient(address=os.environ["RAY_ADDRESS"])
            clients[:] = [store]
            content = store.internal_kv_get(key, b"job", timeout=5)
            info = json.loads(content) if content else {}
            if info.get("status") == "RUNNING":  # the supervisor writes before it and after it, not meanwhile
                info["metadata"] = {**(info.get("metadata") or {}), **facts}
                store.internal_kv_put(key, json.dumps(info).encode(), True, b"job", timeout=5)
        except Exception as error:
            _log.debug("metadata of job %s: %s", submission_id, error)

    return publish
