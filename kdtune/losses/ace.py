"""L_ACE: each pixel learns from the teacher where the teacher is right, from the label where it is not."""

from typing import TYPE_CHECKING, ClassVar

from kdtune.base import IGNORE, Confidence, LossTerm, SegOutput, align, at_least_float32

if TYPE_CHECKING:
    from torch import Tensor


class AdaptiveCrossEntropy(LossTerm):
    r"""Adaptive cross-entropy: against the teacher's distribution where its class is the label's, else the label.

    .. math::
        L = -\mathrm{mean}_{i: y_i \neq \mathrm{ignored}} \sum_c q_{i,c} \log \sigma(z_S)_{i,c}, \qquad
        q_i = \begin{cases} \sigma(z_T)_i & \arg\max_c z_{T,i,c} = y_i \\ \mathrm{onehot}(y_i) & \text{else} \end{cases}

    in nats: summed over the K classes, averaged over all labelled pixels of the batch. Both logits are enlarged to the
    label's size first (bilinear, align_corners=True); with ``enlarged: false`` the labels are resized to the student's
    cells by nearest in its place, and the teacher's logits bilinearly. Ignored pixels count nowhere; a batch of nothing
    else gives 0. Equal networks do not give 0, but the teacher's entropy. Where the teacher is wrong this is L_CE
    again: its weight changes that term's too. Float32 at least.

    No weight is known; whether the authors blend the two targets could not be read: our reconstruction from the
    abstract. The patent that L_CSC names is of the same authors.

    Source: Park and Heo 2020, Sensors 20(16):4616, adaptive cross-entropy; no code was found.
    """

    symbol: ClassVar[str] = "L_ACE"
    source: ClassVar[str] = "Park and Heo 2020, Sensors 20(16):4616, adaptive cross-entropy, from the abstract"
    confidence: ClassVar[Confidence] = "reconstruction"
    needs_labels: ClassVar[bool] = True

    enlarged: bool = True

    def __call__(self, student: SegOutput, teacher: SegOutput | None, target: "Tensor") -> "Tensor":
        """See the class."""
        import torch
        import torch.nn.functional as F

        assert teacher is not None
        from_student, from_teacher = at_least_float32(student.logits, teacher.logits.detach())  # (N, K, h, w)
        if self.enlarged:
            from_student = align(from_student, target)
        else:
            target = F.interpolate(target[:, None].float(), size=from_student.shape[-2:], mode="nearest")[:, 0].long()
        from_teacher = align(from_teacher, from_student)
        log_student = from_student.log_softmax(dim=1)
        by_teacher = -(from_teacher.softmax(dim=1) * log_student).sum(dim=1)  # (N, H, W)
        by_label = F.nll_loss(log_student, target, ignore_index=IGNORE, reduction="none")
        each = torch.where(from_teacher.argmax(dim=1) == target, by_teacher, by_label)  # 0 where ignored
        return each.sum() / (target != IGNORE).sum().clamp(min=1)
