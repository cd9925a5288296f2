"""What every test stands on: a home and caches in a temporary folder, and nothing of the user's environment."""

import os
import signal
from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoints
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from filelock import FileLock

from kdtune import registry

if TYPE_CHECKING:
    from kdtune.study.trial_config import TrialConfig
    from tests.support.s3 import Server

# Before torch, which reads it once. Several processes of tests share the cores, and on small tensors their threads
# wait for each other: five times the processor's time. What is about threads sets their number itself.
os.environ["OMP_NUM_THREADS"] = "1"
# Hundreds of processes start, and each would compile kdtune anew: a fifth of a second.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
# Before tests are collected: terms, networks and datasets of other packages are there for tests that ask for them.
registry.entry_points = lambda **_: EntryPoints()


def pytest_configure() -> None:
    """Ctrl-C as at a terminal: what a shell starts in the background, and its programs in turn, would ignore it."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests first: at the end, short ones keep all processes at work."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(scope="session", autouse=True)
def _own_environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(tmp_path_factory.mktemp("home")))  # Ray's token, torch's and kdtune's caches
        patch.setenv("KDTUNE_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("OMP_WAIT_POLICY", "passive")  # threads that wait must not keep the cores from other tests
        # Ray runs its workers at nice 15: beside two busy processes, a launch of 37 s was not done after 300
        patch.setenv("RAY_worker_niceness", "0")
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")  # nothing is reported, by no process that would be started for it
        for name in ("KDTUNE_STORAGE", "KDTUNE_DATA_ROOT", "RAY_ADDRESS", "XDG_CACHE_HOME", "TORCH_HOME"):
            patch.delenv(name, raising=False)
        yield


@pytest.fixture(scope="session")
def once(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Callable[[Path], None]], Path]:
    """``once(name, make)``: a folder that ``make`` has filled, once for all tests, whichever process they run in."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if base.name.startswith("popen-") else base  # xdist: one folder below for each process

    def folder(name: str, make: Callable[[Path], None]) -> Path:
        place = shared / "once" / name
        place.parent.mkdir(exist_ok=True)
        with FileLock(f"{place}.lock"):
            if not place.with_suffix(".made").exists():
                assert not place.exists(), f"{name} could not be made: see the test that asked for it first"
                place.mkdir()
                make(place)
                place.with_suffix(".made").touch()
        return place

    return folder


@pytest.fixture(scope="module")
def server() -> Iterator["Server"]:
    """An S3 server on loopback with one bucket, ``bucket``."""
    from tests.support.s3 import serving

    with serving() as server:
        server.make_bucket("bucket")
        yield server


@pytest.fixture
def tiny() -> "TrialConfig":
    """A trial of less than half a second."""
    from tests.support.tiny import config  # here, so that tests of the command line start without torch

    return config()


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Where the last digits count."""
    yield from _threads(1)


@pytest.fixture
def two_threads() -> Iterator[None]:
    """Where work is to be spread over threads."""
    yield from _threads(2)


def _threads(number: int) -> Iterator[None]:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(number)
    yield
    torch.set_num_threads(before)
