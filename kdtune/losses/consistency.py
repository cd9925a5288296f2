"""L_C: the logits change from cell to cell as much as the teacher's do."""

from typing import TYPE_CHECKING, ClassVar

from kdtune.base import Confidence, LossTerm, SegOutput
from kdtune.losses.side_by_side import side_by_side

if TYPE_CHECKING:
    from torch import Tensor

STEPS = ((0, 1), (1, 0), (1, 1), (1, -1))  # to four of the 8 neighbours; back, to the others


class Consistency(LossTerm):
    r"""Consistency: how much a cell's logits differ from its neighbours' is what it is in the teacher.

    .. math::
        L = \mathrm{mean}_{N,h,w} \; (C(z^S)_i - C(z^T)_i)^2, \qquad
        C(z)_i = \mathrm{mean}_{j \in \mathcal{N}_8(i)} \; \|z_i - z_j\|_2

    in squared logits: averaged over images and cells. C is large where classes meet and small within them; j runs over
    those of the 8 neighbours that lie on the map, and the norm is over the K classes. An offset per class changes
    nothing. The teacher's logits are resized to the student's cells (bilinear, align_corners=True). Ignored pixels are
    included: the labels are not read. Float32 at least.

    The paper adds it to a term on probabilities, which is L_PI in all but its distance. No weight is known. Whether the
    norm is squared and whether it is of logits or probabilities could not be read: our reconstruction from a note.

    Source: Xie et al. 2018, arXiv:1810.08476, first-order knowledge; no code was found.
    """

    symbol: ClassVar[str] = "L_C"
    source: ClassVar[str] = "Xie et al. 2018, arXiv:1810.08476, first-order knowledge, from a note"
    confidence: ClassVar[Confidence] = "reconstruction"

    def __call__(self, student: SegOutput, teacher: SegOutput | None, target: "Tensor") -> "Tensor":
        """See the class."""
        import torch.nn.functional as F

        assert teacher is not None
        ours, theirs = map(_change, side_by_side(student.logits, teacher.logits))
        return F.mse_loss(ours, theirs)


def _change(logits: "Tensor") -> "Tensor":
    """C of the class's formula, (N, h, w)."""
    import torch

    height, width = logits.shape[-2:]
    total, count = logits.new_zeros(len(logits), height, width), logits.new_zeros(1, height, width)
    for down, right in STEPS:
        if down < height and abs(right) < width:
            here = logits[..., : height - down, max(0, -right) : width - max(0, right)]
            there = logits[..., down:, max(0, right) : width - max(0, -right)]
            distance = torch.linalg.vector_norm(here - there, dim=1)  # (N, h - down, w - |right|)
            total = total + _at_both_ends(distance, down, right)
            count = count + _at_both_ends(torch.ones_like(distance[:1]), down, right)
    return total / count.clamp(min=1)


def _at_both_ends(value: "Tensor", down: int, right: int) -> "Tensor":
    """What is of two cells, ``down`` and ``right`` apart, added at both, (N, h, w)."""
    import torch.nn.functional as F

    left, over = max(0, -right), max(0, right)
    return F.pad(value, (left, over, 0, down)) + F.pad(value, (over, left, down, 0))
