"""L_CE: the network copies the labels."""

from typing import TYPE_CHECKING, ClassVar

from pydantic import NonNegativeFloat

from kdtune.base import IGNORE, Confidence, LossTerm, Published, SegOutput, align

if TYPE_CHECKING:
    from torch import Tensor


class CrossEntropy(LossTerm):
    r"""Cross-entropy against the labels, of the main head and, where there is one, of the auxiliary head.

    .. math:: L = \mathrm{CE}(\mathrm{up}(z), y) + a \; \mathrm{CE}(\mathrm{up}(z_{aux}), y)

    in nats, with a = ``aux_weight``. ``up``: bilinear to the size of the label, align_corners=True. CE: minus
    the log of the softmax over the K classes at the label's class, averaged over all pixels of the batch that
    are not ignored, so an image with few labelled pixels counts less. Ignored pixels count nowhere; a batch
    of nothing else gives 0. The softmax is taken in float32 at least.

    SKD, IFVD and CIRKD compute the same with a = 0.4 and weight 1, so their weights mean what this one means.

    Source: Niemann et al. 2023, arXiv:2309.03659, eq. 2; auxiliary head with 0.4: Zhao et al. 2017,
    arXiv:1612.01105; code: SKD's ``CriterionDSN``.
    """

    symbol: ClassVar[str] = "L_CE"
    source: ClassVar[str] = "Niemann et al. 2023, arXiv:2309.03659, eq. 2"
    confidence: ClassVar[Confidence] = "code"
    published_weight: ClassVar[Published | None] = Published(1.0, "every script")
    task: ClassVar[bool] = True
    needs_teacher: ClassVar[bool] = False
    needs_labels: ClassVar[bool] = True

    aux_weight: NonNegativeFloat = 0.4  # a

    def __call__(self, student: SegOutput, teacher: SegOutput | None, target: "Tensor") -> "Tensor":
        """See the class."""
        loss = _cross_entropy(student.logits, target)
        if student.aux is not None:
            loss = loss + self.aux_weight * _cross_entropy(student.aux, target)
        return loss


def _cross_entropy(logits: "Tensor", target: "Tensor") -> "Tensor":
    import torch
    import torch.nn.functional as F

    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    logits = align(logits, target)  # (N, K, H, W)
    # Summed apart: on a GPU the sum within adds in an order that changes from run to run.
    total = F.cross_entropy(logits, target, ignore_index=IGNORE, reduction="none").sum()
    # Not reduction="mean": that is 0 / 0 where every pixel is ignored.
    return total / (target != IGNORE).sum().clamp(min=1)
