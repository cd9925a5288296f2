"""L_str and L_sta: against loops, and what each does not see."""

import pytest
import torch
from torch import Tensor

from kdtune.base import SegOutput
from kdtune.losses.sstkd_statistical import StatisticalTexture
from kdtune.losses.sstkd_structural import StructuralTexture
from kdtune.losses.sstkd_structural_loss import StructuralTextureLoss
from kdtune.resize import between
from tests.support.random_maps import NO_LABELS, maps


def output(feature: Tensor) -> SegOutput:
    return SegOutput(feature[:, :1], taps={"layer1": feature})


def structural(student: Tensor, teacher: Tensor, levels: int = 2) -> tuple[StructuralTextureLoss, Tensor]:
    torch.manual_seed(0)
    config = StructuralTexture(weight=1, levels=levels)
    term = StructuralTextureLoss(config, student.shape[1], teacher.shape[1]).double()
    return term, term(output(student), output(teacher), NO_LABELS)


def bands(feature: Tensor, levels: int) -> list[dict[tuple[int, int, int], float]]:
    """Of one channel (h, w): for each level and direction, the value of each cell."""
    found = []
    for _ in range(levels):
        height, width = feature.shape
        windows = [[feature[y : y + 2, x : x + 2] for x in range(0, width, 2)] for y in range(0, height, 2)]
        lower = torch.stack([torch.stack([window.mean() for window in row]) for row in windows])
        device = torch.device("cpu")
        up = between(lower.shape[0], height, device) @ lower @ between(lower.shape[1], width, device).T
        band = {(y, x): float(feature[y, x] - up[y, x]) for y in range(height) for x in range(width)}
        each = {}
        for number, (down, across) in enumerate(((0, 1), (1, 0), (1, 1), (1, -1))):
            for (y, x), value in band.items():
                ends = band.get((y + down, x + across), 0.0) + band.get((y - down, x - across), 0.0)
                each[number, y, x] = value - ends / 2
        found.append(each)
        feature = lower
    return found


@pytest.mark.parametrize("levels", [1, 2])
def test_structural_texture_against_loops(levels: int) -> None:
    student, teacher = maps(2, 2, 7, 6), maps(2, 3, 7, 6, seed=1)
    term, value = structural(student, teacher, levels)
    adapted = torch.einsum("ts,nshw->nthw", term.state_dict()["adapter.weight"][:, :, 0, 0], student)
    total = 0.0
    for n in range(2):
        for c in range(3):
            for ours, theirs in zip(bands(adapted[n, c], levels), bands(teacher[n, c], levels), strict=True):
                total += sum((ours[key] - theirs[key]) ** 2 for key in ours) / len(ours)
    assert value.item() == pytest.approx(total / (2 * 3 * levels), rel=1e-9)


def test_structural_texture_sees_no_flat_difference() -> None:
    teacher = maps(2, 3, 8, 8)
    flat = torch.full((2, 3, 8, 8), 5.0, dtype=torch.float64)
    assert structural(teacher, teacher)[1] == 0
    assert structural(teacher + flat, teacher)[1] < 1e-20
    assert list(structural(teacher, teacher)[0].parameters()) == []


def statistical(student: Tensor, teacher: Tensor) -> Tensor:
    return StatisticalTexture(weight=1, levels=4, limit=1.2)(output(student), output(teacher), NO_LABELS)


def intensities(feature: Tensor) -> list[float]:
    """Of one image (C, h, w)."""
    cells = feature.flatten(1).T
    mean = cells.mean(0)
    cosines = [float(cell @ mean / (cell.norm() * mean.norm())) for cell in cells]
    places = [3 * (each - min(cosines)) / (max(cosines) - min(cosines)) for each in cosines]
    shares = [[max(0.0, 1 - abs(place - n)) for n in range(4)] for place in places]
    histogram = [sum(share[n] for share in shares) / len(shares) for n in range(4)]
    spare = sum(max(0.0, height - 0.3) for height in histogram)
    assert spare > 0, "something is cut"
    equal = [sum(min(height, 0.3) + spare / 4 for height in histogram[: n + 1]) for n in range(4)]
    return [sum(a * b for a, b in zip(share, equal, strict=True)) for share in shares]


def test_statistical_texture_against_loops() -> None:
    student, teacher = maps(2, 3, 5, 6), maps(2, 4, 5, 6, seed=1)
    pairs = [zip(intensities(a), intensities(b), strict=True) for a, b in zip(student, teacher, strict=True)]
    expected = sum((a - b) ** 2 for pair in pairs for a, b in pair) / 60
    assert statistical(student, teacher).item() == pytest.approx(expected, rel=1e-9)


def test_statistical_texture_sees_no_size_and_no_flat_image() -> None:
    student, teacher = maps(2, 3, 5, 6), maps(2, 4, 5, 6, seed=1)
    torch.testing.assert_close(statistical(3 * student, teacher / 2), statistical(student, teacher))
    assert statistical(teacher, teacher) == 0
    flat = torch.ones(2, 3, 5, 6, dtype=torch.float64, requires_grad=True)
    statistical(flat, teacher).backward()
    assert flat.grad is not None
    assert torch.isfinite(flat.grad).all()


def test_gradcheck() -> None:
    student, teacher = maps(1, 3, 4, 4).requires_grad_(True), maps(1, 4, 4, 4, seed=1)
    assert torch.autograd.gradcheck(lambda f: statistical(f, teacher), student)
    assert torch.autograd.gradcheck(lambda f: structural(f, teacher)[1], student)
