"""Tensors on their way to a GPU: read by threads into pinned memory and copied beside what the GPU computes."""

import functools
from collections.abc import Callable, Generator, Iterable
from contextlib import closing
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from kdtune.loading.ahead import in_order

In = TypeVar("In")
Tensors = tuple[Tensor, ...]

READERS = (2, 4)  # threads that read for a GPU, at least and at most: between them the share's processors


def on_device(read: Callable[[In], Tensors], items: Iterable[In], device: torch.device) -> Generator[Tensors]:
    """What ``read`` makes of each item, in order, on the device.

    A GPU's are read by threads while the GPU is at earlier ones, pinned if nothing is to wait for the copies.
    """
    if device.type != "cuda":
        yield from map(read, items)
        return
    least, most = READERS
    workers = max(least, min(torch.get_num_threads(), most))
    under_way = in_order(lambda item: _sent(read(item), device), items, workers=workers, ahead=workers + 1)
    with closing(under_way) as ready:
        for each in ready:
            yield each.received()


@dataclass(frozen=True)
class _Sent:
    """Tensors of a GPU that may not be copied yet."""

    tensors: Tensors
    copied: torch.cuda.Event

    def received(self) -> Tensors:
        """They, for what the current stream does from now on: it waits for the copies, the host does not."""
        using = torch.cuda.current_stream(self.tensors[0].device)
        using.wait_event(self.copied)
        for tensor in self.tensors:
            tensor.record_stream(using)  # else their memory would serve the next copies while it is in use
        return self.tensors


def _sent(tensors: Tensors, device: torch.device) -> _Sent:
    """Begins to copy; pinned memory is not handed out again before it was read."""
    stream = _stream(device)
    with torch.cuda.stream(stream):
        return _Sent(tuple(tensor.to(device, non_blocking=True) for tensor in tensors), stream.record_event())


@functools.cache  # freed memory stays with its stream: one of each batch's own would find none
def _stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
