"""L_PR: the prototypes of the batch's classes point where the teacher's do."""

from typing import TYPE_CHECKING, ClassVar

from kdtune.base import Confidence, Published
from kdtune.losses.apd import Perspective

if TYPE_CHECKING:
    from kdtune.base import Loss, SegNet


class PrototypeAlignment(Perspective):
    r"""Prototype alignment: what the student's adapter makes of a class points where the teacher's does.

    .. math::
        L = \tfrac{1}{2} \; \mathrm{mean}_c \; (1 - \cos(m^S_c, m^T_c)), \qquad
        m_c = \mathrm{mean}_{j: y_j = c} \; \frac{A f_j}{\|A f_j\|}

    without unit, from 0 to 1: averaged over the classes that the batch's cells have; a batch without labels gives 0.
    Labels are resized to the cells by nearest, ignored cells are in no prototype. The teacher's map is resized to the
    student's cells (bilinear, align_corners=True). Float32 at least.

    Both adapters are a 1x1 convolution, ReLU and another, to the teacher's channels. A_S is trained with the student.
    A_T is trained after every step on the same maps, by the cross-entropy of ``scale`` times the cosines of its cells
    with its prototypes, enlarged to the labels (pixels of a class that no cell has do not count), with Adam at
    ``adapter_lr``, betas 0.9 and 0.99, a constant rate. The teacher itself stays as it is.

    Its script: weight 10 on this same mean, and L_AP beside it, with one A_S and one A_T for both; here each term has
    its own.

    Source: Tian et al. 2022, IEEE TPAMI 45(2), prototype alignment; code: its ``CriterionKmeansInterWhole``.
    """

    symbol: ClassVar[str] = "L_PR"
    source: ClassVar[str] = "Tian et al. 2022, IEEE TPAMI 45(2), prototype alignment, as in its code"
    confidence: ClassVar[Confidence] = "code"
    published_weight: ClassVar[Published | None] = Published(10.0, "its script")

    def build(self, student: "SegNet", teacher: "SegNet | None") -> "Loss":
        """The term with new adapters."""
        from kdtune.losses.apd_loss import PrototypeAlignmentLoss

        assert teacher is not None
        return PrototypeAlignmentLoss(self, student.channels[self.tap], teacher.channels[self.tap])
