"""L_adapt: the student's features become an encoding of the teacher's."""

from typing import TYPE_CHECKING, ClassVar

from kdtune.base import Confidence, Published
from kdtune.losses.ka import Adaptation

if TYPE_CHECKING:
    from kdtune.base import Loss, SegNet


class KnowledgeAdaptation(Adaptation):
    r"""Adaptation loss of knowledge adaptation: each cell points where an encoding of the teacher's features does.

    .. math::
        L = \mathrm{mean}_{N,j} \; \left\| \frac{u_j}{\|u_j\|_2} - \frac{v_j}{\|v_j\|_2} \right\|_1, \qquad
        u = A f^S, \quad v = E(f^T)

    without unit: summed over the channels of the encoding, averaged over images and its cells. E is three 3x3
    convolutions, batch norm and a ReLU after each, to ``compression`` times the teacher's channels; the first has a
    stride of 2. It is trained before the student and then stays, its statistics too: with three transposed convolutions
    D behind it, down mean (f^T - D(E(f^T)))^2 + ``sparsity`` times the sum of an image's encoding, by SGD at
    ``encoder_lr`` with momentum 0.9 and weight decay 1e-4, over ``batches`` batches: those of the training from the
    first on, and as many where it has fewer. A is a 3x3 convolution, batch norm and ReLU, trained with the student,
    whose map is resized to the encoding's cells before it (bilinear, align_corners=True). Networks of any widths and
    cells can be compared. Ignored pixels are included: the labels are not read. Float32 at least.

    With the same fields L_adapt and L_aff come to the same encoder. It is trained once for a teacher, its crops and a
    seed, and kept on the node for all trials (``Loss.made_of_teacher``).

    By a note on the paper: weight 50 on this same mean, one epoch for the encoder at rate 0.1, sparsity 1e-7. Channels,
    strides and norms of the authors' encoder could not be read; torchdistill's code differs from the paper in tap and
    normalisation. Our reconstruction.

    Source: He et al. 2019, arXiv:1903.04688, knowledge translation and adaptation; no code of the authors was found.
    """

    symbol: ClassVar[str] = "L_adapt"
    source: ClassVar[str] = "He et al. 2019, arXiv:1903.04688, knowledge adaptation, from a note"
    confidence: ClassVar[Confidence] = "reconstruction"
    published_weight: ClassVar[Published | None] = Published(50.0, "the paper's, by a note on it")

    def build(self, student: "SegNet", teacher: "SegNet | None") -> "Loss":
        """The term with a new adapter, and an encoder that has learnt nothing yet."""
        from kdtune.losses.ka_loss import KnowledgeAdaptationLoss

        assert teacher is not None
        return KnowledgeAdaptationLoss(self, student.channels[self.tap], teacher.channels[self.tap])
