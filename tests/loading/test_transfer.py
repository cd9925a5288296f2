"""Batches on their way to a GPU: windows of unset memory, threads, and copies that nobody waits for."""

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from unittest.mock import MagicMock, call, create_autospec

import numpy as np
import pytest
import torch

from kdtune.base import Preprocessing
from kdtune.loading import batches, transfer
from kdtune.loading.batches import Batch, resample, train_batches, validation_batches
from kdtune.loading.transfer import on_device
from kdtune.loading.views import views
from kdtune.loading.windows import Windows, windows
from kdtune.study.recipe import Recipe
from tests.support.tiny import config, noise

CPU, GPU = torch.device("cpu"), torch.device("cuda")
SPLIT = noise([(40, 50), (33, 47), (50, 40), (9, 60), (64, 64), (300, 257)])


def recipe(**changes: object) -> Recipe:
    plain = {"scale_min": 0.5, "scale_max": 2.1, "crop": (21, 42), "batch_size": 8, "num_steps": 12}
    return Recipe.model_validate(config().recipe.model_dump() | plain | changes)


def same(one: Batch, two: Batch) -> bool:
    pairs = ((one.pixels, two.pixels), (one.inside, two.inside), (one.target, two.target))
    images = (one.image(Preprocessing()), two.image(Preprocessing()))
    return all(torch.equal(*pair) for pair in (*pairs, images))


@pytest.mark.parametrize(("crop", "steps"), [((21, 42), 6), ((63, 9), 6), ((256, 256), 1)])
@pytest.mark.parametrize("scales", [(0.5, 2.1), (1.0, 1.0)])
def test_what_was_in_the_memory_of_a_window_reaches_no_pixel(
    crop: tuple[int, int], steps: int, scales: tuple[float, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if the memory had been zeroed, to the last digit."""

    def seen(step: int, content: int) -> Windows:
        with monkeypatch.context() as patch:
            patch.setattr(torch, "empty", lambda *size, **rest: torch.full(size, content, dtype=torch.uint8))
            return windows(SPLIT, views(how, SPLIT.sizes, 3, step), crop)

    how, unset = recipe(crop=crop, scale_min=scales[0], scale_max=scales[1]), 0
    for step in range(steps):
        zeroed, full = seen(step, 0), seen(step, 255)
        unset += int((zeroed.images != full.images).sum())
        assert same(resample(zeroed), resample(full))
    assert unset > 0  # there were margins


@dataclass(frozen=True)
class Here:
    """In the place of tensors that are copied to a GPU."""

    tensors: tuple[torch.Tensor, ...]

    def received(self) -> tuple[torch.Tensor, ...]:
        return self.tensors


@pytest.fixture
def copied_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU's way but for the copies."""
    monkeypatch.setattr(transfer, "_sent", lambda tensors, device: Here(tensors))


def own_threads() -> set[threading.Thread]:
    return {each for each in threading.enumerate() if each.name.startswith("kdtune-ahead")}


def test_batches_read_by_threads_are_the_same_bits(copied_nowhere: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a GPU does, on a processor."""
    monkeypatch.setattr(batches, "SMALL", 1 << 30)
    how, readers = recipe(), set()

    def read(step: int) -> Windows:
        readers.add(threading.current_thread())
        time.sleep(0.002 * (step % 3 == 0))  # the next is ready before
        return windows(SPLIT, views(how, SPLIT.sizes, 2, step), how.crop)

    before = own_threads()
    by_threads = on_device(read, range(how.num_steps), GPU)
    plain = train_batches(SPLIT, how, 2, 0, CPU)
    for ahead, direct in zip(by_threads, plain, strict=True):
        assert same(resample(Windows(*ahead)), direct)
    assert 2 <= len(readers) <= 4
    assert threading.main_thread() not in readers
    assert own_threads() == before


def test_a_processor_reads_each_when_it_is_asked_for() -> None:
    made = []

    def read(i: int) -> tuple[torch.Tensor, ...]:
        made.append((i, threading.current_thread()))
        return (torch.tensor(i),)

    found = on_device(read, range(5), CPU)
    assert [int(next(found)[0]), int(next(found)[0])] == [0, 1]
    assert made == [(0, threading.main_thread()), (1, threading.main_thread())]


def test_the_stream_that_computes_waits_for_the_copies_and_the_host_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """The order of calls, on streams that do nothing; what a GPU makes of them is told by the tests below."""
    log = MagicMock()
    copying, computing = (create_autospec(torch.cuda.Stream, instance=True) for _ in range(2))
    tensors = tuple(create_autospec(torch.Tensor, instance=True, device=GPU) for _ in range(2))
    for tensor in tensors:
        tensor.to.return_value = tensor
    named = {"copying": copying, "computing": computing, "one": tensors[0], "two": tensors[1]}
    for name, each in named.items():
        log.attach_mock(each, name)
    monkeypatch.setattr(transfer, "_stream", lambda device: copying)
    monkeypatch.setattr(torch.cuda, "stream", log.stream)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: computing)
    sent = transfer._sent(tensors, GPU)
    moved = [call.one.to(GPU, non_blocking=True), call.two.to(GPU, non_blocking=True)]
    assert log.mock_calls == [
        call.stream(copying), call.stream().__enter__(), *moved, call.copying.record_event(),
        call.stream().__exit__(None, None, None),
    ]  # fmt: skip
    log.reset_mock()
    assert sent.received() == tensors
    event = call.computing.wait_event(copying.record_event.return_value)
    assert log.mock_calls == [event, call.one.record_stream(computing), call.two.record_stream(computing)]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_a_gpu_gets_the_same_bits_while_it_is_busy() -> None:
    """Against plain copies, with work between the batches that takes longer than reading one."""
    how = recipe(num_steps=40, crop=(128, 128))
    matrix = torch.randn(2048, 2048, device=GPU)
    for step, batch in enumerate(train_batches(SPLIT, how, 2, 0, GPU)):
        for _ in range(20):
            matrix = (matrix @ matrix).clamp(-1, 1)
        seen = windows(SPLIT, views(how, SPLIT.sizes, 2, step), how.crop)
        assert same(batch, resample(Windows(*(tensor.to(GPU) for tensor in seen))))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_no_batch_makes_the_host_wait() -> None:
    how = recipe(num_steps=20, crop=(128, 128))

    def drawn() -> Iterator[torch.Tensor]:
        for batch in train_batches(SPLIT, how, 2, 0, GPU):
            yield batch.image(Preprocessing()).sum() + batch.target.sum()
        for pixels, target in validation_batches(SPLIT, 2, GPU):
            yield pixels.sum() + target.sum()

    plain = [int(value) for value in drawn()]
    torch.cuda.set_sync_debug_mode("error")
    try:
        found = list(drawn())
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert [int(value) for value in found] == plain
    assert len(plain) == how.num_steps + len(np.unique(SPLIT.sizes, axis=0))
