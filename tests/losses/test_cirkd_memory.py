"""L_mem-p and L_mem-r: against CIRKD's code, against loops, and what the memories hold."""

from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from kdtune.base import IGNORE, SegOutput
from kdtune.losses.cirkd_memory_loss import MemoryLoss, PixelMemoryLoss, RegionMemoryLoss, unit_cells
from kdtune.losses.cirkd_memory_pixel import PixelMemory
from kdtune.losses.cirkd_memory_region import RegionMemory
from kdtune.losses.class_centres import labels_of
from tests.support.golden import Case, cases, close
from tests.support.random_maps import labels, maps

HEAD = {"0.weight", "1.weight", "1.bias", "3.weight"}


def pixels(widths: tuple[int, int], classes: int, **fields: Any) -> PixelMemoryLoss:
    torch.manual_seed(0)
    return PixelMemoryLoss(PixelMemory(weight=1, **fields), *widths, classes).double()


def regions(widths: tuple[int, int], classes: int, **fields: Any) -> RegionMemoryLoss:
    torch.manual_seed(0)
    return RegionMemoryLoss(RegionMemory(weight=1, **fields), *widths, classes).double()


def load(term: MemoryLoss, case: Case, name: str) -> None:
    """CIRKD's projection and queue."""
    state = {key.removeprefix("state."): torch.from_numpy(value) for key, value in case.arrays.items()}
    with torch.no_grad():
        for key, value in term.projection.state_dict().items():
            value.copy_(state[f"project_head.{key}"])
        term.rows.copy_(state[f"teacher_{name}_queue"])
        term.oldest.copy_(state[f"{name}_queue_ptr"])


def check(term: MemoryLoss, case: Case, name: str, places: str) -> None:
    """The queue after the step, the value and its gradients."""
    close(term.rows, case.out(f"after.teacher_{name}_queue"))
    assert torch.equal(term.oldest, case.out(f"after.{name}_queue_ptr").long())
    student, target = case.input("feat_S", grad=True), case.input("labels")
    loss = "loss_pixel" if name == "pixel" else "loss_region"
    theirs = unit_cells(case.input("feat_T"))
    value = term.compared(student, theirs, labels_of(target, student, len(term.rows)), case.input(places))
    value.backward()
    case.check(value, loss)
    case.check_grad(student, "feat_S", loss=loss)
    gradients = dict(term.projection.named_parameters())
    assert gradients.keys() == HEAD
    for key, parameter in gradients.items():
        assert parameter.grad is not None
        close(parameter.grad, torch.from_numpy(case.arrays[f"gradparam.{loss}.project_head.{key}"]).double())


@pytest.mark.parametrize("case", cases("cirkd_memory"))
def test_parity_of_pixels(case: Case) -> None:
    """CIRKD's StudentSegContrast, with its own permutations, which count cells of a class but number the image's."""
    args, feature = case.args, case.input("feat_T")
    widths = args["s_channels"], args["t_channels"]
    term = pixels(widths, args["num_classes"], size=args["pixel_memory_size"], convention="cirkd")
    load(term, case, "pixel")
    drawn = iter(case.input("perm_enqueue").split(case.input("perm_enqueue_len").tolist()))
    for image, label in zip(unit_cells(feature), labels_of(case.input("labels"), feature, 5), strict=True):
        counts = torch.bincount(label, minlength=6)[:5].clamp(max=16)
        chosen = torch.zeros(5, 16, dtype=torch.int64)
        for k, count in enumerate(counts.tolist()):
            chosen[k, :count] = next(drawn)[:16] if count else 0
        term.push(image[chosen], counts, whole=True)
    assert next(drawn, None) is None
    check(term, case, "pixel", "pixel_index")


@pytest.mark.parametrize("case", cases("cirkd_memory"))
def test_parity_of_regions(case: Case) -> None:
    args, feature = case.args, case.input("feat_T")
    term = regions((args["s_channels"], args["t_channels"]), args["num_classes"], size=args["region_memory_size"])
    load(term, case, "segment")
    term.remember(unit_cells(feature), labels_of(case.input("labels"), feature, args["num_classes"]))
    check(term, case, "segment", "region_index")


def test_a_step_against_loops() -> None:
    """All of the small memory is sampled, so that no order counts."""
    term = pixels((2, 4), 3, size=8, per_image=8, sampled=24, temperature=0.5)
    student, teacher, target = maps(2, 2, 4, 5), maps(2, 4, 4, 5, seed=1), labels(2, 4, 5, classes=3)
    outputs = [SegOutput(feature[:, :1], taps={"psp": feature}) for feature in (student, teacher)]
    value: Tensor = term(*outputs, target)
    projected, total, count = term.projection(student).detach(), 0.0, 0
    for n, y, x in torch.cartesian_prod(*(torch.arange(side) for side in target.shape)).tolist():
        if target[n, y, x] == IGNORE:
            continue
        spread = []
        for feature in (projected, teacher):
            cell = feature[n, :, y, x] / feature[n, :, y, x].norm().clamp(min=1e-12)  # ReLU may leave nothing
            spread.append(torch.stack([row @ cell / 0.5 for rows in term.rows for row in rows]).softmax(0))
        total += float((spread[1] * (spread[1] / spread[0]).log()).sum())
        count += 1
    assert value.item() == pytest.approx(total / count, rel=1e-9)


def test_the_memory_holds_cells_of_its_class() -> None:
    """Each cell carries its class and number; the newest enter where the oldest were, round and round."""
    term = pixels((2, 2), 3, size=10, per_image=4)
    seen: list[list[float]] = [[] for _ in range(3)]
    for step in range(7):
        target = labels(2, 4, 5, classes=2 + step % 2, seed=step)  # the last class in every other step
        cells = torch.stack([target.double(), 40.0 * step + torch.arange(40).view(2, 4, 5)], dim=1)
        term.remember(cells.flatten(2).mT, labels_of(target, cells, 3))
        for k in range(3):
            number = sum(min(4, int((label == k).sum())) for label in target)
            seen[k] += [40.0 * step] * number
    for k, history in enumerate(seen):
        assert set(term.rows[k, :, 0].tolist()) == {k}, "random rows are gone, and no other class is there"
        numbers = term.rows[k, :, 1]
        assert len(set(numbers.tolist())) == 10, "no cell twice"
        assert sorted((numbers // 40 * 40).tolist()) == history[-10:]
        assert int(term.oldest[k]) == len(history) % 10


def test_cirkds_cells_are_the_first_of_the_image() -> None:
    """Of a class with 6 cells at the end of the image, some among the image's first 6."""
    label = torch.tensor([0] * 14 + [1] * 6)
    for convention, expected in (("paper", range(14, 20)), ("cirkd", range(6))):
        term = pixels((2, 2), 2, size=10, per_image=4, convention=convention)
        found = set()
        for step in range(20):
            chosen, count = term.chosen(label, maps(20, seed=step).sigmoid())
            assert count.tolist() == [4, 4]
            assert len(set(chosen[1].tolist())) == 4
            found |= set(chosen[1].tolist())
        assert found == set(expected)


def test_memories_are_small_in_a_checkpoint() -> None:
    """Half precision, vectors of length 1, and as many as the study says."""
    for term in (PixelMemory(weight=1, size=50), RegionMemory(weight=1, size=50)):
        loss = (PixelMemoryLoss if isinstance(term, PixelMemory) else RegionMemoryLoss)(term, 2, 6, 3)  # type: ignore[arg-type]
        assert (loss.rows.dtype, loss.rows.shape) == (torch.float16, (3, 50, 6))
        torch.testing.assert_close(loss.rows.float().norm(dim=2), torch.ones(3, 50), rtol=1e-3, atol=0)
    with pytest.raises(ValidationError, match="at least per_image, got size=8, per_image=16"):
        PixelMemory(weight=1, size=8)
