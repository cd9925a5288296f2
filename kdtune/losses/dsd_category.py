"""L_CSD: classes lie near each other in the image as they do in the teacher."""

from typing import TYPE_CHECKING, ClassVar

from pydantic import PositiveFloat, PositiveInt

from kdtune.base import Confidence, LossTerm, Published, SegOutput
from kdtune.losses.side_by_side import side_by_side

if TYPE_CHECKING:
    from torch import Tensor


class CategorySimilarity(LossTerm):
    r"""Category-wise similarity of double similarity distillation: how much two classes share cells copies the teacher.

    .. math::
        L = \mathrm{mean}_{N,c,k} \; (G^S_{ck} - G^T_{ck})^2, \qquad G_{ck} = \sum_i \phi_{c,i} \phi_{k,i}, \qquad
        \phi_{c,i} = \frac{e^{x_{c,i} / \tau}}{\sum_j e^{x_{c,j} / \tau}}

    without unit: averaged over images and all K x K pairs of classes, c = k included. x are the logits, averaged over
    windows of ``pool`` x ``pool`` cells (a last partial window over the cells it has). The entries are of the order of
    1 / cells, so that the value is tiny: look at its gradient. The teacher's logits are resized to the student's cells
    first (bilinear, align_corners=True). Ignored pixels are included: the labels are not read. Float32 at least.

    CIRKD's script: weight 10 on this mean, and L_PSD beside it.

    Source: Feng et al. 2021, arXiv:2107.08591, category-wise similarity; code: CIRKD's ``CriterionDoubleSimKD``.
    """

    symbol: ClassVar[str] = "L_CSD"
    source: ClassVar[str] = "Feng et al. 2021, arXiv:2107.08591, category-wise similarity, as in CIRKD's code"
    confidence: ClassVar[Confidence] = "code"
    published_weight: ClassVar[Published | None] = Published(10.0, "CIRKD's script")

    temperature: PositiveFloat = 4.0  # tau
    pool: PositiveInt = 2  # [cells] side of a window

    def __call__(self, student: SegOutput, teacher: SegOutput | None, target: "Tensor") -> "Tensor":
        """See the class."""
        import torch
        import torch.nn.functional as F

        assert teacher is not None
        with torch.autocast(student.logits.device.type, enabled=False):  # it would multiply matrices in bfloat16
            from_student, from_teacher = side_by_side(student.logits, teacher.logits)
            return F.mse_loss(self._shared(from_student), self._shared(from_teacher))

    def _shared(self, logits: "Tensor") -> "Tensor":
        """(N, K, h, w) to (N, K, K)."""
        import torch.nn.functional as F

        pooled = F.avg_pool2d(logits, self.pool, ceil_mode=True)
        spread = (pooled.flatten(2) / self.temperature).softmax(dim=2)  # (N, K, P)
        return spread @ spread.mT
