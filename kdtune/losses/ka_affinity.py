"""L_aff: the cells of the image resemble each other as in an encoding of the teacher's features."""

from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field

from kdtune.base import Confidence, Published
from kdtune.losses.ka import Adaptation

if TYPE_CHECKING:
    from kdtune.base import Loss, SegNet


class KnowledgeAffinity(Adaptation):
    r"""Affinity loss of knowledge adaptation: similarities between cells are those of an encoding of the teacher's.

    .. math::
        L = \mathrm{mean}_N \sqrt{\mathrm{mean}_{i,j} \;
        (\cos(u_i, u_j) - \cos(v_i, v_j))^2}, \qquad u = A f^S, \quad v = E(f^T)

    without unit: the root mean square over all pairs of cells, i = j included, averaged over images. That is the
    Frobenius norm of the difference of two matrices of cosines, each divided by the number of cells. E is learnt before
    the student and then stays, as ``ka_adaptation`` describes it. A is a 3x3 convolution, trained with the student,
    whose map is resized to the encoding's cells before it (bilinear, align_corners=True). Encodings with a side of more
    than ``cells`` cells, adapted and encoded, are averaged over ``cells`` x ``cells`` regions: maps of 65 x 65 cells
    have encodings of 33 x 33, and are not. Networks of any widths and cells can be compared. Ignored pixels are
    included: the labels are not read. Float32 at least.

    With the same fields L_adapt and L_aff come to the same encoder. It is trained once for a teacher, its crops and a
    seed, and kept on the node for all trials (``Loss.made_of_teacher``).

    By a note on the paper: weight 1 on this same norm. The note does not say how the encoder is made, nor whether maps
    are made smaller; torchdistill's code compares channels, which is another term. Our reconstruction.

    Source: He et al. 2019, arXiv:1903.04688, affinity distillation; no code of the authors was found.
    """

    symbol: ClassVar[str] = "L_aff"
    source: ClassVar[str] = "He et al. 2019, arXiv:1903.04688, affinity distillation, from a note"
    confidence: ClassVar[Confidence] = "reconstruction"
    published_weight: ClassVar[Published | None] = Published(1.0, "the paper's, by a note on it")

    cells: Annotated[int, Field(ge=2)] = 33  # regions a side

    def build(self, student: "SegNet", teacher: "SegNet | None") -> "Loss":
        """The term with a new adapter, and an encoder that has learnt nothing yet."""
        from kdtune.losses.ka_loss import KnowledgeAffinityLoss

        assert teacher is not None
        return KnowledgeAffinityLoss(self, student.channels[self.tap], teacher.channels[self.tap])
