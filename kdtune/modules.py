"""What a built network and a built loss term are: classes on torch's modules, to be had from ``kdtune.base``."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from kdtune.base import LossTerm, SegOutput, Tap, UserError


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

    def own_keys(self, weights: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """The weights of a file under this network's keys, where its package names its parts anew since."""
        return weights

    def after(self, tap: Tap, feature: Tensor) -> Tensor:
        """The logits (N, K, h, w) that the rest of the network makes of ``feature`` in the place of its map at ``tap``.

        It leaves no trace in the network but gradients. In training, batch norm takes the statistics of ``feature``
        and keeps its running ones; dropout is off, for it draws from torch's global generator.

        Raises:
            UserError: what follows ``tap`` cannot be run by itself.
        """
        raise UserError(f"{type(self).__name__} cannot run what follows '{tap}' by itself; take a term that needs none")


@contextmanager
def without_trace(module: nn.Module) -> Iterator[None]:
    """In this block batch norm keeps its running statistics, and dropout is off, stochastic depth too."""
    training = [each for each in module.modules() if each.training]
    norms = [each for each in training if isinstance(each, _BatchNorm) and each.track_running_stats]
    # torchvision's StochasticDepth by its name: importing it takes 150 MB
    dropouts = [each for each in training if isinstance(each, _DropoutNd) or type(each).__name__ == "StochasticDepth"]
    for norm in norms:
        norm.track_running_stats = False  # in training it then takes the batch's statistics and notes nothing
    for dropout in dropouts:
        dropout.training = False
    try:
        yield
    finally:
        for norm in norms:
            norm.track_running_stats = True
        for dropout in dropouts:
            dropout.training = True


class Loss(nn.Module):
    """A built loss term, as the training loop sees it.

    What it owns is in its state dict, and so in the trial's checkpoint: modules and buffers (a queue, a running mean)
    by themselves, an optimiser or a generator through ``get_extra_state``. What it owns moves with it.
    """

    def before_training(self, batches: Iterator[tuple[SegOutput | None, Tensor]]) -> None:
        """What happens once, before the first step, e.g. the training of an auto-encoder on the teacher's maps.

        ``batches`` are those of the training, in its order, each made when it is taken: the teacher's output (none
        without a teacher) and the target. They do not end: take as many as the term needs, also of a training that has
        fewer. The trial's log says how far it is. A trial that is killed here begins it again, and comes to the same;
        one that is resumed later has the result in its checkpoint.
        """

    def made_of_teacher(self) -> tuple[str, dict[str, Tensor]] | None:
        """What ``before_training`` makes of the teacher's outputs and the labels alone, if it makes such a thing.

        The recipe, as a text of all that it depends on beside those, and its tensors. They are kept: another trial with
        the same recipe, teacher, crops and seed has them written into its own in the place of ``before_training``.
        """
        return None

    def forward(self, student: SegOutput, teacher: SegOutput | None, target: Tensor) -> Tensor:
        """The unweighted term, a scalar. ``target`` (N, H, W) int64 holds class indices or ``IGNORE``."""
        raise TypeError(f"{type(self).__name__} has no forward")

    def trained_with_student(self) -> list[nn.Parameter]:
        """Parameters for the student's optimiser, e.g. of a 1x1 adapter."""
        return list(self.parameters())

    def after_step(self, student: SegOutput, teacher: SegOutput | None, target: Tensor, progress: float) -> None:
        """What happens after the student's step, e.g. a critic's own. ``progress``: share of steps done, 0 to 1."""


def own_generator() -> torch.Generator:
    """A new generator, seeded from torch's global one; on the processor, so that every device draws the same."""
    seed = int(torch.randint(2**62, (), device="cpu"))
    return torch.Generator(device="cpu").manual_seed(seed)


class Drawing(Loss):
    """A term that draws: it sets ``self.generator = own_generator()`` when it is built."""

    generator: torch.Generator

    def drawn(self, *size: int, like: Tensor) -> Tensor:
        """Numbers drawn evenly from 0 to 1, 1 not included, in the precision and on the device of ``like``."""
        numbers = torch.rand(size, generator=self.generator, device="cpu", pin_memory=like.is_cuda)
        return numbers.to(like, non_blocking=True)

    def get_extra_state(self) -> dict[str, Any]:
        """Where the generator stands; a term with more to save adds to it."""
        return {"generator": self.generator.get_state()}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """The inverse."""
        self.generator.set_state(state["generator"].cpu())


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
