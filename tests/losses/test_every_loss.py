"""What every registered loss term promises, whatever it computes."""

import dataclasses
import io
import itertools
from collections.abc import Iterator
from typing import get_args

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from kdtune.base import IGNORE, Confidence, Drawing, Loss, LossTerm, SegNet, SegOutput, Tap
from kdtune.losses import LOSSES

CLASSES = 3
SMALL = {"batches": 2, "sampled": 64}  # fields that cost time and change no promise
every_loss = pytest.mark.parametrize("name", LOSSES.table)


class SmallNet(SegNet):
    """One convolution to the features, one to the logits."""

    def __init__(self, width: int, stride: int, classes: int = CLASSES) -> None:
        super().__init__()
        self.num_classes = classes
        self.channels = {**dict.fromkeys(("layer1", "layer2", "layer3", "layer4", "psp"), width), "aux": classes}
        self.backbone = nn.Conv2d(3, width, kernel_size=3, stride=stride, padding=1)
        self.classifier = nn.Conv2d(width, classes, kernel_size=1)
        self.auxiliary = nn.Conv2d(width, classes, kernel_size=1)

    def forward(self, image: torch.Tensor, taps: frozenset[Tap] = frozenset()) -> SegOutput:
        """The classifier reads ``psp``; each layer is the same map, bent in its own way."""
        feature = torch.tanh(self.backbone(image))
        logits, aux = self.classifier(feature), self.auxiliary(feature)
        layers = {f"layer{number}": feature + number * feature.square() for number in (1, 2, 3, 4)}
        made: dict[str, Tensor] = {**layers, "psp": feature, "aux": aux}
        return SegOutput(logits, taps={tap: made[tap] for tap in taps}, aux=aux)

    def after(self, tap: Tap, feature: Tensor) -> Tensor:
        """The classifier."""
        assert tap == "psp"
        logits: Tensor = self.classifier(feature)
        return logits


class Scene:
    """A student, a teacher, a batch of three and what both make of it; the same for the same arguments."""

    def __init__(self, name: str, teacher_stride: int = 8, classes: int = CLASSES) -> None:
        torch.manual_seed(0)
        self.term_class: type[LossTerm] = LOSSES.resolve(name)
        self.term = self.term_class.plain(**{k: v for k, v in SMALL.items() if k in self.term_class.model_fields})
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
            seen = self.teacher(self.image, self.term.teacher_taps) if self.term.needs_teacher else None
        loss.before_training(itertools.repeat((seen, self.target)))
        return loss

    def outputs(self, image: torch.Tensor | None = None) -> tuple[SegOutput, SegOutput]:
        """Of student and teacher, both with a graph: a term must not lean on the caller's no_grad."""
        image = self.image if image is None else image
        return self.student(image, self.term.taps), self.teacher(image, self.term.teacher_taps)

    def value(self) -> torch.Tensor:
        """Of a newly built term."""
        value: torch.Tensor = self.build()(*self.outputs(), self.target)
        return value

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


@every_loss
def test_says_what_it_is(name: str) -> None:
    """A symbol, a source, and a docstring with the formula and where it comes from."""
    term = LOSSES.resolve(name)
    assert term.symbol.startswith("L_")
    assert term.source
    assert "confidence" in vars(term)
    assert term.confidence in get_args(Confidence)
    assert ("our reconstruction" in " ".join(term.__doc__.lower().split())) == (term.confidence == "reconstruction")
    assert "Source:" in term.__doc__
    assert ".. math::" in term.__doc__


@every_loss
def test_declares_what_it_uses(name: str) -> None:
    """Only declared labels matter, a teacher that is not needed may be absent, and what is owned is said."""
    scene = Scene(name)
    seen = [scene.second_value(target) for target in (scene.target, scene.target.flip((1, 2)))]
    assert torch.equal(*seen) != scene.term.needs_labels
    if not scene.term.needs_teacher:
        assert scene.term.teacher_taps == frozenset()
        alone: torch.Tensor = scene.term.build(scene.student, None)(scene.outputs()[0], None, scene.target)
        assert torch.equal(alone, scene.value())
    taps = {"tap": "psp"} if "tap" in scene.term_class.model_fields else {}
    owning = scene.term_class.plain(**taps).build(scene.student, scene.teacher)
    assert bool([*owning.parameters(), *owning.buffers()]) == bool(scene.term.owns)
    assert isinstance(owning, Drawing) == scene.term.draws
    networks = {id(p) for network in (scene.student, scene.teacher) for p in network.parameters()}
    assert not networks & {id(p) for p in owning.parameters()}, "what it reads of a network is not its own"


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
    """The images of a batch in another order give the same value, unless something is drawn for each."""
    scene = Scene(name)
    if scene.term.draws:
        pytest.skip("it draws")
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
def test_draws_from_its_own_generator(name: str) -> None:
    """Once it is built: neither another term's draws nor dropout's change, nor do they change its own."""
    scene = Scene(name)
    loss, (student, teacher) = scene.build(), scene.outputs()
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    value: Tensor = loss(student, teacher, scene.target)
    loss.after_step(student, teacher, scene.target, 0.0)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.testing.assert_close(value, scene.value(), rtol=0, atol=0)


@every_loss
@pytest.mark.parametrize("images", [1, 2])
def test_an_image_without_any_label(name: str, images: int) -> None:
    """Alone in its batch, or beside one that has labels."""
    scene = Scene(name)
    scene.show(torch.randn(images, 3, 65, 65))
    scene.target[-1] = IGNORE
    loss, (student, teacher) = scene.build(), scene.outputs()
    value: Tensor = loss(student, teacher, scene.target)
    (value + 0 * student.logits.sum()).backward()
    loss.after_step(student, teacher, scene.target, 0.0)
    assert torch.isfinite(value)
    assert all(torch.isfinite(p.grad).all() for p in scene.student.parameters() if p.grad is not None)


@every_loss
@pytest.mark.parametrize("cells", [(65, 65), (60, 60), (33, 47)], ids=str)
def test_maps_of_any_size(name: str, cells: tuple[int, int]) -> None:
    scene = Scene(name, teacher_stride=16)
    scene.show(torch.randn(1, 3, 8 * cells[0] - 7, 8 * cells[1] - 7))
    student, teacher = scene.outputs()
    assert student.logits.shape[2:] == cells
    value: Tensor = scene.build()(student, teacher, scene.target)
    value.backward()
    assert torch.isfinite(value)
    grad = scene.student.backbone.weight.grad
    assert grad is not None
    assert 0 < grad.abs().max() < float("inf")


@every_loss
def test_150_classes(name: str) -> None:
    """Most of which are in no image."""
    scene = Scene(name, classes=150)
    value = scene.value()
    value.backward()
    assert torch.isfinite(value)
    grad = scene.student.backbone.weight.grad
    assert grad is not None
    assert 0 < grad.abs().max() < float("inf")


@pytest.fixture
def on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeTensorMode]:
    """Tensors without values whose device is a GPU: one that is made elsewhere, or waited for, is an error.

    Without a GPU there is no autograd engine for it, so that no gradient is computed.
    """
    monkeypatch.setattr(torch.autograd, "backward", lambda *args, **kwargs: None)
    monkeypatch.setattr(torch.Tensor, "backward", lambda *args, **kwargs: None)
    monkeypatch.setattr(torch.autograd, "grad", lambda outputs, inputs, **kwargs: (torch.zeros_like(inputs),))
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    yield FakeTensorMode()
    torch.__future__.set_overwrite_module_params_on_conversion(False)


@every_loss
def test_on_a_gpu(name: str, on_a_gpu: FakeTensorMode) -> None:
    """A step on maps in bfloat16: every tensor is made where it is needed, and none is waited for."""
    scene = Scene(name, teacher_stride=16)
    parts = scene.student, scene.teacher, scene.build()

    def moved(tensor: Tensor) -> Tensor:
        return tensor if isinstance(tensor, FakeTensor) else on_a_gpu.from_tensor(tensor).to("cuda")

    with on_a_gpu:
        for part in parts:
            part._apply(moved)
        student, teacher = (to(output, torch.bfloat16) for output in scene.outputs(moved(scene.image)))
        target = moved(scene.target)
        value: Tensor = parts[2](student, teacher, target)
        parts[2].after_step(student, teacher, target, 0.5)
    assert (value.device.type, value.dtype, value.shape) == ("cuda", torch.float32, ())


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


@every_loss
def test_a_patent_is_acknowledged(name: str) -> None:
    term = LOSSES.resolve(name)
    assert ("acknowledge_patent" in term.model_fields) == bool(term.patent)
    if term.patent:
        with pytest.raises(ValueError, match="acknowledge_patent: true"):
            term(weight=1.0)
