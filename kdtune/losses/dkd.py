"""L_DKD: the teacher's share of the label's class, and apart from it how it divides the rest."""

from typing import TYPE_CHECKING, ClassVar

from pydantic import NonNegativeFloat, PositiveFloat

from kdtune.base import Confidence, LossTerm, Published, SegOutput
from kdtune.losses.side_by_side import side_by_side

if TYPE_CHECKING:
    from torch import Tensor

LEFT_OUT = -1e4  # the logit of a class that a softmax is to leave out: its share is 0, and nothing is infinite


class Decoupled(LossTerm):
    r"""Decoupled distillation: each labelled cell copies the teacher's sureness, and how it spreads the rest.

    .. math::
        L = \tau^2 \; \mathrm{mean}_{i: y_i \neq \mathrm{ignored}} \; \left(
        \alpha \, \mathrm{KL}(b^T_i \,\|\, b^S_i) + \beta \, \mathrm{KL}(r^T_i \,\|\, r^S_i) \right)

    in nats. With p the softmax of z / tau over the K classes, b is p at the label's class and all else together, two
    numbers; r is the softmax over the K - 1 other classes alone. (KL of p itself would weigh the second part by the
    teacher's share of the other classes, small where it is sure.) Averaged over the labelled cells of the batch, so an
    image with few of them counts less; ignored cells count nowhere, and a batch of nothing else gives 0. Labels are
    resized to the student's cells by nearest, the teacher's logits bilinearly (align_corners=True). Float32 at least.

    A re-implementation for segmentation has weight 1, alpha 1, beta 2, tau 1, and 0.4 for the auxiliary heads (not
    here). The authors' scripts for classification have beta 8 (2 for some pairs) and tau 4.

    Source: Zhao et al. 2022, arXiv:2203.08679, eq. 7; code: ``DKD`` of the segmentation code of GDKD, per cell.
    """

    symbol: ClassVar[str] = "L_DKD"
    source: ClassVar[str] = "Zhao et al. 2022, arXiv:2203.08679, eq. 7, per cell as in GDKD's segmentation code"
    confidence: ClassVar[Confidence] = "code"
    published_weight: ClassVar[Published | None] = Published(1.0, "GDKD's segmentation script, alpha 1, beta 2")
    needs_labels: ClassVar[bool] = True

    alpha: NonNegativeFloat = 1.0  # of the label's class against the rest
    beta: NonNegativeFloat = 2.0  # of the rest
    temperature: PositiveFloat = 1.0  # tau

    def __call__(self, student: SegOutput, teacher: SegOutput | None, target: "Tensor") -> "Tensor":
        """See the class."""
        import torch

        from kdtune.losses.class_centres import labels_of

        assert teacher is not None
        from_student, from_teacher = side_by_side(student.logits, teacher.logits)  # (N, K, h, w)
        classes = from_student.shape[1]
        labels = labels_of(target, from_student, classes)[:, None]  # (N, 1, P), K where ignored
        its_class = labels == torch.arange(classes, device=labels.device)[None, :, None]  # (N, K, P)
        parts = [_decoupled(z.flatten(2) / self.temperature, its_class) for z in (from_student, from_teacher)]
        sureness, rest = (_divergence(ours, theirs) for ours, theirs in zip(*parts, strict=True))  # (N, P)
        each = torch.where(labels[:, 0] < classes, self.alpha * sureness + self.beta * rest, 0.0)
        return self.temperature**2 * each.sum() / (labels < classes).sum().clamp(min=1)


def _decoupled(logits: "Tensor", its_class: "Tensor") -> "tuple[Tensor, Tensor]":
    """Of logits (N, K, P), in logs: the label's class and all else (N, 2, P); the other classes alone (N, K, P)."""
    import torch

    others = logits.masked_fill(its_class, LEFT_OUT)
    rest = others.logsumexp(dim=1)
    own = (logits * its_class).sum(dim=1)
    return torch.stack([own, rest], dim=1).log_softmax(dim=1), others.log_softmax(dim=1)


def _divergence(student: "Tensor", teacher: "Tensor") -> "Tensor":
    return (teacher.exp() * (teacher - student)).sum(dim=1)
