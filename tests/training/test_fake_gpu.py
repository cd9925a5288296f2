"""A training step on tensors of a GPU that have a shape and a precision, but no values.

Where no GPU is, this finds a tensor that was made on the wrong device, a wait for a value, and a wrong precision. Only
forward runs: autograd asks the driver for the device that it goes back on. Nor is a layout told: which one a
convolution gives is cuDNN's choice.
"""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from kdtune.base import Preprocessing, SegOutput
from kdtune.loading.batches import resample
from kdtune.loading.windows import Windows
from kdtune.losses import LOSSES
from kdtune.study.trial_config import TrialConfig
from kdtune.training.evaluation import autocast
from tests.support.tiny import NETWORK, config

GPU = torch.device("cuda")


@pytest.fixture(autouse=True)
def _autocast_without_a_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    """It asks for one, and else does nothing."""
    monkeypatch.setattr(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)


class OnHost(TorchDispatchMode):
    """What gives a tensor of the host. A look at a value is an error: there is none."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        devices = {each.device.type for each in tree_leaves(made) if isinstance(each, Tensor)}
        self.names += [func.overloadpacket.__name__] * ("cpu" in devices)
        return made


def moved(network: nn.Module, mode: FakeTensorMode) -> nn.Module:
    """As ``to(device, memory_format=channels_last)`` does: what is no parameter or buffer stays where it is."""

    def fake(tensor: Tensor) -> Tensor:
        layout = torch.channels_last if tensor.ndim == 4 else torch.preserve_format
        return mode.from_tensor(tensor).detach().to(GPU, memory_format=layout)

    for module in network.modules():
        for name, each in module.named_parameters(recurse=False):
            module._parameters[name] = nn.Parameter(fake(each), requires_grad=each.requires_grad)
        for name, each in module.named_buffers(recurse=False):
            module._buffers[name] = fake(each)
    return network


def windows() -> Windows:
    """Of a batch of two crops of 64 x 96."""

    def both(dtype: torch.dtype) -> Iterator[Tensor]:
        return (torch.zeros(2, length, dtype=dtype, device=GPU) for length in (64, 96))

    images = torch.zeros(2, 70, 80, 3, dtype=torch.uint8, device=GPU)
    return Windows(images, images[..., 0], *both(torch.float32), *both(torch.int64), *both(torch.bool))


def step(which: TrialConfig, seen: OnHost) -> tuple[SegOutput, dict[str, Tensor], Tensor]:
    """The student's output, the values of all terms and their sum."""
    classes, taps = which.dataset.num_classes, frozenset({"psp"})
    student, teacher = which.student.build(classes), which.student.build(classes).eval().requires_grad_(False)
    terms = {name: term.build(student, teacher) for name, term in which.active_losses.items()}
    for term in which.active_losses.values():
        taps |= term.taps | term.teacher_taps
    with FakeTensorMode() as mode:
        for each in (student, teacher, *terms.values()):
            moved(each, mode)
        given = windows()
        with seen:
            batch = resample(given)
            image = batch.image(Preprocessing()).to(memory_format=torch.channels_last)
            with autocast(which.recipe, GPU):
                ours = student(image, taps)
                with torch.no_grad():
                    theirs = teacher(image, taps)
            values = {name: term(ours, theirs, batch.target) for name, term in terms.items()}
            weights = {name: term.weight for name, term in which.active_losses.items()}
            total = torch.stack([weights[name] * value for name, value in values.items()]).sum()
    return ours, values, total


@pytest.mark.parametrize(("term", "bf16"), [*((name, True) for name in LOSSES.table), ("pi", False)])
def test_all_of_a_step_is_on_the_gpu(term: str, bf16: bool) -> None:
    taught = {"teacher": {"model": NETWORK, "checkpoint": "none"}}
    kind = LOSSES.resolve(term)
    fields = {"weight": 0.5} | ({"acknowledge_patent": True} if kind.patent else {})
    extra = {} if term == "ce" else taught | {f"losses.{term}": fields}
    seen = OnHost()
    ours, values, total = step(config(extra | {"recipe.bf16": bf16}), seen)
    assert {*seen.names} <= (
        {"rand"} if kind.draws else set()
    )  # its own generator is on the host, and copied without a wait
    assert {*values} == {"ce", term}
    for value in (*values.values(), total, ours.logits, ours.aux):
        assert isinstance(value, Tensor)
        assert (value.device.type, value.dtype) == ("cuda", torch.float32)
    assert {value.shape for value in (*values.values(), total)} == {()}
    for tap, features in ours.taps.items():
        wanted = torch.bfloat16 if bf16 and tap != "aux" else torch.float32
        assert (tap, features.dtype) == (tap, wanted)


def test_a_tensor_of_the_host_is_found() -> None:
    """One that a term makes there, and one that it holds and that does not move with it."""

    class Held(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weights = torch.ones(3)

        def forward(self, source: Tensor) -> Tensor:
            return (source * self.weights).sum()

    with FakeTensorMode() as mode:
        source = torch.zeros(2, 3, device=GPU)
        with OnHost() as seen:
            torch.zeros(3).to(GPU) * source
        assert "zeros" in seen.names
    held = Held()
    with mode, pytest.raises(Exception, match="FakeTensor"):
        moved(held, mode)(source)
