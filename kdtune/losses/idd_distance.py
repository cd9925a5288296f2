"""L_ID: the classes of an image are as far from each other as in the teacher."""

from typing import TYPE_CHECKING, ClassVar

from kdtune.base import Confidence, SegOutput
from kdtune.losses.one_tap import OneTap
from kdtune.losses.side_by_side import side_by_side

if TYPE_CHECKING:
    from torch import Tensor


class InterClassDistance(OneTap):
    r"""Inter-class distance: the distances between the classes of an image, as shares of their mean, are the teacher's.

    .. math::
        L = \mathrm{mean}_N \; \mathrm{mean}_{c < k} \; (d^S_{ck} - d^T_{ck})^2, \qquad
        d_{ck} = \frac{\|v_c - v_k\|_2}{\mathrm{mean}_{c < k} \|v_c - v_k\|_2}, \qquad
        v_c = \mathrm{mean}_{i: y_i = c} \; f_i

    without unit: averaged over the pairs of classes that the image has, and over images; an image of fewer than two
    classes has 0 and stays in the divisor. Labels are resized to the cells by nearest, ignored cells belong to no
    class. The division by the mean distance makes networks of any widths comparable without an adapter. The gradient
    flows through it and through the centres. The teacher's features are resized to the student's cells (bilinear,
    align_corners=True). Float32 at least.

    The authors' sum over pairs has no such division, so far as is known; no weight is known. Our reconstruction from a
    note.

    Source: Zhang et al. 2022, arXiv:2205.03650, inter-class distance distillation; no code was found.
    """

    symbol: ClassVar[str] = "L_ID"
    source: ClassVar[str] = "Zhang et al. 2022, arXiv:2205.03650, inter-class distance, from a note"
    confidence: ClassVar[Confidence] = "reconstruction"
    needs_labels: ClassVar[bool] = True

    def __call__(self, student: SegOutput, teacher: SegOutput | None, target: "Tensor") -> "Tensor":
        """See the class."""
        import torch

        from kdtune.losses.class_centres import centres, labels_of

        assert teacher is not None
        maps, classes = (student.taps[self.tap], teacher.taps[self.tap]), student.logits.shape[1]  # (N, C, h, w)
        with torch.autocast(maps[0].device.type, enabled=False):  # it would multiply matrices in bfloat16
            both = side_by_side(*maps)
            labels = labels_of(target, both[0], classes)
            of_both = [centres(f, labels, classes) for f in both]
            ours, theirs = (_distances(centre, count > 0) for centre, count in of_both)
            there = of_both[0][1] > 0  # (N, K)
            pairs = there.sum(dim=1) * (there.sum(dim=1) - 1)  # each pair twice, as in the matrices
            return ((ours - theirs).square().sum(dim=(1, 2)) / pairs.clamp(min=1)).mean()


def _distances(centre: "Tensor", there: "Tensor") -> "Tensor":
    """Centres (N, C, K) to distances (N, K, K) as shares of their mean; 0 where a class is not ``there``."""
    import torch

    pair = there[:, :, None] & there[:, None, :] & ~torch.eye(there.shape[1], dtype=torch.bool, device=there.device)
    # From the middle of the centres, products keep the digits that differences need.
    among = there[:, None, :].to(centre.dtype)  # (N, 1, K)
    middle = (centre * among).sum(dim=2, keepdim=True) / among.sum(dim=2, keepdim=True).clamp(min=1)
    centre = centre - middle
    product = centre.mT @ centre  # (N, K, K)
    square = product.diagonal(dim1=1, dim2=2)
    apart = square[:, :, None] + square[:, None, :] - 2 * product
    distance = torch.where(pair, apart, 1.0).clamp(min=1e-12).sqrt() * pair  # a root of 0 has no slope
    mean = distance.sum(dim=(1, 2), keepdim=True) / pair.sum(dim=(1, 2), keepdim=True).clamp(min=1)
    return distance / mean.clamp(min=1e-6)
