"""GPUs by their index among those of the machine: ``CUDA_VISIBLE_DEVICES``, and so Ray, may name them by UUID."""

import contextlib
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from kdtune.devices import VISIBLE_GPUS


@dataclass(frozen=True)
class Gpu:
    """A GPU of this machine, as its driver lists it."""

    index: int
    uuid: str  # GPU-...
    parts: tuple[str, ...] = ()  # UUIDs of what MIG has divided it into: MIG-...


def any_here() -> bool:
    """Whether this machine has a GPU for this process, as its drivers say: asked without torch."""
    if os.environ.get(VISIBLE_GPUS) == "":
        return False
    return bool(listed()) or os.path.exists("/dev/kfd")  # the second: AMD's


def indices(names: Iterable[str | int]) -> list[int]:
    """Those of the named GPUs, each once, in their order; of a part of one its own. Unknown names are left out."""
    told = [str(name).strip() for name in names]
    gpus = [] if all(name.isdecimal() for name in told) else listed()
    return list(dict.fromkeys(index for name in told if (index := index_of(name, gpus)) is not None))


def index_of(name: str, gpus: Sequence[Gpu]) -> int | None:
    """Of a GPU by its index, its UUID or how only its UUID begins, or a part's UUID; none if it is none of these.

    Drivers before 470 name a part ``MIG-GPU-.../1/0``, by the UUID of its GPU.
    """
    if name.isdecimal():
        return int(name)
    whole = name.removeprefix("MIG-").partition("/")[0] if name.startswith("MIG-GPU-") else name
    found = [gpu.index for gpu in gpus if any(uuid.startswith(whole) for uuid in (gpu.uuid, *gpu.parts))]
    return found[0] if len(found) == 1 and whole.startswith(("GPU-", "MIG-")) else None


def listed() -> list[Gpu]:
    """Those of this machine; none without NVIDIA's driver."""
    try:
        import pynvml  # codecarbon brings it
    except ImportError:
        return []
    with contextlib.suppress(pynvml.NVMLError):
        pynvml.nvmlInit()
        handles = [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())]
        return [Gpu(i, pynvml.nvmlDeviceGetUUID(gpu), tuple(_parts(pynvml, gpu))) for i, gpu in enumerate(handles)]
    return []


def _parts(nvml: Any, gpu: Any) -> Iterator[str]:
    """UUIDs of what MIG has divided a GPU into."""
    try:
        most = nvml.nvmlDeviceGetMaxMigDeviceCount(gpu)
    except nvml.NVMLError:  # it cannot be divided
        return
    for i in range(most):
        with contextlib.suppress(nvml.NVMLError):  # no such part
            yield nvml.nvmlDeviceGetUUID(nvml.nvmlDeviceGetMigDeviceHandleByIndex(gpu, i))
