"""L_AT: the student is active where the teacher is."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from kdtune.base import Confidence, Published, SegOutput, at_least_float32, resized
from kdtune.losses.one_tap import OneTap

if TYPE_CHECKING:
    from torch import Tensor


class AttentionTransfer(OneTap):
    r"""Attention transfer: the map of squared activations, as a unit vector over the cells, copies the teacher's.

    .. math::
        L = \mathrm{mean}_{N,h,w} \; (a^S - a^T)^2, \qquad
        a = \frac{q}{\max(\|q\|_2, 10^{-12})}, \qquad q_i = \mathrm{mean}_c \; f_{c,i}^2

    without unit; the norm is over the cells of an image. Because a has length 1, the mean falls with the number of
    cells: at most 2 / (h w). Student and teacher may differ in channels; the teacher's features are resized to the
    student's cells (bilinear, align_corners=True). Ignored pixels are included: the labels are not read. Float32 at
    least.

    CIRKD's script: weight 10000 on this mean, at the feature before the classifier. The paper takes the root of the
    sum of squares in its place, halves its weight, and sums over several layers.

    Source: Zagoruyko and Komodakis 2017, arXiv:1612.03928, activation-based with squares; code: CIRKD's
    ``CriterionAT``.
    """

    symbol: ClassVar[str] = "L_AT"
    source: ClassVar[str] = "Zagoruyko and Komodakis 2017, arXiv:1612.03928, activation-based, as in CIRKD's code"
    confidence: ClassVar[Confidence] = "code"
    published_weight: ClassVar[Published | None] = Published(1e4, "CIRKD's script")
    digested: ClassVar[bool] = True

    def __call__(self, student: SegOutput, teacher: SegOutput | None, target: "Tensor") -> "Tensor":
        """See the class."""
        import torch.nn.functional as F

        from kdtune.losses.attention import attention

        assert teacher is not None
        feature = student.taps[self.tap]
        own = attention(*at_least_float32(feature))
        return F.mse_loss(own, self.of_teacher(teacher, feature.shape[-2:], target))

    def digest(self, teacher: SegOutput, cells: Sequence[int], target: "Tensor") -> "Tensor":
        """The teacher's a, (N, P)."""
        from kdtune.losses.attention import attention

        (feature,) = at_least_float32(teacher.taps[self.tap].detach())
        return attention(resized(feature, cells))
