"""Two small networks and a batch of images, on which a loss term is tried."""

import dataclasses
import itertools

import torch
from torch import Tensor, nn

from kdtune.base import IGNORE, Loss, LossTerm, SegNet, SegOutput, Tap

CLASSES = 3


class SmallNet(SegNet):
    """One convolution to the features, one to the logits."""

    def __init__(self, width: int, stride: int, classes: int = CLASSES) -> None:
        super().__init__()
        self.num_classes = classes
        layers = ("stem", "layer1", "layer2", "layer3", "layer4", "psp")
        self.channels = {**dict.fromkeys(layers, width), "logits": classes, "aux": classes}
        self.backbone = nn.Conv2d(3, width, kernel_size=3, stride=stride, padding=1)
        self.classifier = nn.Conv2d(width, classes, kernel_size=1)
        self.auxiliary = nn.Conv2d(width, classes, kernel_size=1)

    def forward(self, image: torch.Tensor, taps: frozenset[Tap] = frozenset()) -> SegOutput:
        """The classifier reads ``psp``; each layer is the same map, bent in its own way."""
        feature = torch.tanh(self.backbone(image))
        logits, aux = self.classifier(feature), self.auxiliary(feature)
        layers = {f"layer{number}": feature + number * feature.square() for number in (1, 2, 3, 4)}
        made: dict[str, Tensor] = {"stem": feature.square(), **layers, "psp": feature, "logits": logits, "aux": aux}
        return SegOutput(logits, taps={tap: made[tap] for tap in taps}, aux=aux)

    def after(self, tap: Tap, feature: Tensor) -> Tensor:
        """The classifier."""
        assert tap == "psp"
        logits: Tensor = self.classifier(feature)
        return logits


class Scene:
    """A student, a teacher, a batch of three and what both make of it; the same for the same arguments."""

    def __init__(self, term: LossTerm, teacher_stride: int = 8, classes: int = CLASSES) -> None:
        torch.manual_seed(0)
        self.term = term
        self.student, self.teacher = SmallNet(6, 8, classes), SmallNet(10, teacher_stride, classes)
        self.show(torch.randn(3, 3, 65, 65))  # 9 x 9 cells at stride 8, 5 x 5 at 16

    def show(self, image: Tensor) -> None:
        """This batch, with labels of all classes and a part without one."""
        self.image = image
        self.target = torch.randint(0, self.student.num_classes, (len(image), *image.shape[2:]))
        self.target[:, :20] = IGNORE

    def build(self) -> Loss:
        """The term, with the same new parameters each time, after its stage before training."""
        torch.manual_seed(1)
        loss = self.term.build(self.student, self.teacher)
        with torch.no_grad():
            seen = self._output(self.teacher, self.image, self.term.teacher_taps) if self.term.needs_teacher else None
        loss.before_training(itertools.repeat((seen, self.target)))
        return loss

    def outputs(self, image: torch.Tensor | None = None) -> tuple[SegOutput, SegOutput]:
        """Of student and teacher, both with a graph: a term must not lean on the caller's no_grad."""
        image = self.image if image is None else image
        taps = self.term.taps, self.term.teacher_taps
        return self._output(self.student, image, taps[0]), self._output(self.teacher, image, taps[1])

    def _output(self, network: SegNet, image: Tensor, taps: frozenset[Tap]) -> SegOutput:
        output = network(image, taps)
        output.image = image.sigmoid() if self.term.needs_image else None
        return output

    def value(self) -> torch.Tensor:
        """Of a newly built term."""
        value: torch.Tensor = self.build()(*self.outputs(), self.target)
        return value

    def gradient(self, value: Tensor) -> Tensor | None:
        """Of the student's first weights; each parameter that the value depends on gets its own."""
        torch.autograd.backward(value)
        weight = self.student.backbone.weight
        assert isinstance(weight, Tensor)
        return weight.grad

    def second_value(self, target: torch.Tensor) -> torch.Tensor:
        """Of a newly built term after a step: what a step has left may be what the labels say."""
        loss, (student, teacher) = self.build(), self.outputs()
        loss(student, teacher, target)
        loss.after_step(student, teacher, target, 0.5)
        value: torch.Tensor = loss(student, teacher, target)
        return value


def to(output: SegOutput, dtype: torch.dtype) -> SegOutput:
    """Everything in another precision."""
    taps = {name: tap.to(dtype) for name, tap in output.taps.items()}
    aux = None if output.aux is None else output.aux.to(dtype)
    return dataclasses.replace(output, logits=output.logits.to(dtype), taps=taps, aux=aux)
