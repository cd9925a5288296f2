"""The energy meters of a launch, one actor on each node that can hold a trial; see ``training.energy_meter``.

The driver makes them, reads them and keeps what they said; a trial's worker finds the one of its node by name. They end
with the driver. A trial runs without one, too: then its energy is null. The same actor sees the signs of life of the
trials there, see ``attendant``, which spares each node one more process.
"""

import kdtune.cluster.environment  # noqa: F401  # isort: skip  # before Ray, which reads it

import contextlib
import os
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import ray
from ray.exceptions import OutOfMemoryError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from kdtune import signs
from kdtune.cluster.attendant import Attendant, Seen
from kdtune.cluster.looking import Looking
from kdtune.cluster.nodes import able
from kdtune.training.energy import Amount
from kdtune.training.energy_meter import Meter, Totals
from kdtune.training.gpu_index import indices

LOOK_EVERY = 5.0  # seconds between the driver's looks at the nodes and their meters
START_WITHIN = 60.0  # seconds for a node's meter to begin, before a trial goes on without
ANSWER_WITHIN = 10.0  # seconds for a meter to answer its driver
FOUND_WITHIN = 15.0  # seconds that the first trial on a new node waits for the meter there


def _name(node_id: str) -> str:
    return f"kdtune-meter-{node_id}"


class _OnNode(Meter, Attendant):
    """A node's meter, which is its attendant as well."""

    def __init__(self, node: str, country: str) -> None:
        Meter.__init__(self, node, country)
        Attendant.__init__(self)

    def end(self, pid: int) -> Amount:
        """The trial in a process has ended."""
        self.leave(pid)
        return super().end(pid)


class Meters:
    """In the driver: has a meter on every node, those that join later included, and reads them."""

    def __init__(self, country: str, keep: Callable[[list[Totals]], None], warn: Callable[[str], None]) -> None:
        """``keep``: told of all nodes' totals every few seconds, from a thread; of nodes that left, the last ones."""
        self._country, self._keep, self._warn = country, keep, warn
        self._actors: dict[str, Any] = {}
        self._beginning: dict[Any, str] = {}  # a meter's word that it reads -> its node
        self._totals: dict[str, Totals] = {}
        self._ended: set[str] = set()  # nodes whose meters are gone, as was said
        self._reading = threading.Lock()
        self._looking = Looking("kdtune-meters", LOOK_EVERY, 2 * ANSWER_WITHIN, self._look_and_read)

    def __enter__(self) -> "Meters":
        """Begins; the first trials wait for the meters, which begin while their processes do."""
        self._look()
        self._looking.start()
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        """Reads no more; the meters end with Ray."""
        self._looking.end(error)

    def read(self) -> list[Totals]:
        """What each node used until now."""
        with self._reading:
            asked = {actor.totals.remote(): node for node, actor in self._actors.items()}
            for each in _answered(asked):
                try:
                    self._totals[asked[each]] = ray.get(each)
                except RayError as error:  # its node has left, or its meter did not begin or was ended
                    self._lost(asked[each], error)
            return list(self._totals.values())

    def seen(self) -> list[tuple[str, Any, Seen]]:
        """The processes that run trials, each with its node's id and meter."""
        asked = {actor.seen.remote(): (node, actor) for node, actor in list(self._actors.items())}
        found = []
        for each in _answered(asked):
            with contextlib.suppress(RayError):
                found += [(*asked[each], process) for process in ray.get(each)]
        return found

    def _look_and_read(self) -> None:
        self._look()
        self._warn_of_faults()
        self._keep(self.read())

    def _look(self) -> None:
        for node in able():
            if node.id not in self._actors:
                at = NodeAffinitySchedulingStrategy(node.id, soft=False)
                actor = ray.remote(num_cpus=0)(_OnNode).options(name=_name(node.id), scheduling_strategy=at)
                self._actors[node.id] = actor.remote(node.name, self._country)
                self._beginning[self._actors[node.id].ready.remote()] = node.id

    def _warn_of_faults(self) -> None:
        if not self._beginning:
            return
        for each in ray.wait(list(self._beginning), num_returns=len(self._beginning), timeout=0)[0]:
            node = self._beginning.pop(each)
            try:
                ray.get(each)
            except RayError as error:
                self._lost(node, error)

    def _lost(self, node_id: str, error: RayError) -> None:
        """Says once why a node that is still there is metered no more."""
        names = {node.id: node.name for node in able()}
        if node_id in names and node_id not in self._ended:
            self._ended.add(node_id)
            self._warn(
                f"energy is not metered on node {names[node_id]}, nor is it seen there whether trials hang, until the "
                f"next launch: {why_ended(error)}"
            )


def why_ended(error: RayError) -> str:
    """Why a meter's process is gone, in one line of plain words."""
    text = str(error)
    if isinstance(error, OutOfMemoryError) or "running low on memory" in text:
        return (
            "Ray ended its meter, since the node's memory was nearly full; run fewer trials at once "
            "(--max-concurrent, or a larger --gpus-per-trial)"
        )
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return f"its meter has ended: {lines[-1] if lines else type(error).__name__}"


def _answered(asked: Mapping[Any, Any]) -> list[Any]:
    """The questions of these that are answered in time."""
    return ray.wait(list(asked), num_returns=len(asked), timeout=ANSWER_WITHIN)[0] if asked else []


class Spent:
    """In a worker: what this process has used since its trial began."""

    def __init__(self, meter: Any, pid: int) -> None:
        self._meter, self._pid = meter, pid

    def __call__(self) -> Amount | None:
        """See ``kdtune.training.energy.Spent``; none once the meter is gone."""
        found: Amount | None = self._ask("reading")
        return found

    def end(self) -> None:
        """The trial has ended: what this process does from now on is not its."""
        if self._meter is not None:
            self._meter.end.remote(self._pid)  # nobody needs the answer

    def _ask(self, method: str, *values: Any, within: float = ANSWER_WITHIN) -> Any:
        if self._meter is None:
            return None
        try:
            return ray.get(getattr(self._meter, method).remote(self._pid, *values), timeout=within)
        except (RayError, TimeoutError):
            self._meter = None
            return None

    def begin(self, gpus: Mapping[int, float], trial: str) -> "Spent":
        """A trial begins in this process."""
        numbers = signs.share()
        self._ask("begin", gpus, within=START_WITHIN)
        if numbers is not None:
            self._ask("attend", trial, numbers)
        return self


_waited = False  # in this process, for a meter that may never come


def spent(gpus: float, trial: str) -> Spent:
    """The meter's view of the trial that begins in this worker, which has so many GPUs or such a share of one."""
    return Spent(_meter(), os.getpid()).begin(dict.fromkeys(indices(ray.get_gpu_ids()), min(gpus, 1.0)), trial)


def _meter() -> Any:
    global _waited
    name, end = _name(ray.get_runtime_context().get_node_id()), time.monotonic() + FOUND_WITHIN
    while True:
        try:
            return ray.get_actor(name)
        except ValueError:
            if _waited or time.monotonic() > end:
                _waited = True
                return None
            time.sleep(0.2)
