"""Maps made larger, or averaged over cells, so that a GPU comes to the same digits each time.

On a GPU torch's own backward of both adds with atomics, in an order that changes from run to run. Here an axis is a
product with a fixed matrix, forward and backward: equal to torch's on a processor but for rounding, where torch's own
are taken, which are exact as they are. Matrices are made on the device: to copy one would make it wait.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

UNORDERED = ("cuda",)  # kinds of devices on which torch's own add in any order


def enlarged(source: Tensor, size: Sequence[int]) -> Tensor:
    """``source`` (N, C, h, w) at ``size``: bilinear, align_corners=True."""
    if source.device.type not in UNORDERED:
        return F.interpolate(source, size=tuple(size), mode="bilinear", align_corners=True)
    rows, columns = (between(*ends, source.device) for ends in zip(source.shape[-2:], size, strict=True))
    return by_products(source, rows, columns)


def pooled(source: Tensor, cells: int) -> Tensor:
    """Means of ``source`` (N, C, h, w) over ``cells`` x ``cells`` windows, as ``nn.AdaptiveAvgPool2d`` has them."""
    if source.device.type not in UNORDERED:
        return F.adaptive_avg_pool2d(source, cells)
    return pooled_by_products(source, (cells, cells))


def pooled_by_products(source: Tensor, cells: tuple[int, int]) -> Tensor:
    """The same over rows and columns of windows, by products on any device."""
    lengths = zip(source.shape[-2:], cells, strict=True)
    rows, columns = (windows(length, count, source.device) for length, count in lengths)
    return by_products(source, rows, columns)


def by_products(source: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """``rows @ source @ columns.T``, computed in float32 at least, in the precision and layout of ``source``.

    Args:
        source: (N, C, h, w).
        rows: (H, h).
        columns: (W, w).
    """
    with torch.autocast(source.device.type, enabled=False):  # it would multiply in bfloat16
        precise = source.to(torch.promote_types(source.dtype, torch.float32))
        found = rows.to(precise.dtype) @ (precise @ columns.to(precise.dtype).T)
        return found.to(source.dtype, memory_format=torch.channels_last if _is_last(source) else torch.preserve_format)


def _is_last(source: Tensor) -> bool:
    last = source.is_contiguous(memory_format=torch.channels_last)
    return last and source.stride(1) < source.stride(3)  # of a single cell only strides tell


def between(before: int, after: int, device: torch.device) -> Tensor:
    """(after, before) float64: weights of linear interpolation, the ends on the ends."""
    step = (before - 1) / (after - 1) if after > 1 else 0.0
    places = torch.arange(after, dtype=torch.float64, device=device)[:, None] * step
    return (1.0 - (places - torch.arange(before, device=device)).abs()).clamp(min=0.0)


def windows(before: int, cells: int, device: torch.device) -> Tensor:
    """(cells, before) float64: each row the mean of its window."""
    cell, place = torch.arange(cells, device=device)[:, None], torch.arange(before, device=device)
    first, last = cell * before // cells, -(-(cell + 1) * before // cells)
    return ((place >= first) & (place < last)) / (last - first).double()
