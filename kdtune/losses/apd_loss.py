"""L_AP and L_PR as torch computes them."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdtune.base import IGNORE, Loss, SegOutput, align
from kdtune.losses.apd import Perspective
from kdtune.losses.class_centres import centres, labels_of
from kdtune.losses.side_by_side import side_by_side

ABSENT = -1e4  # the similarity to a class that is not there: 0 after a softmax, and no NaN before


class PerspectiveLoss(Loss):
    """An adapter on each side; the teacher's is trained apart."""

    def __init__(self, term: Perspective, student_width: int, teacher_width: int) -> None:
        super().__init__()
        self.term = term
        self.student_adapter = adapter(student_width, teacher_width)
        self.teacher_adapter = adapter(teacher_width, teacher_width)
        self.teacher_adapter.requires_grad_(False)  # but for its own step
        self.optimizer = torch.optim.Adam(self.teacher_adapter.parameters(), lr=term.adapter_lr, betas=(0.9, 0.99))

    def trained_with_student(self) -> list[nn.Parameter]:
        """The student's adapter."""
        return list(self.student_adapter.parameters())

    def forward(self, student: SegOutput, teacher: SegOutput | None, target: Tensor) -> Tensor:
        """See the term."""
        assert teacher is not None
        maps = student.taps[self.term.tap], teacher.taps[self.term.tap]
        classes = student.logits.shape[1]
        with torch.autocast(maps[0].device.type, enabled=False):
            from_student, from_teacher = side_by_side(*maps)
            ours = Seen(self.student_adapter(from_student), target, classes)
            theirs = Seen(self.teacher_adapter(from_teacher), target, classes)
            return self.compared(ours, theirs)

    def compared(self, ours: "Seen", theirs: "Seen") -> Tensor:
        """The term for what both adapters see."""
        raise TypeError(f"{type(self).__name__} has no compared")

    def after_step(self, student: SegOutput, teacher: SegOutput | None, target: Tensor, progress: float) -> None:
        """A step of the teacher's adapter."""
        assert teacher is not None
        self.teacher_adapter.requires_grad_(True)
        maps = student.taps[self.term.tap].detach(), teacher.taps[self.term.tap]
        with torch.autocast(maps[0].device.type, enabled=False):
            _, feature = side_by_side(*maps)
            torch.autograd.backward(self.adapters_loss(feature, target, student.logits.shape[1]))
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.teacher_adapter.requires_grad_(False)

    def adapters_loss(self, feature: Tensor, target: Tensor, classes: int) -> Tensor:
        """What the teacher's adapter minimises, for the teacher's ``feature`` (N, C_T, h, w)."""
        seen = Seen(self.teacher_adapter(feature), target, classes)
        there = F.pad(seen.there, (0, 1))  # an ignored pixel's class is not
        target = torch.where(there[target.clamp(max=classes)], target, IGNORE)
        scores = align(seen.scores(self.term.scale), target)  # (N, K, H, W)
        total = F.cross_entropy(scores, target, ignore_index=IGNORE, reduction="none").sum()
        return total / (target != IGNORE).sum().clamp(min=1)

    def get_extra_state(self) -> dict[str, Any]:
        """The optimiser's moments."""
        return {"optimizer": self.optimizer.state_dict()}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """The inverse, once the adapter is on its device."""
        self.optimizer.load_state_dict(state["optimizer"])


class PerspectiveKlLoss(PerspectiveLoss):
    """L_AP."""

    def compared(self, ours: "Seen", theirs: "Seen") -> Tensor:
        """See ``PerspectiveKl``."""
        logs = [seen.scores(self.term.scale).log_softmax(dim=1) for seen in (ours, theirs)]  # (N, K, h, w)
        return F.kl_div(logs[0], logs[1], log_target=True, reduction="sum") / logs[0][:, 0].numel()


class PrototypeAlignmentLoss(PerspectiveLoss):
    """L_PR."""

    def compared(self, ours: "Seen", theirs: "Seen") -> Tensor:
        """See ``PrototypeAlignment``."""
        apart = (1 - (ours.prototypes * theirs.prototypes).sum(dim=0)) * ours.there  # (K,)
        return apart.sum() / (2 * ours.there.sum().clamp(min=1))


class Seen:
    """A batch through an adapter: its cells as unit vectors, and the prototypes of its classes."""

    def __init__(self, feature: Tensor, target: Tensor, classes: int) -> None:
        self.cells = F.normalize(feature, dim=1, eps=1e-12)  # (N, C, h, w)
        labels = labels_of(target, feature, classes).flatten()[None]  # as of one image
        means, count = centres(self.cells.transpose(0, 1).flatten(1)[None], labels, classes)
        self.prototypes = F.normalize(means[0], dim=0, eps=1e-12)  # (C, K)
        self.there = count[0] > 0  # (K,)

    def scores(self, scale: float) -> Tensor:
        """Of each cell with each class (N, K, h, w), ``ABSENT`` where the batch has none."""
        cosine = torch.einsum("ck,nchw->nkhw", self.prototypes, self.cells)
        return (scale * cosine).masked_fill(~self.there[:, None, None], ABSENT)


def adapter(inputs: int, width: int) -> nn.Sequential:
    """Two 1x1 convolutions, ReLU between."""
    return nn.Sequential(nn.Conv2d(inputs, width, 1), nn.ReLU(inplace=True), nn.Conv2d(width, width, 1))
