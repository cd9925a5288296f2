"""L_adapt and L_aff as torch computes them."""

import itertools
from collections.abc import Iterator
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdtune.base import Loss, SegOutput, align, at_least_float32
from kdtune.losses.ka import Adaptation
from kdtune.losses.ka_adaptation import KnowledgeAdaptation
from kdtune.losses.ka_affinity import KnowledgeAffinity
from kdtune.losses.relations import cosines

ENCODER = {*Adaptation.model_fields} - {"weight"}  # what it depends on
Batches = Iterator[tuple[SegOutput | None, Tensor]]


class AdaptationLoss(Loss):
    """An encoder of the teacher's features, and a place for an adapter of the student's."""

    adapter: nn.Module

    def __init__(self, term: Adaptation, teacher_width: int) -> None:
        super().__init__()
        self.term = term
        self.widths = teacher_width, max(1, round(term.compression * teacher_width))
        self.encoder = Autoencoder(*self.widths).encoder
        self.encoder.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> Self:
        """The encoder keeps the statistics that it was trained with."""
        super().train(mode)
        self.encoder.eval()
        return self

    def trained_with_student(self) -> list[nn.Parameter]:
        """The adapter."""
        return list(self.adapter.parameters())

    def before_training(self, batches: Batches) -> None:
        """Trains the encoder, from a new start: before this stage the trial's seed is set for each term."""
        learner = Autoencoder(*self.widths).to(next(self.encoder.parameters()))
        learn(learner, (seen.taps[self.term.tap] for seen, _ in batches if seen is not None), self.term)
        self.encoder.load_state_dict(learner.encoder.state_dict())

    def made_of_teacher(self) -> tuple[str, dict[str, Tensor]]:
        """The encoder, the same for both terms."""
        return f"ka of all batches {self.term.model_dump_json(include=ENCODER)}", self.encoder.state_dict()

    def forward(self, student: SegOutput, teacher: SegOutput | None, target: Tensor) -> Tensor:
        """See the term."""
        assert teacher is not None
        from_student, from_teacher = student.taps[self.term.tap], teacher.taps[self.term.tap].detach()
        with torch.autocast(from_student.device.type, enabled=False):
            from_student, from_teacher = at_least_float32(from_student, from_teacher)
            encoded: Tensor = self.encoder(from_teacher)  # (N, W, h', w')
            return self.compared(self.adapter(align(from_student, encoded)), encoded)

    def compared(self, adapted: Tensor, encoded: Tensor) -> Tensor:
        """The term for two maps of one shape."""
        raise TypeError(f"{type(self).__name__} has no compared")


class KnowledgeAdaptationLoss(AdaptationLoss):
    """L_adapt."""

    def __init__(self, term: KnowledgeAdaptation, student_width: int, teacher_width: int) -> None:
        super().__init__(term, teacher_width)
        self.adapter = nn.Sequential(*normalised(nn.Conv2d(student_width, self.widths[1], 3, padding=1, bias=False)))

    def compared(self, adapted: Tensor, encoded: Tensor) -> Tensor:
        """See ``KnowledgeAdaptation``."""
        ours, theirs = (F.normalize(each, dim=1, eps=1e-12) for each in (adapted, encoded))
        return (ours - theirs).abs().sum(dim=1).mean()


class KnowledgeAffinityLoss(AdaptationLoss):
    """L_aff."""

    term: KnowledgeAffinity

    def __init__(self, term: KnowledgeAffinity, student_width: int, teacher_width: int) -> None:
        super().__init__(term, teacher_width)
        self.adapter = nn.Conv2d(student_width, self.widths[1], 3, padding=1)

    def compared(self, adapted: Tensor, encoded: Tensor) -> Tensor:
        """See ``KnowledgeAffinity``."""
        ours, theirs = (cosines(each, self.term.cells) for each in (adapted, encoded))  # (N, M, M)
        # The norm has a slope of 0 where nothing differs; the root of a mean has none.
        norm: Tensor = torch.linalg.vector_norm(ours - theirs, dim=(1, 2))  # (N,)
        return norm.mean() / ours.shape[1]


class Autoencoder(nn.Module):
    """Three convolutions down to ``width`` channels and half the cells, three back."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        first = nn.Conv2d(inputs, width, 3, stride=2, padding=1, bias=False)
        more = [nn.Conv2d(width, width, 3, padding=1, bias=False) for _ in range(2)]
        back = [nn.ConvTranspose2d(width, width, 3, padding=1, bias=False) for _ in range(2)]
        self.encoder = nn.Sequential(*itertools.chain.from_iterable(map(normalised, [first, *more])))
        self.decoder = nn.Sequential(*itertools.chain.from_iterable(map(normalised, back)))
        self.last = nn.ConvTranspose2d(width, inputs, 3, stride=2, padding=1)

    def forward(self, feature: Tensor) -> tuple[Tensor, Tensor]:
        """The encoding (N, W, h / 2, w / 2), rounded up, and what is made of it (N, C, h, w)."""
        encoded = self.encoder(feature)
        return encoded, self.last(self.decoder(encoded), output_size=list(feature.shape[-2:]))


def normalised(convolution: nn.Conv2d | nn.ConvTranspose2d) -> list[nn.Module]:
    """A layer: without batch norm a rate of 0.1 does not converge."""
    return [convolution, nn.BatchNorm2d(convolution.out_channels), nn.ReLU(inplace=True)]


def learn(learner: Autoencoder, features: Iterator[Tensor], term: Adaptation) -> None:
    """Trains ``learner`` on the teacher's maps (N, C, h, w)."""
    sgd = torch.optim.SGD(learner.parameters(), lr=term.encoder_lr, momentum=0.9, weight_decay=1e-4)
    for feature in itertools.islice(features, term.batches):
        feature = feature.to(learner.last.weight.dtype)
        encoded, decoded = learner(feature)
        sgd.zero_grad()
        torch.autograd.backward(F.mse_loss(decoded, feature) + term.sparsity * encoded.sum() / len(encoded))
        sgd.step()
