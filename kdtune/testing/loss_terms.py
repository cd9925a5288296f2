"""What every loss term promises, whatever it computes: tests for pytest, of the fixture ``term``.

A module of tests that says ``from kdtune.testing.loss_terms import *`` and gives that fixture runs them all.
"""

import io
from collections.abc import Iterator
from typing import get_args

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from kdtune.base import IGNORE, Confidence, Drawing, LossTerm
from kdtune.testing.scene import Scene, to


def test_says_what_it_is(term: LossTerm) -> None:
    """A symbol, a source, and a docstring with the formula and where it comes from."""
    doc = type(term).__doc__ or ""
    assert term.symbol.startswith("L_")
    assert term.source
    assert "confidence" in vars(type(term)), "whose formula it is"
    assert term.confidence in get_args(Confidence)
    assert ("our reconstruction" in " ".join(doc.lower().split())) == (term.confidence == "reconstruction")
    assert "Source:" in doc
    assert ".. math::" in doc


def test_declares_what_it_uses(term: LossTerm) -> None:
    """Only declared labels and images matter, a teacher that is not needed may be absent, what is owned is said."""
    scene = Scene(term)
    seen = [scene.second_value(target) for target in (scene.target, scene.target.flip((1, 2)))]
    assert torch.equal(*seen) != scene.term.needs_labels
    if scene.term.needs_image:
        outputs = scene.outputs()
        for output in outputs:
            assert output.image is not None
            output.image = output.image.flip((2, 3))
        turned: Tensor = scene.build()(*outputs, scene.target)
        assert not torch.equal(turned, scene.value())
    if not scene.term.needs_teacher:
        assert scene.term.teacher_taps == frozenset()
        alone: torch.Tensor = scene.term.build(scene.student, None)(scene.outputs()[0], None, scene.target)
        assert torch.equal(alone, scene.value())
    taps = {"tap": "psp"} if "tap" in type(term).model_fields else {}
    owning = term.model_copy(update=taps).build(scene.student, scene.teacher)
    assert bool([*owning.parameters(), *owning.buffers()]) == bool(scene.term.owns)
    assert isinstance(owning, Drawing) == scene.term.draws
    networks = {id(p) for network in (scene.student, scene.teacher) for p in network.parameters()}
    assert not networks & {id(p) for p in owning.parameters()}, "what it reads of a network is not its own"


@pytest.mark.parametrize("teacher_stride", [8, 16])
def test_gradient_reaches_the_student_only(term: LossTerm, teacher_stride: int) -> None:
    """A finite scalar that teaches the student and leaves the teacher alone, as fine or half as fine."""
    scene = Scene(term, teacher_stride)
    loss = scene.build()
    value: torch.Tensor = loss(*scene.outputs(), scene.target)
    assert value.shape == ()
    assert torch.isfinite(value)
    grad = scene.gradient(value)
    assert grad is not None
    assert torch.isfinite(grad).all()
    assert grad.abs().max() > 0
    assert all(p.grad is None for p in scene.teacher.parameters())
    trained = {id(p) for p in loss.trained_with_student()}
    for parameter in loss.parameters():  # what the student's optimiser trains gets a gradient, nothing else does
        assert (parameter.grad is not None) == (id(parameter) in trained)


def test_batch_order_is_irrelevant(term: LossTerm) -> None:
    """The images of a batch in another order give the same value, unless something is drawn for each."""
    scene = Scene(term)
    if scene.term.draws:
        pytest.skip("it draws")
    turned: torch.Tensor = scene.build()(*scene.outputs(scene.image.flip(0)), scene.target.flip(0))
    torch.testing.assert_close(turned, scene.value(), rtol=1e-5, atol=1e-7)


def test_without_any_label(term: LossTerm) -> None:
    """A batch of ignored pixels is no reason for a NaN."""
    scene = Scene(term)
    value: torch.Tensor = scene.build()(*scene.outputs(), torch.full_like(scene.target, IGNORE))
    grad = scene.gradient(value)
    assert torch.isfinite(value)
    assert grad is None or torch.isfinite(grad).all()


def test_draws_from_its_own_generator(term: LossTerm) -> None:
    """Once it is built: neither another term's draws nor dropout's change, nor do they change its own."""
    scene = Scene(term)
    loss, (student, teacher) = scene.build(), scene.outputs()
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    value: Tensor = loss(student, teacher, scene.target)
    loss.after_step(student, teacher, scene.target, 0.0)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.testing.assert_close(value, scene.value(), rtol=0, atol=0)


@pytest.mark.parametrize("images", [1, 2])
def test_an_image_without_any_label(term: LossTerm, images: int) -> None:
    """Alone in its batch, or beside one that has labels."""
    scene = Scene(term)
    scene.show(torch.randn(images, 3, 65, 65))
    scene.target[-1] = IGNORE
    loss, (student, teacher) = scene.build(), scene.outputs()
    value: Tensor = loss(student, teacher, scene.target)
    scene.gradient(value + 0 * student.logits.sum())
    loss.after_step(student, teacher, scene.target, 0.0)
    assert torch.isfinite(value)
    assert all(torch.isfinite(p.grad).all() for p in scene.student.parameters() if p.grad is not None)


@pytest.mark.parametrize("cells", [(65, 65), (60, 60), (33, 47)], ids=str)
def test_maps_of_any_size(term: LossTerm, cells: tuple[int, int]) -> None:
    scene = Scene(term, teacher_stride=16)
    scene.show(torch.randn(1, 3, 8 * cells[0] - 7, 8 * cells[1] - 7))
    student, teacher = scene.outputs()
    assert student.logits.shape[2:] == cells
    value: Tensor = scene.build()(student, teacher, scene.target)
    grad = scene.gradient(value)
    assert torch.isfinite(value)
    assert grad is not None
    assert 0 < grad.abs().max() < float("inf")


def test_150_classes(term: LossTerm) -> None:
    """Most of which are in no image."""
    scene = Scene(term, classes=150)
    value = scene.value()
    grad = scene.gradient(value)
    assert torch.isfinite(value)
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


def test_on_a_gpu(term: LossTerm, on_a_gpu: FakeTensorMode) -> None:
    """A step on maps in bfloat16: every tensor is made where it is needed, and none is waited for."""
    scene = Scene(term, teacher_stride=16)
    parts = scene.student, scene.teacher, scene.build()

    def moved(tensor: Tensor) -> Tensor:
        return tensor if isinstance(tensor, FakeTensor) else on_a_gpu.from_tensor(tensor).to("cuda")

    with on_a_gpu:
        for part in parts:
            part._apply(moved)  # type: ignore[no-untyped-call]
        student, teacher = (to(output, torch.bfloat16) for output in scene.outputs(moved(scene.image)))
        target = moved(scene.target)
        value: Tensor = parts[2](student, teacher, target)
        parts[2].after_step(student, teacher, target, 0.5)
    assert (value.device.type, value.dtype, value.shape) == ("cuda", torch.float32, ())


def test_bfloat16_maps(term: LossTerm) -> None:
    """Maps in bfloat16 give a float32 value near the one of float32 maps."""
    scene = Scene(term)
    student, teacher = (to(output, torch.bfloat16) for output in scene.outputs())
    value: torch.Tensor = scene.build()(student, teacher, scene.target)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, scene.value(), rtol=0.03, atol=1e-4)


def test_autocast_changes_nothing(term: LossTerm) -> None:
    """Within autocast the term still computes in float32, in its forward and in its own step."""
    scene = Scene(term)
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


def test_resume_is_exact(term: LossTerm) -> None:
    """Saved after a step, read by the weights-only loader: the next steps are the same to the last bit."""
    scene = Scene(term)
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


def test_config_round_trip(term: LossTerm) -> None:
    """A study file's values come back as they were written."""
    assert type(term).model_validate(term.model_dump(mode="json")) == term


def test_a_patent_is_acknowledged(term: LossTerm) -> None:
    assert ("acknowledge_patent" in type(term).model_fields) == bool(term.patent)
    if term.patent:
        with pytest.raises(ValueError, match="acknowledge_patent: true"):
            type(term)(weight=1.0)
