"""A node's energy is shared out among its trials by what each used, and nothing is counted twice."""

import math
import multiprocessing
import os
import random
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from kdtune.base import UserError
from kdtune.training import energy_counter, energy_meter
from kdtune.training.energy import Amount, Bill
from kdtune.training.energy_counter import Counter, check_country
from kdtune.training.energy_meter import Interval, Meter, Use, metered_here, share_out
from tests.support.alone import alone


@pytest.mark.parametrize(
    "content",
    ["[codecarbon]\npue = 100\nforce_carbon_intensity_g_co2e_kwh = 1\noutput_dir = ./nowhere\n", "log_level = error\n"],
    ids=["another project's", "broken"],
)
def test_a_configuration_of_others_changes_nothing(
    content: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".codecarbon.config").write_text(content)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("CODECARBON_PUE", "100")
    kwh, co2 = alone(one_reading)  # codecarbon goes on sampling in a process that has made a tracker
    assert kwh > 0
    assert 0.1 < co2 / kwh < 1.0  # Germany's, without another project's overhead


def one_reading() -> tuple[float, float]:
    """What a counter reads: kWh, and kg CO2-equivalent."""
    counter = Counter("DEU")
    time.sleep(0.1)  # codecarbon reads nothing after less than 0.05
    read = counter.read()
    return read["cpu"] + read["ram"] + sum(read["gpus"].values()), read["co2"]


def test_a_meter_that_cannot_begin_ends_no_training(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(country: str) -> None:
        raise IndexError("pop from empty list")

    monkeypatch.setattr(energy_meter, "Counter", broken)
    with metered_here("DEU") as spent:
        assert spent() is None
    assert "energy is not metered: IndexError: pop from empty list" in caplog.text


def test_trials_on_one_gpu_share_it_by_what_they_asked_for() -> None:
    used = Interval(cpu=0.0, ram=0.0, gpus={0: 3.0, 1: 5.0}, busy_seconds=0.0)
    small, large = Use(0, 0, {0: 0.25}), Use(0, 0, {0: 0.5})
    assert share_out(used, [small, large]) == [1.0, 2.0]  # GPU 1 is idle


def test_a_trial_alone_on_a_gpu_has_all_of_it() -> None:
    used = Interval(cpu=0.0, ram=0.0, gpus={0: 3.0}, busy_seconds=0.0)
    assert share_out(used, [Use(0, 0, {0: 0.25})]) == [3.0]


def test_a_trial_on_several_gpus() -> None:
    used = Interval(cpu=0.0, ram=0.0, gpus={0: 3.0, 1: 5.0, 2: 7.0}, busy_seconds=0.0)
    assert share_out(used, [Use(0, 0, {0: 1.0, 2: 1.0})]) == [10.0]


def test_other_programs_part_of_the_processor_is_nobodys() -> None:
    used = Interval(cpu=8.0, ram=0.0, gpus={}, busy_seconds=4.0)
    assert share_out(used, [Use(1.0, 0), Use(2.0, 0)]) == [2.0, 4.0]


def test_processor_time_that_clocks_disagree_on_is_not_billed_twice() -> None:
    used = Interval(cpu=8.0, ram=0.0, gpus={}, busy_seconds=1.0)
    assert share_out(used, [Use(1.0, 0), Use(1.0, 0)]) == [4.0, 4.0]


def test_memory_goes_by_memory() -> None:
    used = Interval(cpu=0.0, ram=6.0, gpus={}, busy_seconds=0.0)
    assert share_out(used, [Use(0, 1e9), Use(0, 2e9)]) == [2.0, 4.0]


def test_without_trials_all_is_idle() -> None:
    assert share_out(Interval(1.0, 1.0, {0: 1.0}, 1.0), []) == []


@pytest.mark.parametrize("seed", range(20))
def test_no_more_is_billed_than_was_used(seed: int) -> None:
    generator = random.Random(seed)
    gpus = {i: generator.random() for i in range(generator.randrange(4))}
    uses = [
        Use(generator.random(), generator.random(), {i: generator.choice([0.25, 0.5, 1.0]) for i in gpus})
        for _ in range(generator.randrange(1, 5))
    ]
    used = Interval(generator.random(), generator.random(), gpus, generator.random() * 4)
    billed = share_out(used, uses)
    assert min(billed) >= 0
    assert math.fsum(billed) <= used.cpu + used.ram + math.fsum(gpus.values()) + 1e-12


def work(seconds: float) -> None:
    """Keeps a core busy."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        sum(range(10_000))


@pytest.fixture(scope="module")
def meter() -> Meter:
    return Meter("node", "DEU")


@pytest.fixture
def workers() -> Iterator[list[multiprocessing.Process]]:
    """Two processes that work, as two trials of a node do."""
    processes = [multiprocessing.get_context("spawn").Process(target=work, args=(60,)) for _ in range(2)]
    for process in processes:
        process.start()
    yield processes
    for process in processes:
        process.kill()
        process.join()


def test_trials_and_idle_are_the_nodes_total(meter: Meter, workers: list[multiprocessing.Process]) -> None:
    """Nothing is invented: each trial is billed, the sum of the bills is what the node says trials used."""
    pids = [process.pid for process in workers if process.pid]
    before = meter.totals()
    for pid in pids:
        meter.begin(pid, {})
    time.sleep(2.5)
    bills = [meter.end(pid) for pid in pids]
    after = meter.totals()
    assert min(bill.kwh for bill in bills) > 0
    used = after.amount - before.amount
    trials, idle = after.trials_kwh - before.trials_kwh, after.idle_kwh - before.idle_kwh
    assert trials == pytest.approx(sum(bill.kwh for bill in bills), rel=1e-9)
    assert trials + idle == pytest.approx(used.kwh, rel=1e-9)
    assert idle >= 0
    assert used.co2_kg == pytest.approx(used.kwh * 0.381, rel=0.05)  # Germany: 380.95 g per kWh
    assert after.cpu_kwh + after.ram_kwh + after.gpu_kwh == pytest.approx(after.amount.kwh, rel=1e-9)


def test_a_process_that_was_killed_is_billed_no_more(meter: Meter, workers: list[multiprocessing.Process]) -> None:
    pid = workers[0].pid or 0
    meter.begin(pid, {})
    time.sleep(0.2)
    workers[0].kill()
    workers[0].join()
    assert not psutil.pid_exists(pid)
    meter.reading(pid)
    then = meter.totals().trials_kwh
    time.sleep(0.3)
    assert meter.totals().trials_kwh == then
    assert meter.end(pid) == Amount()


def test_a_process_begins_a_new_trial_with_nothing(meter: Meter) -> None:
    meter.begin(os.getpid(), {})
    work(0.3)
    first = meter.reading(os.getpid())
    meter.begin(os.getpid(), {})
    assert meter.reading(os.getpid()).kwh < first.kwh
    meter.end(os.getpid())


def test_a_reading_grows_and_an_unknown_process_has_none(meter: Meter) -> None:
    meter.begin(os.getpid(), {})
    first = meter.reading(os.getpid())
    work(0.3)
    second = meter.end(os.getpid())
    assert second.kwh > first.kwh
    assert meter.reading(os.getpid()) == Amount()


def test_the_meter_takes_less_than_a_hundredth_of_a_core(meter: Meter) -> None:
    """By the meters' own threads: what else a process of tests has running does not count."""
    threads = {thread.native_id for thread in threading.enumerate() if thread.name == "kdtune-meter"}

    def used() -> float:
        return sum(each.user_time + each.system_time for each in psutil.Process().threads() if each.id in threads)

    assert threads
    meter.begin(os.getpid(), {})
    before, began = used(), time.monotonic()
    time.sleep(4)  # the time itself is what is measured
    now, seconds = used(), time.monotonic() - began
    meter.end(os.getpid())
    assert now - before < (0.01 * seconds + 0.01) * len(threads)  # the clock's tick


def test_this_process_alone() -> None:
    with metered_here("FRA") as spent:
        first = spent()
        work(0.3)
        second = spent()
    assert first is not None
    assert second is not None
    used = second - first
    assert used.kwh > 0
    assert used.co2_kg < used.kwh * 0.1  # France's electricity is not Germany's


def test_a_bill_tells_steps_from_evaluations_and_survives_a_checkpoint() -> None:
    bill = Bill()
    used = bill.trained(Amount(1.0, 0.1), Amount(3.0, 0.3))
    used = bill.evaluated(used, Amount(3.5, 0.35), images=100)
    bill.evaluated(used, used, images=100)  # over before the meter could be read: nothing per image follows from it
    bill.evaluated(used, None, images=100)  # the meter is gone
    columns = bill.columns()
    assert columns["energy_kwh"] == 2.0
    assert columns["inference_kwh"] == 0.5
    assert columns["inference_images"] == 100
    other = Bill()
    other.load_state_dict(bill.state_dict())
    assert other == bill


def test_what_nobody_measured_is_null() -> None:
    bill = Bill()
    assert set(bill.columns().values()) == {None}
    used = bill.trained(Amount(), Amount(1.0, 0.1))
    bill.evaluated(used, used, images=100)
    assert bill.columns()["energy_kwh"] == 1.0
    assert bill.columns()["inference_kwh"] is None


def test_an_unknown_country_is_refused() -> None:
    check_country("DEU")
    with pytest.raises(UserError, match="country_iso_code 'XXX': codecarbon knows no such country"):
        check_country("XXX")


def test_the_processor_has_the_name_that_the_library_would_find() -> None:
    """It asks more places, in a second; the energy is estimated by this name where nothing counts it."""
    import cpuinfo

    found = cpuinfo.get_cpu_info().get("brand_raw")
    with energy_counter._known_processor():
        assert cpuinfo.get_cpu_info().get("brand_raw") == found
    assert cpuinfo.get_cpu_info().get("brand_raw") == found


def test_no_process_is_started_for_that_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """The meter needs it when it begins, and keeps it."""
    import cpuinfo
    from codecarbon.core import hardware_cache, util

    util.detect_cpu_model.cache_clear()
    hardware_cache.clear_cache()
    asked: list[bool] = []
    monkeypatch.setattr(cpuinfo, "get_cpu_info", lambda: asked.append(True))
    Counter("DEU").read()
    assert not asked
