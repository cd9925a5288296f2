"""L_LSKD: each cell copies the teacher's class distribution, once both logits have mean 0 and deviation 1."""

from typing import TYPE_CHECKING, ClassVar

from pydantic import PositiveFloat

from kdtune.base import Confidence, LossTerm, Published, SegOutput
from kdtune.losses.side_by_side import side_by_side

if TYPE_CHECKING:
    from torch import Tensor

EPS = 1e-7  # added to a deviation


class StandardisedLogits(LossTerm):
    r"""Logit standardisation: L_PI on logits that have, in each cell, mean 0 and deviation 1 over the classes.

    .. math::
        L = \tau^2 \; \mathrm{mean}_{N,h,w} \; \mathrm{KL}(\sigma(s(z_T) / \tau) \,\|\, \sigma(s(z_S) / \tau)), \qquad
        s(z) = \frac{z - \mathrm{mean}_c \, z}{\mathrm{std}_c \, z + 10^{-7}}

    in nats: summed over the K classes, averaged over cells and images, at the student's own stride. std divides by
    K - 1. How sure the two are is not compared, only in which order and at which relative distances they hold the
    classes: the student's logits times any positive number give the same value. The teacher's are resized to the
    student's cells (bilinear, align_corners=True). Ignored pixels are included: the labels are not read. Float32 at
    least.

    The authors' scripts are for classification: weight 9, tau 2 (3 for some pairs).

    Source: Sun et al. 2024, arXiv:2403.01427; code: its ``kd_loss``, here over the classes of each cell.
    """

    symbol: ClassVar[str] = "L_LSKD"
    source: ClassVar[str] = "Sun et al. 2024, arXiv:2403.01427, as in its code, per cell"
    confidence: ClassVar[Confidence] = "code"
    published_weight: ClassVar[Published | None] = Published(9.0, "its scripts, of classification, at temperature 2")

    temperature: PositiveFloat = 2.0  # tau

    def __call__(self, student: SegOutput, teacher: SegOutput | None, target: "Tensor") -> "Tensor":
        """See the class."""
        import torch.nn.functional as F

        assert teacher is not None
        maps = side_by_side(student.logits, teacher.logits)  # (N, K, h, w)
        log_student, log_teacher = (F.log_softmax(_standardised(z) / self.temperature, dim=1) for z in maps)
        divergence = F.kl_div(log_student, log_teacher, log_target=True, reduction="sum")
        return self.temperature**2 * divergence / log_student[:, 0].numel()


def _standardised(logits: "Tensor") -> "Tensor":
    centred = logits - logits.mean(dim=1, keepdim=True)
    variance = centred.square().sum(dim=1, keepdim=True) / (logits.shape[1] - 1)
    return centred / (variance.clamp(min=EPS**2).sqrt() + EPS)  # the root of 0 has no slope
