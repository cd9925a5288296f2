"""The energy that a node uses, shared out among the trials that run there; codecarbon measures, offline.

One meter per node, since a counter is of a whole processor or GPU: of several trials on it each would be billed all of
it. What an interval used is shared out by part:

* a GPU among the trials that hold it, in proportion to the share that they asked Ray for;
* the processor in proportion to processor time, other programs' time included: their part is nobody's;
* memory in proportion to the resident memory of the trials.

A part that no trial uses is idle. Trials plus idle are the node's total, in every interval.
"""

import contextlib
import functools
import logging
import math
import os
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import psutil

from kdtune.devices import VISIBLE_GPUS
from kdtune.training.energy import Amount, Spent, unmeasured
from kdtune.training.energy_counter import Counter
from kdtune.training.gpu_index import indices

EVERY = 5.0  # seconds between two readings

JOULES_PER_KWH = 3.6e6

SHORTEST = 0.06  # seconds; codecarbon reads nothing after less than 0.05


@dataclass(frozen=True)
class Interval:
    """What a node used between two readings, by part [kWh]."""

    cpu: float
    ram: float
    gpus: Mapping[int, float]  # by index
    busy_seconds: float  # processor time of all programs, over all cores


@dataclass(frozen=True)
class Use:
    """What one trial's process did in an interval."""

    cpu_seconds: float
    memory: float  # resident bytes
    gpus: Mapping[int, float] = field(default_factory=dict)  # index -> share of it that the trial asked for


def share_out(interval: Interval, uses: Sequence[Use]) -> list[float]:
    """What each trial is billed of an interval [kWh]; the rest is idle."""
    busy = max(interval.busy_seconds, sum(use.cpu_seconds for use in uses))
    memory = sum(use.memory for use in uses)
    held = {index: sum(use.gpus.get(index, 0.0) for use in uses) for index in interval.gpus}
    return [
        (interval.cpu * use.cpu_seconds / busy if busy > 0 else 0.0)
        + (interval.ram * use.memory / memory if memory > 0 else 0.0)
        + sum(interval.gpus[i] * share / held[i] for i, share in use.gpus.items() if i in held and share > 0)
        for use in uses
    ]


@dataclass(frozen=True)
class Totals:
    """What a node used since its meter began."""

    node: str
    seconds: float
    amount: Amount
    trials_kwh: float
    cpu_kwh: float
    ram_kwh: float
    gpu_kwh: float
    country: str
    measured: bool  # by counters; memory is always estimated, by its size
    meter_cpu_seconds: float  # that the meter itself took

    @property
    def idle_kwh(self) -> float:
        """Of what no trial used, and of other programs."""
        return self.amount.kwh - self.trials_kwh

    def row(self) -> dict[str, Any]:
        """As ``nodes.parquet`` has it."""
        same = ("node", "seconds", "trials_kwh", "idle_kwh", "cpu_kwh", "ram_kwh", "gpu_kwh")
        more = ("meter_cpu_seconds", "country", "measured")
        used = {"energy_kwh": self.amount.kwh, "co2_kg": self.amount.co2_kg}
        return used | {name: getattr(self, name) for name in (*same, *more)}


@dataclass
class _Watched:
    """A trial's process."""

    process: psutil.Process
    gpus: Mapping[int, float]
    cpu_seconds: float
    kwh: float = 0.0


class Meter:
    """Reads this node's energy from now on, and bills it to the trials that it is told of. Safe between threads."""

    def __init__(self, node: str, country: str) -> None:
        self._node, self._country = node, country
        self._lock = threading.RLock()
        self._watched: dict[int, _Watched] = {}
        self._sums = dict.fromkeys(("kwh", "co2", "cpu", "ram", "gpu", "trials"), 0.0)
        self._counter = Counter(country)
        self._began = self._read = time.monotonic()
        self._busy = _busy_seconds()
        threading.Thread(target=self._go_on, daemon=True, name="kdtune-meter").start()

    def ready(self) -> bool:
        """Whether it reads, which it does once it is made."""
        return True

    def begin(self, pid: int, gpus: Mapping[int, float]) -> None:
        """A trial begins in a process, which ran another before perhaps. ``gpus``: index -> share."""
        with self._lock:
            self._measure()
            self._watched.pop(pid, None)
            with contextlib.suppress(psutil.Error):
                process = psutil.Process(pid)
                self._watched[pid] = _Watched(process, gpus, _cpu_seconds(process))

    def reading(self, pid: int) -> Amount:
        """What the trial in a process was billed since it began, up to this moment."""
        with self._lock:
            self._measure()
            found = self._watched.get(pid)
            return self._amount(found.kwh) if found else Amount()

    def end(self, pid: int) -> Amount:
        """The last reading of the trial in a process."""
        with self._lock:
            found = self.reading(pid)
            self._watched.pop(pid, None)
        return found

    def totals(self) -> Totals:
        """What the node used."""
        with self._lock:
            self._measure()
            own = psutil.Process().cpu_times()
            return Totals(
                node=self._node,
                seconds=self._read - self._began,
                amount=Amount(self._sums["kwh"], self._sums["co2"]),
                trials_kwh=self._sums["trials"],
                cpu_kwh=self._sums["cpu"],
                ram_kwh=self._sums["ram"],
                gpu_kwh=self._sums["gpu"],
                country=self._country,
                measured=self._counter.measured,
                meter_cpu_seconds=own.user + own.system,
            )

    def _go_on(self) -> None:
        while True:
            time.sleep(EVERY)
            with self._lock:
                self._measure()

    def _measure(self) -> None:
        """Closes an interval, unless it has just begun."""
        if time.monotonic() - self._read < SHORTEST:
            return
        read = self._counter.read()
        self._read = time.monotonic()
        busy, before = _busy_seconds(), self._busy
        self._busy = busy
        interval = Interval(read["cpu"], read["ram"], read["gpus"], busy - before)
        watched, uses = [], []
        for pid, each in list(self._watched.items()):
            try:
                seconds = _cpu_seconds(each.process)
                uses.append(Use(seconds - each.cpu_seconds, each.process.memory_info().rss, each.gpus))
            except psutil.Error:  # killed, and so nobody will tell its end
                del self._watched[pid]
                continue
            each.cpu_seconds = seconds
            watched.append(each)
        billed = share_out(interval, uses)
        for each, kwh in zip(watched, billed, strict=True):
            each.kwh += kwh
        parts = {"cpu": interval.cpu, "ram": interval.ram, "gpu": sum(interval.gpus.values())}
        news = parts | {"kwh": sum(parts.values()), "co2": read["co2"], "trials": math.fsum(billed)}
        for name, value in news.items():
            self._sums[name] += value

    def _amount(self, kwh: float) -> Amount:
        """With the node's emissions per kWh, which do not change."""
        return Amount(kwh, kwh * self._sums["co2"] / self._sums["kwh"] if self._sums["kwh"] else 0.0)


def _cpu_seconds(process: psutil.Process) -> float:
    """Processor time of a process and of those of its children that have ended."""
    times = process.cpu_times()
    return float(times.user + times.system + times.children_user + times.children_system)


def _busy_seconds() -> float:
    """Processor time of everything on this machine since it started."""
    times = psutil.cpu_times()
    return float(times.user + times.nice + times.system + times.irq + times.softirq)


@contextlib.contextmanager
def metered_here(country: str) -> Iterator[Spent]:
    """Meters this process, where there is no launch that has a meter on every node."""
    pid = os.getpid()
    try:
        meter = Meter("this process", country)
        meter.begin(pid, dict.fromkeys(_visible_gpus(), 1.0))
    except Exception as error:  # of the library or the machine: no training ends for it
        reason = (str(error).splitlines() or [""])[0]
        logging.getLogger("kdtune").warning("energy is not metered: %s: %s", type(error).__name__, reason)
        yield unmeasured
        return
    try:
        yield functools.partial(meter.reading, pid)
    finally:
        meter.end(pid)


def _visible_gpus() -> list[int]:
    """The index of the GPU that torch would use here, as the driver counts; none without one."""
    import torch

    if not torch.cuda.is_available():
        return []
    return indices(os.environ.get(VISIBLE_GPUS, "0").split(",")[:1])
