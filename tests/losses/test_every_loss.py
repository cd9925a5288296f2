"""What every registered loss term promises, whatever it computes."""

import dataclasses
import io

import pytest
import torch
from torch import nn

from kdtune.base import IGNORE, Loss, LossTerm, SegNet, SegOutput, Tap
from kdtune.losses import LOSSES

CLASSES = 3
every_loss = pytest.mark.parametrize("name", LOSSES.names())


class SmallNet(SegNet):
    """One convolution to the features, one to the logits."""

    def __init__(self, width: int, stride: int) -> None:
        super().__init__()
        self.num_classes = CLASSES
        self.channels = dict.fromkeys(("layer1", "layer2", "layer3", "layer4", "psp", "aux"), width)
        self.backbone = nn.Conv2d(3, width, kernel_size=3, stride=stride, padding=1)
        self.classifier = nn.Conv2d(width, CLASSES, kernel_size=1)

    def forward(self, image: torch.Tensor, taps: frozenset[Tap] = frozenset()) -> SegOutput:
        """Every tap is the one feature map."""
        feature = torch.tanh(self.backbone(image))
        logits = self.classifier(feature)
        return SegOutput(logits, taps=dict.fromkeys(taps, feature), aux=2 * logits)


class Scene:
    """A student, a teacher, a batch of three and what both make of it; the same for the same arguments."""

    def __init__(self, name: str, teacher_stride: int = 8) -> None:
        torch.manual_seed(0)
        self.term_class: type[LossTerm] = LOSSES.resolve(name)
        self.term = self.term_class(weight=1.0)
        self.student, self.teacher = SmallNet(6, 8), SmallNet(10, teacher_stride)
        self.image = torch.randn(3, 3, 65, 65)  # 9 x 9 cells at stride 8, 5 x 5 at 16
        self.target = torch.randint(0, CLASSES, (3, 65, 65))
        self.target[:, :20] = IGNORE

    def build(self) -> Loss:
        """The term, with the same new parameters each time."""
        torch.manual_seed(1)
        return self.term.build(self.student, self.teacher)

    def outputs(self, image: torch.Tensor | None = None) -> tuple[SegOutput, SegOutput]:
        """Of student and teacher, both with a graph: a term must not lean on the caller's no_grad."""
        image = self.image if image is None else image
        return self.student(image, self.term.taps), self.teacher(image, self.term.teacher_taps)

    def value(self) -> torch.Tensor:
        """Of a newly built term."""
        value: torch.Tensor = self.build()(*self.outputs(), self.target)
        return value


def to(output: SegOutput, dtype: torch.dtype) -> SegOutput:
    """Everything in another precision."""
    taps = {name: tap.to(dtype) for name, tap in output.taps.items()}
    aux = None if output.aux is None else output.aux.to(dtype)
    return dataclasses.replace(output, logits=output.logits.to(dtype), taps=taps, aux=aux)


@every_loss
def test_says_what_it_is(name: str) -> None:
    """A symbol, a source, and a docstring with the formula and where it comes from."""
    term = LOSSES.resolve(name)
    assert term.symbol.startswith("L_")
    assert term.source
    assert "Source:" in term.__doc__
    assert ".. math::" in term.__doc__


@every_loss
def test_declares_what_it_uses(name: str) -> None:
    """Only declared labels matter, a teacher that is not needed may be absent, and what is owned is said."""
    scene = Scene(name)
    relabelled: torch.Tensor = scene.build()(*scene.outputs(), scene.target.flip(2))
    assert torch.equal(relabelled, scene.value()) != scene.term.needs_labels
    if not scene.term.needs_teacher:
        assert scene.term.teacher_taps == frozenset()
        alone: torch.Tensor = scene.term.build(scene.student, None)(scene.outputs()[0], None, scene.target)
        assert torch.equal(alone, scene.value())
    taps = {"tap": "psp"} if "tap" in scene.term_class.model_fields else {}
    owning = scene.term_class(weight=1, **taps).build(scene.student, scene.teacher)
    assert bool(owning.state_dict()) == bool(scene.term.owns)


@every_loss
@pytest.mark.parametrize("teacher_stride", [8, 16])
def test_gradient_reaches_the_student_only(name: str, teacher_stride: int) -> None:
    """A finite scalar that teaches the student and leaves the teacher alone, as fine or half as fine."""
    scene = Scene(name, teacher_stride)
    loss = scene.build()
    value: torch.Tensor = loss(*scene.outputs(), scene.target)
    assert value.shape == ()
    assert torch.isfinite(value)
    value.backward()
    grad = scene.student.backbone.weight.grad
    assert grad is not None
    assert torch.isfinite(grad).all()
    assert grad.abs().max() > 0
    assert all(p.grad is None for p in scene.teacher.parameters())
    trained = {id(p) for p in loss.trained_with_student()}
    for parameter in loss.parameters():  # what the student's optimiser trains gets a gradient, nothing else does
        assert (parameter.grad is not None) == (id(parameter) in trained)


@every_loss
def test_batch_order_is_irrelevant(name: str) -> None:
    """The images of a batch in another order give the same value."""
    scene = Scene(name)
    turned: torch.Tensor = scene.build()(*scene.outputs(scene.image.flip(0)), scene.target.flip(0))
    torch.testing.assert_close(turned, scene.value(), rtol=1e-5, atol=1e-7)


@every_loss
def test_without_any_label(name: str) -> None:
    """A batch of ignored pixels is no reason for a NaN."""
    scene = Scene(name)
    value: torch.Tensor = scene.build()(*scene.outputs(), torch.full_like(scene.target, IGNORE))
    value.backward()
    assert torch.isfinite(value)
    grad = scene.student.backbone.weight.grad
    assert grad is None or torch.isfinite(grad).all()


@every_loss
def test_bfloat16_maps(name: str) -> None:
    """Maps in bfloat16 give a float32 value near the one of float32 maps."""
    scene = Scene(name)
    student, teacher = (to(output, torch.bfloat16) for output in scene.outputs())
    value: torch.Tensor = scene.build()(student, teacher, scene.target)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, scene.value(), rtol=0.03, atol=1e-4)


@every_loss
def test_autocast_changes_nothing(name: str) -> None:
    """Within autocast the term still computes in float32, in its forward and in its own step."""
    scene = Scene(name)
    loss = scene.build()
    student, teacher = scene.outputs()
    with torch.autocast("cpu", torch.bfloat16):
        value: torch.Tensor = loss(student, teacher, scene.target)
        loss.after_step(student, teacher, scene.target, 0.0)
    assert torch.equal(value, scene.value())
    without = scene.build()
    without(student, teacher, scene.target)
    without.after_step(student, teacher, scene.target, 0.0)
    for key, expected in without.state_dict().items():
        if isinstance(expected, torch.Tensor):
            assert torch.equal(loss.state_dict()[key], expected), key


@every_loss
def test_resume_is_exact(name: str) -> None:
    """Saved after a step, read by the weights-only loader: the next steps are the same to the last bit."""
    scene = Scene(name)
    first, second = scene.build(), scene.term.build(scene.student, scene.teacher)
    with torch.no_grad():
        student, teacher = scene.outputs()
    first(student, teacher, scene.target)
    first.after_step(student, teacher, scene.target, 0.0)
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    second.load_state_dict(torch.load(file, weights_only=True))
    for loss in (first, second):
        loss.after_step(student, teacher, scene.target, 0.5)
    expected: torch.Tensor = first(student, teacher, scene.target)
    assert torch.equal(second(student, teacher, scene.target), expected)


@every_loss
def test_config_round_trip(name: str) -> None:
    """A study file's values come back as they were written."""
    term = Scene(name).term
    assert type(term).model_validate(term.model_dump(mode="json")) == term
