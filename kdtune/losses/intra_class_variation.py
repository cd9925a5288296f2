"""L_IFV: features spread around the centre of their class as they do in the teacher."""

from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from kdtune.base import LossTerm, SegOutput, Tap, align, at_least_float32

EPS = 1e-8  # the least length that a cosine divides by


class IntraClassVariation(LossTerm):
    r"""Intra-class feature variation: each cell is as similar to the centre of its class as in the teacher.

    .. math::
        L = \mathrm{mean}_{N,h,w} \; (M^T - M^S)^2, \qquad M_i = \cos(f_i, \mu_{y_i}), \qquad
        \mu_c = \frac{\sum_{y_i = c} f_i}{|\{i: y_i = c\}| + 10^{-6}}

    without unit, on the features after the pyramid module. Labels are resized to the cells by nearest.
    Centres are taken per image and class (not over the batch), and the gradient flows through them. An
    ignored cell is its own centre: it contributes 0 but stays in the divisor, so the value is the mean over
    labelled cells times their share. Student and teacher may differ in channels. Centres and cosines are
    computed in float32 at least.

    ``convention``: only ``ifvd`` is published. IFVD's script has weight 200 on this mean, CIRKD's
    re-implementation 20.

    Source: Wang et al. 2020, ECCV, "Intra-class Feature Variation Distillation for Semantic Segmentation";
    Niemann et al. 2023, arXiv:2309.03659, prints no equation; code: IFVD's and CIRKD's ``CriterionIFV``.
    """

    symbol: ClassVar[str] = "L_IFV"
    source: ClassVar[str] = "Wang et al. 2020, ECCV, as in its code (CriterionIFV)"
    needs_labels: ClassVar[bool] = True
    taps: ClassVar[frozenset[Tap]] = frozenset({"psp"})

    convention: Literal["ifvd"] = "ifvd"

    def __call__(self, student: SegOutput, teacher: SegOutput | None, target: Tensor) -> Tensor:
        """See the class."""
        assert teacher is not None
        from_student, classes = student.taps["psp"], student.logits.shape[1]  # (N, C, h, w)
        with torch.autocast(from_student.device.type, enabled=False):  # it would multiply matrices in bfloat16
            from_student, from_teacher = at_least_float32(from_student, teacher.taps["psp"].detach())
            from_teacher = align(from_teacher, from_student)  # (N, C_T, h, w)
            labels = _labels(target, from_student, classes)
            difference = _to_centre(from_teacher, labels, classes) - _to_centre(from_student, labels, classes)
            return difference.square().mean()


def _labels(target: Tensor, like: Tensor, classes: int) -> Tensor:
    """Labels (N, P) of the cells of ``like``; ``classes`` where the cell is ignored."""
    labels = F.interpolate(target[:, None].float(), size=like.shape[-2:], mode="nearest")  # (N, 1, h, w)
    return labels.flatten(1).long().clamp(max=classes)


def _to_centre(feature: Tensor, labels: Tensor, classes: int) -> Tensor:
    """The cosine (N, P) of each cell with the centre of its class in its image; of an ignored one with itself."""
    feature = feature.flatten(2)  # (N, C, P)
    total: Tensor = _SumByClass.apply(feature, labels, classes + 1)  # (N, C, K + 1)
    # The centre is the total over the count, which the cosine does not see but for its least length: what runs over
    # all classes is the norm alone.
    count = _sum_by_class(torch.ones_like(feature[:, :1]), labels, classes + 1) + 1e-6  # (N, 1, K + 1)
    norm = torch.maximum(torch.linalg.vector_norm(total, dim=1, keepdim=True), EPS * count)
    length = torch.linalg.vector_norm(feature, dim=1)  # (N, P)
    product = (feature * _AtCells.apply(total, labels)).sum(dim=1)  # (N, P)
    cosine = product / (length.clamp(min=EPS) * _AtCells.apply(norm, labels)[:, 0])
    with_itself = (length / length.clamp(min=EPS)).square()  # 1, or 0 where nothing is active
    return torch.where(labels == classes, with_itself, cosine)


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
    if cells.is_cuda:
        return _sum_by_product(cells, labels, bins)
    index = labels[:, None].expand_as(cells)  # not copied
    return cells.new_zeros(*cells.shape[:2], bins).scatter_add_(2, index, cells)


def _sum_by_product(cells: Tensor, labels: Tensor, bins: int) -> Tensor:
    """For a GPU, whose scatter_add is not the same twice and waits where few classes hold most cells."""
    member = labels[:, :, None] == torch.arange(bins, device=labels.device)  # (N, P, bins)
    return cells @ member.to(cells.dtype)
