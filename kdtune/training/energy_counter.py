"""The counters of a machine's energy, read by codecarbon offline; and the countries whose electricity it knows."""

import contextlib
import functools
import logging
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kdtune.base import UserError
from kdtune.devices import VISIBLE_GPUS
from kdtune.training.gpu_index import indices

NEVER = 1e6  # seconds; codecarbon's own clock is not used: two readers would count an interval twice


@functools.cache
def countries() -> frozenset[str]:
    """The ISO 3166-1 alpha-3 codes whose carbon intensity codecarbon knows."""
    _quiet()
    from codecarbon.input import DataSource

    return frozenset(DataSource().get_global_energy_mix_data())


def check_country(code: str, given_as: str = "country_iso_code") -> None:
    """Nothing, if the emissions of a country's electricity are known.

    Raises:
        UserError: they are not.
    """
    if code not in countries():
        raise UserError(f"{given_as} '{code}': codecarbon knows no such country; give its three letters, as DEU")


def _quiet() -> None:
    """Silence: codecarbon writes to standard error when it is imported and whenever it cannot find a counter."""
    import codecarbon  # noqa: F401  # sets the level of its logger, which this undoes

    logging.getLogger("codecarbon").setLevel(logging.CRITICAL + 1)


def counted() -> bool:
    """Whether this machine's processor counts its energy and lets us read it; else codecarbon estimates it by its load.

    NVIDIA's and AMD's GPUs count theirs.
    """
    _quiet()
    from codecarbon.core.cpu import is_rapl_available

    return bool(is_rapl_available())


@contextlib.contextmanager
def _no_files_of_others() -> Iterator[None]:
    """A ``.codecarbon.config`` or a variable of another project would change the figures, and a broken one end them."""
    from codecarbon import emissions_tracker

    before = emissions_tracker.get_hierarchical_config
    emissions_tracker.get_hierarchical_config = dict
    try:
        yield
    finally:
        emissions_tracker.get_hierarchical_config = before


@contextlib.contextmanager
def _known_processor() -> Iterator[None]:
    """Tells the processor's name as Linux does: the library that codecarbon asks starts a process for a second."""
    import cpuinfo

    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # not Linux
        lines = []
    name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), None)
    before = cpuinfo.get_cpu_info
    if name:
        cpuinfo.get_cpu_info = lambda: {"brand_raw": name}
    try:
        yield
    finally:
        cpuinfo.get_cpu_info = before


class Counter:
    """codecarbon's tracker of the whole machine, of whose GPUs those that are visible here; read when asked."""

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

        visible = os.environ.get(VISIBLE_GPUS)
        self._visible = indices(visible.split(",")) if visible else None  # codecarbon knows no part of a GPU
        with _no_files_of_others(), _known_processor():
            self._tracker = OfflineEmissionsTracker(
                country_iso_code=country,
                tracking_mode="machine",
                measure_power_secs=NEVER,
                api_call_interval=-1,
                output_methods=[],
                output_handlers=[Kept()],
                log_level="critical",
                gpu_ids=self._visible,
                allow_multiple_runs=True,  # of another user of this machine, say
            )
            self._tracker.start()
        self._news = news
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
        """The energy of the visible GPUs by GPU: codecarbon sums them up, but tells each one's, too."""
        from codecarbon.core.units import Time

        seconds, self._at = time.monotonic() - self._at, time.monotonic()
        found = self._gpus.get_delta(Time.from_seconds(seconds)) if self._gpus is not None else []
        each = {
            gpu["gpu_index"]: gpu["delta_energy_consumption"].kWh
            for gpu in found
            if self._visible is None or gpu["gpu_index"] in self._visible
        }
        total = sum(each.values())
        if not each or not kwh:
            return {}
        return {i: kwh * (value / total if total else 1 / len(each)) for i, value in each.items()}
