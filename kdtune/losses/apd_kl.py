"""L_AP: which of the batch's classes a cell resembles, the teacher's way."""

from typing import TYPE_CHECKING, ClassVar

from kdtune.base import Confidence, Published
from kdtune.losses.apd import Perspective

if TYPE_CHECKING:
    from kdtune.base import Loss, SegNet


class PerspectiveKl(Perspective):
    r"""Adaptive perspective distillation: similarities to the prototypes of the batch's classes copy the teacher's.

    .. math::
        L = \mathrm{mean}_{N,h,w} \; \mathrm{KL}(\sigma(u_i) \,\|\, \sigma(s_i)), \qquad
        s_{i,c} = \kappa \cos(A_S f^S_i, m^S_c), \quad
        m^S_c = \mathrm{mean}_{j: y_j = c} \; \frac{A_S f^S_j}{\|A_S f^S_j\|}

    and u with the teacher's features, its adapter A_T and its prototypes; in nats: summed over the classes that the
    batch's cells have, averaged over all cells. A class that no cell has is in neither softmax, and a batch without
    labels gives 0. Labels are resized to the cells by nearest; ignored cells are in no prototype, but are compared. The
    teacher's map is resized to the student's cells (bilinear, align_corners=True). The gradient flows through the
    prototypes into the student and A_S. Float32 at least.

    Both adapters are a 1x1 convolution, ReLU and another, to the teacher's channels. A_S is trained with the student.
    A_T is trained after every step on the same maps, by the cross-entropy of u, enlarged to the labels (pixels of a
    class that no cell has do not count), with Adam at ``adapter_lr``, betas 0.9 and 0.99, a constant rate. The teacher
    itself stays as it is.

    Its script: weight 10 on a mean over the classes of the batch too, which for the 19 of Cityscapes is 0.53 on this
    sum; and L_PR beside it, with one A_S and one A_T for both; here each term has its own. The paper speaks of
    prototypes of an image; its code, and this, take those of the batch.

    Source: Tian et al. 2022, IEEE TPAMI 45(2), adaptive perspective distillation; code: its
    ``CriterionKmeansInterWhole``.
    """

    symbol: ClassVar[str] = "L_AP"
    source: ClassVar[str] = "Tian et al. 2022, IEEE TPAMI 45(2), adaptive perspective, as in its code"
    confidence: ClassVar[Confidence] = "code"
    published_weight: ClassVar[Published | None] = Published(
        10 / 19, "its script's 10 on a mean over the classes of the batch as well, if it has Cityscapes' 19", 10.0
    )

    def build(self, student: "SegNet", teacher: "SegNet | None") -> "Loss":
        """The term with new adapters."""
        from kdtune.losses.apd_loss import PerspectiveKlLoss

        assert teacher is not None
        return PerspectiveKlLoss(self, student.channels[self.tap], teacher.channels[self.tap])
