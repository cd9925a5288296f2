"""GPUs that are named by UUID: which of the machine's they are, as the energy meter counts."""

from types import SimpleNamespace
from typing import Any

import pynvml
import pytest
import torch

from kdtune.training import energy_meter, gpu_index
from kdtune.training.energy_counter import Counter
from kdtune.training.gpu_index import Gpu, index_of, indices

GPUS = [
    Gpu(0, "GPU-8932f937-d72c-4106-c12f-20bd9faed9f6"),
    Gpu(1, "GPU-893256aa-0000-4106-c12f-20bd9faed9f6"),
    Gpu(2, "GPU-5ebe9f43-ac33-5c4b-a0b5-1b1b0a1b0a1b", ("MIG-c6d4f1ef-42e4-5de3-91c7-45d71c87eb3f", "MIG-cba663e8")),
]


@pytest.mark.parametrize(
    ("name", "index"),
    [
        ("0", 0),
        ("7", 7),  # the driver's word is not asked for
        ("GPU-8932f937-d72c-4106-c12f-20bd9faed9f6", 0),
        ("GPU-89325", 1),
        ("GPU-8932", None),  # of two
        ("GPU-5", 2),
        ("MIG-cba663e8", 2),
        ("MIG-c6d4", 2),
        ("MIG-GPU-5ebe9f43-ac33-5c4b-a0b5-1b1b0a1b0a1b/1/0", 2),
        ("MIG-GPU-893256aa-0000-4106-c12f-20bd9faed9f6/7/0", 1),
        ("MIG-ffff", None),
        ("GPU", None),
        ("", None),
        ("-1", None),
        ("NoDevFiles", None),
    ],
)
def test_a_name_has_the_index_of_its_gpu(name: str, index: int | None) -> None:
    assert index_of(name, GPUS) == index


def test_visible_gpus_and_rays_are_told_by_any_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_index, "listed", lambda: GPUS)
    assert indices([0, 3]) == [0, 3]
    assert indices(["MIG-cba6", " GPU-8932f", "MIG-c6d4", "MIG-none"]) == [2, 0]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for visible, found in (("GPU-89325,GPU-5", [1]), ("MIG-c6d4", [2]), ("3,0", [3]), ("", [])):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        assert energy_meter._visible_gpus() == found
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert energy_meter._visible_gpus() == [0]


def test_energy_goes_to_the_visible_gpus_alone() -> None:
    """The sum that codecarbon gives is of these, and so none of it is for the others."""
    counter = Counter.__new__(Counter)  # codecarbon goes on sampling in a process that has made a tracker
    used = [{"gpu_index": i, "delta_energy_consumption": SimpleNamespace(kWh=kwh)} for i, kwh in enumerate((5, 1, 3))]
    counter._gpus, counter._at = SimpleNamespace(get_delta=lambda seconds: used), 0.0
    for visible, shares in ((None, {0: 5.0, 1: 1.0, 2: 3.0}), ([1, 2], {1: 2.25, 2: 6.75}), ([], {})):
        counter._visible = visible
        assert counter._by_gpu(9.0) == shares


def test_the_driver_lists_gpus_and_their_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two GPUs, of which the second has a first and a third part."""

    def count_of(gpu: str) -> int:
        if gpu == "GPU-0":
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
        return 3

    def part_of(gpu: str, i: int) -> str:
        if i == 1:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)
        return f"MIG-{gpu}-{i}"

    stand_in: dict[str, Any] = {
        "nvmlInit": lambda: None,
        "nvmlDeviceGetCount": lambda: 2,
        "nvmlDeviceGetHandleByIndex": lambda i: f"GPU-{i}",
        "nvmlDeviceGetUUID": lambda handle: handle,
        "nvmlDeviceGetMaxMigDeviceCount": count_of,
        "nvmlDeviceGetMigDeviceHandleByIndex": part_of,
    }
    for name, function in stand_in.items():
        monkeypatch.setattr(pynvml, name, function)
    assert gpu_index.listed() == [Gpu(0, "GPU-0"), Gpu(1, "GPU-1", ("MIG-GPU-1-0", "MIG-GPU-1-2"))]


@pytest.mark.skipif(torch.cuda.is_available(), reason="has a driver")
def test_without_a_driver_there_is_none() -> None:
    assert indices(["GPU-8932f937"]) == []
