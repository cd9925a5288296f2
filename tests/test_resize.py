"""Maps enlarged and averaged by products: what torch's own give, and what a GPU is asked to do."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from kdtune import resize
from kdtune.losses import LOSSES
from kdtune.resize import between, by_products, enlarged, pooled, windows
from kdtune.study.trial_config import TrialConfig
from kdtune.training.loop import Run
from tests.support.tiny import NETWORK, config

CPU = torch.device("cpu")
SIZES = [
    ((9, 13), (64, 96)),
    ((65, 65), (512, 512)),
    ((1, 1), (60, 30)),
    ((6, 6), (65, 64)),
    ((12, 7), (5, 3)),
    ((3, 3), (1, 1)),
]
# their backward, or their sum, adds with atomics on a GPU
UNORDERED = (
    "upsample_bilinear2d",
    "_adaptive_avg_pool2d",
    "upsample_nearest2d_backward",
    "bincount",
    "scatter_add",
    "index_add",
)


def exact(source: Tensor, by: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    source = source.clone().requires_grad_(True)
    made = by(source)
    towards = torch.randn(made.shape, generator=torch.Generator().manual_seed(1), dtype=made.dtype)
    (gradient,) = torch.autograd.grad(made, source, towards)
    return made.detach(), gradient


@pytest.mark.parametrize(("before", "after"), SIZES)
def test_enlarged_as_torch_does(before: tuple[int, int], after: tuple[int, int]) -> None:
    source = torch.randn(2, 3, *before, dtype=torch.float64)
    rows, columns = (between(*ends, CPU) for ends in zip(before, after, strict=True))
    ours, theirs = (
        exact(source, by)
        for by in (
            lambda x: by_products(x, rows, columns),
            lambda x: F.interpolate(x, size=after, mode="bilinear", align_corners=True),
        )
    )
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-12, atol=1e-12)
    small = by_products(source.float(), rows, columns)
    torch.testing.assert_close(small, theirs[0].float(), rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("size", [(9, 13), (65, 65), (64, 64), (5, 4), (3, 3)])
@pytest.mark.parametrize("cells", [1, 2, 3, 6])
def test_averaged_as_torch_does(size: tuple[int, int], cells: int) -> None:
    source = torch.randn(2, 3, *size, dtype=torch.float64)
    rows, columns = (windows(length, cells, CPU) for length in size)
    ours = exact(source, lambda x: by_products(x, rows, columns))
    theirs = exact(source, lambda x: F.adaptive_avg_pool2d(x, cells))
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-12, atol=1e-12)


def test_half_precision_and_layout_are_kept_and_the_product_is_not_in_it() -> None:
    source = torch.randn(2, 3, 9, 13, dtype=torch.bfloat16).to(memory_format=torch.channels_last)
    rows, columns = between(9, 64, CPU), between(13, 96, CPU)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        made = by_products(source, rows, columns)
    assert made.dtype == torch.bfloat16
    assert made.is_contiguous(memory_format=torch.channels_last)
    precise = by_products(source.double(), rows, columns)
    assert (made.double() - precise).abs().max() <= 2**-8 * precise.abs().max()  # of the last rounding alone


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_a_single_cell_is_enlarged_in_its_layout(layout: torch.memory_format) -> None:
    """As the pyramid has it, whose parts would else be copied to be of one layout."""
    source = torch.randn(2, 3, 9, 13).to(memory_format=layout)
    cell = by_products(source, windows(9, 1, CPU), windows(13, 1, CPU))
    large = by_products(cell, between(1, 9, CPU), between(1, 13, CPU))
    assert large.is_contiguous(memory_format=layout)
    assert torch.cat([source, large], dim=1).is_contiguous(memory_format=layout)
    torch.testing.assert_close(large, source.mean((2, 3), keepdim=True).expand(-1, -1, 9, 13))


class Operations(TorchDispatchMode):
    """The names of all that is run."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []
        self.reductions: list[int] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        self.names.append(name)
        if name == "nll_loss2d_forward":
            self.reductions.append(args[3])
        return func(*args, **(kwargs or {}))


def step(which: TrialConfig, seen: Operations) -> None:
    """One training step, each term's own step included."""
    classes = which.dataset.num_classes
    student, teacher = which.student.build(classes), which.student.build(classes)
    terms = {name: term.build(student, teacher) for name, term in which.active_losses.items()}
    teacher.eval().requires_grad_(False)
    run = Run(student, terms, which.recipe)
    taps = frozenset().union(*(term.taps | term.teacher_taps for term in which.active_losses.values()))
    image, target = torch.randn(2, 3, 64, 96), torch.zeros(2, 64, 96, dtype=torch.int64)
    with seen:
        ours = student(image, taps)
        with torch.no_grad():
            theirs = teacher(image, taps)
        total = torch.stack([loss(ours, theirs, target) for loss in run.losses.values()]).sum()
        total.backward()
        run.sgd.step()
        for loss in run.losses.values():
            loss.after_step(ours, theirs, target, 0.5)


@pytest.mark.parametrize("term", LOSSES.table)
def test_no_step_adds_in_any_order(term: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU, where these operations add with atomics, forward or backward."""
    monkeypatch.setattr(resize, "UNORDERED", ("cpu", "cuda"))
    taught = {"teacher": {"model": NETWORK, "checkpoint": "none"}}
    extra = {} if term == "ce" else taught | {f"losses.{term}": LOSSES.resolve(term).plain().model_dump()}
    seen = Operations()
    step(config(extra), seen)
    assert not {name for name in seen.names if name.startswith(UNORDERED)}
    assert set(seen.reductions) == {0}  # none: summed after
    assert {"convolution_backward", "nll_loss2d_backward"} <= set(seen.names)


def test_on_a_gpu_they_are_products() -> None:
    seen = Operations()
    with FakeTensorMode(), seen:
        source = torch.randn(2, 3, 9, 13, device="cuda", dtype=torch.bfloat16)
        with torch.autocast("cuda", dtype=torch.bfloat16):
            large, small = enlarged(source, (64, 96)), pooled(source, 6)
    assert (large.shape, small.shape) == ((2, 3, 64, 96), (2, 3, 6, 6))
    assert (large.device.type, large.dtype, small.dtype) == ("cuda", torch.bfloat16, torch.bfloat16)
    assert {"bmm", "mm"} & set(seen.names)
    assert not {name for name in seen.names if name.startswith(UNORDERED)}
    assert "_local_scalar_dense" not in seen.names  # that would wait for the device
