"""L_FAKD as torch computes it."""

import torch
import torch.nn.functional as F
from torch import Tensor

from kdtune.base import Loss, SegNet, SegOutput
from kdtune.losses.class_centres import at_cells, centres, labels_of
from kdtune.losses.fakd import FeatureAugmented
from kdtune.losses.side_by_side import side_by_side


class FeatureAugmentedLoss(Loss):
    """L_FAKD with what it knows of the student's classes."""

    count: Tensor  # (K,) cells seen
    mean: Tensor  # (K, C)
    covariance: Tensor  # (K, C, C)
    progress: Tensor  # share of steps done

    def __init__(self, term: FeatureAugmented, student: SegNet) -> None:
        super().__init__()
        self.term = term
        self.networks = (student,)
        classes, width = student.num_classes, student.channels["psp"]
        with torch.no_grad():
            student.after("psp", student.classifier.weight.new_zeros(1, width, 1, 1))  # says so where it cannot
        self.register_buffer("count", torch.zeros(classes, dtype=torch.float64))  # float32 cannot count so far
        self.register_buffer("mean", torch.zeros(classes, width))
        self.register_buffer("covariance", torch.zeros(classes, width, width))
        self.register_buffer("progress", torch.zeros(()))

    def forward(self, student: SegOutput, teacher: SegOutput | None, target: Tensor) -> Tensor:
        """See ``FeatureAugmented``."""
        assert teacher is not None
        tau = self.term.temperature
        with torch.autocast(student.logits.device.type, enabled=False):
            from_student, from_teacher = side_by_side(student.logits, teacher.logits)
            own = from_student.flatten(2) / tau  # (N, K, P)
            log_teacher = F.log_softmax(from_teacher.flatten(2) / tau, dim=2)
            labels = labels_of(target, student.logits, own.shape[1])
            moved = own + at_cells(self._spread().to(own).expand(len(own), -1, -1), labels) / tau**2
            apart = (log_teacher.exp() * (log_teacher - own)).sum(dim=2) + moved.logsumexp(dim=2)  # (N, K)
            return tau**2 * apart.mean()

    def _spread(self) -> Tensor:
        """Half the variance (K, K + 1) of each class's logit, over the classes of cells; 0 for an ignored cell."""
        weight = self.networks[0].classifier.weight.flatten(1).to(self.covariance.dtype)  # (K, C)
        variance = ((weight @ self.covariance) * weight).sum(dim=2).T  # (K, K)
        return F.pad(self.term.strength * self.progress * variance / 2, (0, 1))

    @torch.no_grad()
    def after_step(self, student: SegOutput, teacher: SegOutput | None, target: Tensor, progress: float) -> None:
        """Takes this step's cells into the statistics."""
        feature = student.taps["psp"].detach().to(self.mean.dtype)  # (N, C, h, w)
        classes = len(self.mean)
        with torch.autocast(feature.device.type, enabled=False):
            labels = labels_of(target, feature, classes).flatten()[None]  # (1, cells), as of one image
            cells = feature.flatten(2).transpose(0, 1).flatten(1)[None]  # (1, C, cells)
            mean, count = centres(cells, labels, classes)  # (1, C, K), (1, K)
            centred = (cells - at_cells(F.pad(mean, (0, 1)), labels))[0]  # (C, cells)
            squares = torch.stack([(centred * (labels == k)) @ centred.T for k in range(classes)])
        total = self.count + count[0]
        share = (count[0] / total.clamp(min=1)).to(self.mean.dtype)[:, None]  # (K, 1)
        apart = mean[0].T - self.mean
        within = squares / count[0].clamp(min=1)[:, None, None]
        between = (1 - share)[:, :, None] * apart[:, :, None] * apart[:, None, :]
        self.covariance.add_(share[:, :, None] * (within + between - self.covariance))
        self.mean.add_(share * apart)
        self.count.copy_(total)
        self.progress.fill_(progress)
