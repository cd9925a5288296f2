"""Ray under a launch: started or joined, and watched, since Ray does not tell a driver that it is gone."""

import kdtune.cluster.environment  # noqa: F401  # isort: skip  # before Ray, which reads it
import contextlib
import logging
import os
import socket
import threading
import time
import warnings
from collections.abc import Iterator

import ray

from kdtune.base import Lost, RunError, UserError
from kdtune.cluster import own_ray
from kdtune.cluster.addresses import given_as, joinable
from kdtune.cluster.environment import TUNE_ENVIRONMENT
from kdtune.cluster.halt import Halt
from kdtune.cluster.silence import Silence
from kdtune.models import builders
from kdtune.records.launched import own_job

DASHBOARD = "KDTUNE_DASHBOARD"  # 0: a Ray that is started here has none, which spares eleven processes

ASKED_EVERY = 2.0  # seconds between the watchdog's questions to the control store

ANSWER_WITHIN = 40.0  # seconds; Ray itself ends a driver without a word after 60, and never one whose raylet is gone


@contextlib.contextmanager
def cluster(address: str | None, study: str, halt: Halt) -> Iterator[str | None]:
    """Ray: the cluster at ``address``, or one started in this process and ended with it. Gives the dashboard's URL.

    One that is started here is for this user and this machine alone; see ``kdtune.cluster.own_ray``.

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
    if address:
        address = joinable(address)
    try:
        if address and "://" not in address and ":" in address:
            host, _, port = address.rpartition(":")
            socket.create_connection((host, int(port)), timeout=10).close()  # Ray itself would try for minutes
        own = None
        if address:
            sent = {} if _job_brings(builders.VOUCHED) else builders.runtime_env()
            environment = {**sent, "env_vars": {**TUNE_ENVIRONMENT, **sent.get("env_vars", {})}}
            context = ray.init(address=address, runtime_env=environment, **quiet)
        else:
            own = own_ray.start(include_dashboard=os.environ.get(DASHBOARD, "1") != "0", **quiet)
            context = own.context
    except (OSError, ValueError) as error:
        reason = str(error.__cause__ or error).splitlines()[0]
        if address is None:
            raise UserError(
                f"Ray did not start here: {reason}; its files lie in the folder that RAY_TMPDIR (else TMPDIR) names, "
                "or /tmp: see that it can be written and has a short name"
            ) from error
        raise UserError(f"{given_as(address)}: no Ray cluster answers there: {reason}") from error
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
            if own is not None:
                own.remove()


def _job_brings(variable: str) -> bool:
    """Whether this process is a job that was submitted with this variable: Ray refuses to be given it twice."""
    return variable in ((own_job().get("runtime_env") or {}).get("env_vars") or {})


def _watch(halt: Halt, done: threading.Event) -> None:
    """Ends the launch when Ray is gone, which Ray does not tell: trials would wait for ever, or the process end."""
    me = ray.get_runtime_context().get_node_id()
    raylet = next((n["NodeManagerAddress"], n["NodeManagerPort"]) for n in ray.nodes() if n["NodeID"] == me)
    answered = threading.Event()  # by the control store, since the last look

    def ask() -> None:  # in a thread of its own: without a control store the call does not come back
        while not done.wait(ASKED_EVERY):
            with contextlib.suppress(Exception):  # an error is no answer, either
                ray.nodes()
                answered.set()

    asks = threading.Thread(target=ask, daemon=True, name="kdtune-asks")
    asks.start()
    refused, silence = 0, Silence(time.monotonic(), ASKED_EVERY)
    while not done.wait(ASKED_EVERY):
        silent = silence.at(time.monotonic(), answered.is_set())
        answered.clear()
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
