"""Ray under a launch: started or joined, watched, shared out among trials; and the signals that end a launch."""

import kdtune.cluster.environment  # noqa: F401  # isort: skip  # before Ray, which reads it

import contextlib
import logging
import os
import signal
import socket
import threading
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from types import FrameType
from typing import Any

import ray

from kdtune.base import Interrupted, Lost, RunError, UserError
from kdtune.cluster.environment import TUNE_ENVIRONMENT
from kdtune.study.spec import Stage, StudySpec

DASHBOARD = "KDTUNE_DASHBOARD"  # 0: a Ray that is started here has none, which spares eleven processes
PROCESSOR_TRIALS = 8  # at once on a machine without a GPU, at most: each needs its own copy of torch
ASKED_EVERY = 2.0  # seconds between the watchdog's questions to the control store
ANSWER_WITHIN = 40.0  # seconds; Ray itself ends a driver without a word after 60, and never one whose raylet is gone


@dataclass
class Halt:
    """Why a launch ends before its plan is done."""

    reason: str | None = None
    error: Exception | None = None

    def end(self, reason: str, error: Exception | None = None) -> None:
        """Has the launch end in order; the first reason stays."""
        if self.reason is None:
            self.reason, self.error = reason, error


def refuse_halted(halt: Halt) -> None:
    """Nothing, unless the launch is to end.

    Raises:
        UserError: a trial met bad input.
        Lost: Ray is gone.
        Interrupted: by Ctrl-C, SIGTERM or `kdtune stop`.
    """
    if halt.error is not None:
        raise halt.error
    if halt.reason is not None:
        raise Interrupted(f"{halt.reason}; nothing finished is lost")


@contextlib.contextmanager
def cluster(address: str | None, study: str, halt: Halt) -> Iterator[str | None]:
    """Ray: the cluster at ``address``, or one started in this process and ended with it. Gives the dashboard's URL.

    While it is used, a watchdog ends the launch if the control store or this machine's raylet is gone.

    Raises:
        UserError: no cluster answers at that address.
        RunError: Ray does not start here.
    """
    named = ray.job_config.JobConfig(metadata={"job_name": study})  # what the dashboard's list of jobs shows
    quiet = {"job_config": named, "log_to_driver": False, "logging_level": logging.ERROR, "configure_logging": True}
    logging.getLogger("ray").setLevel(logging.ERROR)
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # a lost trial is in our own words, without its traceback
    warnings.filterwarnings("ignore", module=r"ray\..*")
    try:
        if address and "://" not in address and ":" in address:
            host, _, port = address.rpartition(":")
            socket.create_connection((host, int(port)), timeout=10).close()  # Ray itself would try for minutes
        if address:
            environment = {"env_vars": TUNE_ENVIRONMENT}
            context = ray.init(address=address, runtime_env=environment, **quiet)
        else:
            dashboard = os.environ.get(DASHBOARD, "1") != "0"
            context = ray.init(address="local", include_dashboard=dashboard, **quiet)
    except (OSError, ValueError) as error:
        reason = str(error.__cause__ or error).splitlines()[0]
        raise UserError(f"--address {address}: no Ray cluster answers there: {reason}") from error
    except Exception as error:  # Ray raises this very class where a node does not come up
        if type(error) is not Exception:
            raise
        raise RunError(f"Ray did not start here, the machine may be too busy: {str(error).splitlines()[0]}") from error
    done = threading.Event()
    watchdog = threading.Thread(target=_watch, args=(halt, done), daemon=True, name="kdtune-watchdog")
    watchdog.start()
    try:
        yield context.dashboard_url or None
    finally:
        done.set()
        if not isinstance(halt.error, Lost):  # there is nothing left that could be shut down, and trying would wait
            watchdog.join(ANSWER_WITHIN)  # Ray ends a process whose threads ask it something later
            ray.shutdown()


def _watch(halt: Halt, done: threading.Event) -> None:
    """Ends the launch when Ray is gone, which Ray does not tell: trials would wait for ever, or the process end."""
    me = ray.get_runtime_context().get_node_id()
    raylet = next((n["NodeManagerAddress"], n["NodeManagerPort"]) for n in ray.nodes() if n["NodeID"] == me)
    answered = [time.monotonic()]  # when the control store last did

    def ask() -> None:  # in a thread of its own: without a control store the call does not come back
        while not done.wait(ASKED_EVERY):
            with contextlib.suppress(Exception):  # an error is no answer, either
                ray.nodes()
                answered[0] = time.monotonic()

    asks = threading.Thread(target=ask, daemon=True, name="kdtune-asks")
    asks.start()
    refused = 0
    while not done.wait(ASKED_EVERY):
        silent = time.monotonic() - answered[0]
        # not by what the control store says of this node: by then Ray ends the process without a word
        refused = refused + 1 if _refuses(raylet) else 0
        if silent > ANSWER_WITHIN:
            halt.end("lost", Lost(f"Ray's control store has not answered for {silent:.0f} s: its head node is gone"))
        elif refused == 2:
            halt.end("lost", Lost("nobody listens where this node's raylet did: Ray's part on this machine is gone"))
    asks.join()


def _refuses(address: tuple[str, int]) -> bool:
    """Whether nobody listens there; a machine that is slow to answer does not refuse."""
    try:
        socket.create_connection(address, timeout=5).close()
    except ConnectionRefusedError:
        return True
    except OSError:
        return False
    return False


@contextlib.contextmanager
def interruptible(halt: Halt) -> Iterator[None]:
    """Ctrl-C or SIGTERM once ends the launch in order, a second time at once."""
    asked = False

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        if asked:
            os._exit(130)
        asked = True
        halt.end("interrupted")

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def promptly() -> Iterator[None]:
    """Ctrl-C or SIGTERM ends at once what trains nothing, so that there is nothing to end in order.

    Raises:
        Interrupted: the signal came.
    """

    def handle(number: int, frame: FrameType | None) -> None:
        raise Interrupted("interrupted; nothing finished is lost")

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@dataclass(frozen=True)
class Share:
    """What each trial gets, and how many run at once."""

    cpus: float
    gpus: float
    at_once: int

    @property
    def threads(self) -> int:
        """Of torch, per trial."""
        return max(1, int(self.cpus))


def share(study: StudySpec, stage: Stage, num_trials: int, *, joined: bool = False) -> Share:
    """Divides the cluster, or the nodes that the stage asks for, among the trials of a stage.

    Decided by the whole plan, not by what is left of it: the number of threads changes the last digits, and a continued
    stage must not differ from an undisturbed one. On a cluster that was ``joined``, and where ``max_concurrent`` is
    given, a study that needs a GPU asks for as many as that even if they are not there yet: an autoscaler starts nodes
    for what waits.

    Raises:
        UserError: no node has the stage's labels.
    """
    have: dict[str, float] = {}
    for node in _nodes(stage):
        for name in ("CPU", "GPU"):
            have[name] = have.get(name, 0) + node["Resources"].get(name, 0)
    cpus, gpus = max(1, int(have.get("CPU", 1))), have.get("GPU", 0)
    waits = joined and study.needs_gpu and study.max_concurrent is not None and not gpus
    if gpus or waits:
        slots = max(1, int(gpus / study.gpus_per_trial + 1e-9))
        at_once = min(num_trials, study.max_concurrent or slots)
        return Share(max(1, cpus // slots) if gpus else 1, study.gpus_per_trial, at_once)
    at_once = min(num_trials, study.max_concurrent or PROCESSOR_TRIALS, cpus)
    return Share(cpus // at_once, 0, at_once)


def _nodes(stage: Stage) -> list[dict[str, Any]]:
    """The nodes that may run the stage."""
    alive = [node for node in ray.nodes() if node["Alive"]]
    fit = [node for node in alive if all(node["Labels"].get(key) == value for key, value in stage.labels.items())]
    if not fit:
        kinds = sorted(
            {f"{key}={node['Labels'][key]}" for node in alive for key in node["Labels"] if key in stage.labels}
        )
        wanted = ", ".join(f"{key}={value}" for key, value in stage.labels.items())
        raise UserError(
            f"stage '{stage.name}' asks for nodes labelled {wanted}, and the cluster has none; "
            f"it has: {', '.join(kinds) or 'no node with such a label'}"
        )
    return fit


def has_gpu() -> bool:
    """Whether the cluster has one."""
    return bool(ray.cluster_resources().get("GPU", 0))
