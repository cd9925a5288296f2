"""What a built network and a built loss term are: classes on torch's modules, to be had from ``kdtune.base``."""

from collections.abc import Callable, Iterator
from contextlib import nullcontext

import torch
from torch import Tensor, nn

from kdtune.base import LossTerm, SegOutput, Tap


class SegNet(nn.Module):
    """A segmentation network. ``forward(image (N, 3, H, W), taps)`` keeps only the feature maps in ``taps``."""

    num_classes: int
    channels: dict[str, int]  # tap -> its number of channels
    classifier: nn.Conv2d  # the last 1x1 convolution, features -> logits
    backbone: nn.Module  # what pre-training initialises

    def forward(self, image: Tensor, taps: frozenset[Tap] = frozenset()) -> SegOutput:
        """Logits and the wanted taps of a batch of normalised images."""
        raise TypeError(f"{type(self).__name__} has no forward")

    def __call__(self, image: Tensor, taps: frozenset[Tap] = frozenset()) -> SegOutput:
        """Typed ``nn.Module.__call__``."""
        output: SegOutput = super().__call__(image, taps)
        return output


class Loss(nn.Module):
    """A built loss term, as the training loop sees it.

    What it owns is in its state dict, and so in the trial's checkpoint: modules and buffers (a queue, a running mean)
    by themselves, an optimiser or a generator through ``get_extra_state``. What it owns moves with it.
    """

    def before_training(self, batches: Iterator[tuple[SegOutput | None, Tensor]]) -> None:
        """What happens once, before the first step, e.g. the training of an auto-encoder on the teacher's maps.

        ``batches`` are those of the training, in its order, each made when it is taken: the teacher's output (none
        without a teacher) and the target. A resumed trial has the result in its checkpoint.
        """

    def forward(self, student: SegOutput, teacher: SegOutput | None, target: Tensor) -> Tensor:
        """The unweighted term, a scalar. ``target`` (N, H, W) int64 holds class indices or ``IGNORE``."""
        raise TypeError(f"{type(self).__name__} has no forward")

    def trained_with_student(self) -> list[nn.Parameter]:
        """Parameters for the student's optimiser, e.g. of a 1x1 adapter."""
        return list(self.parameters())

    def after_step(self, student: SegOutput, teacher: SegOutput | None, target: Tensor, progress: float) -> None:
        """What happens after the student's step, e.g. a critic's own. ``progress``: share of steps done, 0 to 1."""


class Stateless(Loss):
    """A term that owns nothing."""

    def __init__(self, term: LossTerm) -> None:
        super().__init__()
        self.term = term

    def forward(self, student: SegOutput, teacher: SegOutput | None, target: Tensor) -> Tensor:
        """See ``LossTerm.__call__``."""
        return self.term(student, teacher, target)


def precisely(classifier: Callable[[Tensor], Tensor], features: Tensor) -> Tensor:
    """Logits in float32 at least: bfloat16 rounds those of 16 and more by 0.06, in the losses and before the argmax."""
    device = features.device.type
    with torch.autocast(device, enabled=False) if torch.amp.is_autocast_available(device) else nullcontext():
        return classifier(features.to(torch.promote_types(features.dtype, torch.float32)))
