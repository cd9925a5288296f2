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
    label's size first (bilinear, align_corners=True); with ``upsample: false`` the labels are resized to the student's
    cells by nearest in its place, and the teacher's logits bilinearly. Of two classes that the teacher holds for equal,
    either is right. Ignored pixels count nowhere; a batch of nothing else gives 0. Equal networks do not give 0, but
    the teacher's entropy. Where the teacher is wrong this is L_CE again: its weight changes that term's too. Float32 at
    least.

    No weight is known; whether the authors blend the two targets could not be read: our reconstruction from the
    abstract. The patent that L_CSC names is of the same authors.

    Source: Park and Heo 2020, Sensors 20(16):4616, adaptive cross-entropy; no code was found.
    """

    symbol: ClassVar[str] = "L_ACE"
    source: ClassVar[str] = "Park and Heo 2020, Sensors 20(16):4616, adaptive cross-entropy, from the abstract"
    confidence: ClassVar[Confidence] = "reconstruction"
    needs_labels: ClassVar[bool] = True

    upsample: bool = True

    def __call__(self, student: SegOutput, teacher: SegOutput | None, target: "Tensor") -> "Tensor":
        """See the class."""
        import torch.nn.functional as F

        assert teacher is not None
        from_student, from_teacher = at_least_float32(student.logits, teacher.logits.detach())  # (N, K, h, w)
        if self.upsample:
            from_student = align(from_student, target)
        else:
            target = F.interpolate(target[:, None].float(), size=from_student.shape[-2:], mode="nearest")[:, 0].long()
        from_teacher = align(from_teacher, from_student)
        labelled = (target != IGNORE)[:, None]  # (N, 1, H, W)
        goal = _goal(from_teacher, target[:, None].where(labelled, 0), labelled)
        return -(goal * from_student.log_softmax(dim=1)).sum() / labelled.sum().clamp(min=1)


def _goal(teacher: "Tensor", label: "Tensor", labelled: "Tensor") -> "Tensor":
    """The targets (N, K, H, W), 0 where nothing is labelled. One tensor: at this size memory is what takes time."""
    right = teacher.gather(1, label) == teacher.amax(dim=1, keepdim=True)  # argmax takes longer than a softmax
    goal = teacher.softmax(dim=1).mul_(right & labelled)
    return goal.scatter_(1, label, goal.gather(1, label).where(right, labelled.to(goal.dtype)))
