"""What every test stands on: caches in a temporary folder, and nothing of the user's environment."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from kdtune.study.trial_config import TrialConfig


@pytest.fixture(scope="session", autouse=True)
def _own_environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KDTUNE_CACHE", str(tmp_path_factory.mktemp("cache")))
        for name in ("KDTUNE_STORAGE", "KDTUNE_DATA_ROOT", "RAY_ADDRESS"):
            patch.delenv(name, raising=False)
        yield


@pytest.fixture
def tiny() -> "TrialConfig":
    """A trial of less than half a second."""
    from tiny import config  # here, so that tests of the command line start without torch

    return config()


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Small tensors are slower on many threads."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
