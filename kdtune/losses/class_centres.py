"""Centres of classes in the features of an image, and how similar each cell is to that of its class."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kdtune import resize

EPS = 1e-8  # the least length that a cosine divides by


def labels_of(target: Tensor, like: Tensor, classes: int) -> Tensor:
    """Labels (N, P) of the cells of ``like``; ``classes`` where the cell is ignored."""
    labels = F.interpolate(target[:, None].float(), size=like.shape[-2:], mode="nearest")  # (N, 1, h, w)
    return labels.flatten(1).long().clamp(max=classes)


def centres(feature: Tensor, labels: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """The mean (N, C, K) of each class's cells, 0 where it has none, and their number (N, K); ignored ones are none."""
    feature = feature.flatten(2)  # (N, C, P)
    total: Tensor = _SumByClass.apply(feature, labels, classes + 1)  # (N, C, K + 1)
    count = _sum_by_class(torch.ones_like(feature[:, :1]), labels, classes + 1)[:, 0, :classes]  # (N, K)
    return total[..., :classes] / count[:, None].clamp(min=1), count


def to_centre(feature: Tensor, labels: Tensor, classes: int) -> Tensor:
    """The cosine (N, P) of each cell with the centre of its class in its image; of an ignored one with itself."""
    feature = feature.flatten(2)  # (N, C, P)
    total: Tensor = _SumByClass.apply(feature, labels, classes + 1)  # (N, C, K + 1)
    # The centre is the total over the count, which the cosine does not see but for its least length: what runs over
    # all classes is the norm alone.
    count = _sum_by_class(torch.ones_like(feature[:, :1]), labels, classes + 1) + 1e-6  # (N, 1, K + 1)
    norm = torch.maximum(torch.linalg.vector_norm(total, dim=1, keepdim=True), EPS * count)
    length = torch.linalg.vector_norm(feature, dim=1)  # (N, P)
    product = (feature * at_cells(total, labels)).sum(dim=1)  # (N, P)
    cosine = product / (length.clamp(min=EPS) * at_cells(norm, labels)[:, 0])
    with_itself = (length / length.clamp(min=EPS)).square()  # 1, or 0 where nothing is active
    return torch.where(labels == classes, with_itself, cosine)


def at_cells(rows: Tensor, labels: Tensor) -> Tensor:
    """The row of each cell's class, (N, C, bins) to (N, C, P); its gradient is the same each time, on a GPU too."""
    found: Tensor = _AtCells.apply(rows, labels)
    return found


class _SumByClass(torch.autograd.Function):
    """Sums of the cells (N, C, P) of each class, (N, C, bins): a pass over the cells, however many classes there are.

    Its gradient is a look-up: autograd of the same in torch's own operations would keep and copy more.
    """

    @staticmethod
    def forward(ctx: Any, cells: Tensor, labels: Tensor, bins: int) -> Tensor:
        ctx.save_for_backward(labels)
        return _sum_by_class(cells, labels, bins)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (labels,) = ctx.saved_tensors
        return _at_cells(grad, labels), None, None


class _AtCells(torch.autograd.Function):
    """The row of each cell's class, (N, C, bins) to (N, C, P); its gradient is the sum of the cells of each class."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, labels: Tensor) -> Tensor:
        ctx.save_for_backward(labels)
        ctx.bins = rows.shape[2]
        return _at_cells(rows, labels)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (labels,) = ctx.saved_tensors
        return _sum_by_class(grad, labels, ctx.bins), None


def _at_cells(rows: Tensor, labels: Tensor) -> Tensor:
    return rows.gather(2, labels[:, None].expand(-1, rows.shape[1], -1))


def _sum_by_class(cells: Tensor, labels: Tensor, bins: int) -> Tensor:
    if cells.device.type in resize.UNORDERED:
        return _sum_by_product(cells, labels, bins)
    index = labels[:, None].expand_as(cells)  # not copied
    return cells.new_zeros(*cells.shape[:2], bins).scatter_add_(2, index, cells)


def _sum_by_product(cells: Tensor, labels: Tensor, bins: int) -> Tensor:
    """For a GPU, whose scatter_add is not the same twice and waits where few classes hold most cells."""
    member = labels[:, :, None] == torch.arange(bins, device=labels.device)  # (N, P, bins)
    return cells @ member.to(cells.dtype)
