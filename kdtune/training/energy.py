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
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import psutil

from kdtune.base import UserError

EVERY = 5.0  # seconds between two readings
JOULES_PER_KWH = 3.6e6
SHORTEST = 0.06  # seconds; codecarbon reads nothing after less than 0.05
NEVER = 1e6  # seconds; codecarbon's own clock is not used: two readers would count an interval twice


@dataclass(frozen=True)
class Amount:
    """Energy [kWh] and the emissions that came with it [kg CO2-equivalent]."""

    kwh: float = 0.0
    co2_kg: float = 0.0

    def __add__(self, other: "Amount") -> "Amount":
        return Amount(self.kwh + other.kwh, self.co2_kg + other.co2_kg)

    def __sub__(self, other: "Amount") -> "Amount":
        return Amount(self.kwh - other.kwh, self.co2_kg - other.co2_kg)

    def __mul__(self, factor: float) -> "Amount":
        return Amount(self.kwh * factor, self.co2_kg * factor)


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


@functools.cache
def countries() -> frozenset[str]:
    """The ISO 3166-1 alpha-3 codes whose carbon intensity codecarbon knows."""
    _quiet()
    from codecarbon.input import DataSource

    return frozenset(DataSource().get_global_energy_mix_data())


def check_country(code: str) -> None:
    """Nothing, if the emissions of a country's electricity are known.

    Raises:
        UserError: they are not.
    """
    if code not in countries():
        raise UserError(f"country_iso_code '{code}': codecarbon knows no such country; give its three letters, as DEU")


def _quiet() -> None:
    """Silence: codecarbon writes to standard error when it is imported and whenever it cannot find a counter."""
    import codecarbon  # noqa: F401  # sets the level of its logger, which this undoes

    logging.getLogger("codecarbon").setLevel(logging.CRITICAL + 1)


class Meter:
    """Reads this node's energy from now on, and bills it to the trials that it is told of. Safe between threads."""

    def __init__(self, node: str, country: str) -> None:
        self._node, self._country = node, country
        self._lock = threading.RLock()
        self._watched: dict[int, _Watched] = {}
        self._sums = dict.fromkeys(("kwh", "co2", "cpu", "ram", "gpu", "trials"), 0.0)
        self._counter = _Counter(country)
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


def counted() -> bool:
    """Whether this machine's processor counts its energy and lets us read it; else codecarbon estimates it by its load.

    NVIDIA's and AMD's GPUs count theirs.
    """
    _quiet()
    from codecarbon.core.cpu import is_rapl_available

    return bool(is_rapl_available())


class _Counter:
    """codecarbon's tracker of the whole machine, read when asked."""

    def __init__(self, country: str) -> None:
        _quiet()
        from codecarbon import OfflineEmissionsTracker
        from codecarbon.core.gpu import AllGPUDevices, is_gpu_details_available
        from codecarbon.output_methods.base_output import BaseOutput

        news: list[Any] = []

        class Kept(BaseOutput):  # type: ignore[misc]
            """Where codecarbon tells what it has measured."""

            def out(self, total: Any, delta: Any) -> None:
                news.append(delta)

        self._tracker = OfflineEmissionsTracker(
            country_iso_code=country,
            tracking_mode="machine",
            measure_power_secs=NEVER,
            api_call_interval=-1,
            output_methods=[],
            output_handlers=[Kept()],
            log_level="critical",
            allow_multiple_runs=True,  # of another user of this machine, say
        )
        self._news = news
        self._tracker.start()
        self._gpus = AllGPUDevices() if is_gpu_details_available() else None
        if self._gpus is not None:
            self._gpus.start()
        self._at = time.monotonic()
        self.measured = counted()

    def read(self) -> dict[str, Any]:
        """What was used since the last reading: ``cpu``, ``ram``, ``gpus`` by index [kWh], ``co2`` [kg]."""
        self._tracker.flush()
        delta = self._news.pop()
        gpus = self._by_gpu(delta.gpu_energy)
        return {"cpu": delta.cpu_energy, "ram": delta.ram_energy, "gpus": gpus, "co2": delta.emissions}

    def _by_gpu(self, kwh: float) -> dict[int, float]:
        """The energy of all GPUs by GPU: codecarbon sums them up, but tells each one's, too."""
        from codecarbon.core.units import Time

        seconds, self._at = time.monotonic() - self._at, time.monotonic()
        found = self._gpus.get_delta(Time.from_seconds(seconds)) if self._gpus is not None else []
        each = {gpu["gpu_index"]: gpu["delta_energy_consumption"].kWh for gpu in found}
        total = sum(each.values())
        if not each or not kwh:
            return {}
        return {i: kwh * (value / total if total else 1 / len(each)) for i, value in each.items()}


def _cpu_seconds(process: psutil.Process) -> float:
    """Processor time of a process and of those of its children that have ended."""
    times = process.cpu_times()
    return float(times.user + times.system + times.children_user + times.children_system)


def _busy_seconds() -> float:
    """Processor time of everything on this machine since it started."""
    times = psutil.cpu_times()
    return float(times.user + times.nice + times.system + times.irq + times.softirq)


Spent = Callable[[], Amount | None]  # what this process has used for its trial so far; none: nobody measures


def unmeasured() -> None:
    """Nobody measures."""


@dataclass
class Bill:
    """What a trial used: for its steps, and for its evaluations, which are inference on so many images."""

    training: Amount = Amount()
    inference: Amount = Amount()
    images: int = 0

    def trained(self, before: Amount | None, now: Amount | None) -> Amount | None:
        """Adds what was used between two readings; returns the latter."""
        if before is not None and now is not None:
            self.training += now - before
        return now

    def evaluated(self, before: Amount | None, now: Amount | None, images: int) -> Amount | None:
        """The same, of a pass over validation images; one too short for a reading does not count, nor do its images."""
        if before is not None and now is not None and now.kwh > before.kwh:
            self.inference += now - before
            self.images += images
        return now

    def columns(self) -> dict[str, float | int | None]:
        """Of a trial's row; null where nobody measured."""
        if not self.training.kwh + self.inference.kwh:
            return dict.fromkeys(("energy_kwh", "co2_kg", "inference_kwh", "inference_co2_kg", "inference_images"))
        return {
            "energy_kwh": self.training.kwh,
            "co2_kg": self.training.co2_kg,
            "inference_kwh": self.inference.kwh if self.images else None,
            "inference_co2_kg": self.inference.co2_kg if self.images else None,
            "inference_images": self.images or None,
        }

    def state_dict(self) -> dict[str, float]:
        """For a checkpoint."""
        used = {"training": self.training, "inference": self.inference}
        amounts = {f"{name}_{unit}": getattr(each, unit) for name, each in used.items() for unit in ("kwh", "co2_kg")}
        return {**amounts, "images": self.images}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """From a checkpoint."""
        self.training = Amount(state["training_kwh"], state["training_co2_kg"])
        self.inference = Amount(state["inference_kwh"], state["inference_co2_kg"])
        self.images = int(state["images"])


@contextlib.contextmanager
def metered_here(country: str) -> Iterator[Spent]:
    """Meters this process, where there is no launch that has a meter on every node."""
    pid, meter = os.getpid(), Meter("this process", country)
    meter.begin(pid, dict.fromkeys(_visible_gpus(), 1.0))
    try:
        yield functools.partial(meter.reading, pid)
    finally:
        meter.end(pid)


def _visible_gpus() -> list[int]:
    """The index of the GPU that torch would use here, as the driver counts; none without one."""
    import torch

    if not torch.cuda.is_available():
        return []
    first = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
    return [int(first)] if first.isdecimal() else []
