"""L_SA and L_LC: against loops over regions, and who is taught."""

import itertools

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from kdtune.base import SegOutput
from kdtune.losses.salc_attention import SelfAttention
from kdtune.losses.salc_layerwise import LayerwiseContext
from tests.support.random_maps import NO_LABELS, maps


def attention(student: Tensor, teacher: Tensor, **fields: float) -> Tensor:
    outputs = [SegOutput(feature[:, :1], taps={"psp": feature}) for feature in (student, teacher)]
    return SelfAttention(weight=1, **fields)(*outputs, NO_LABELS)


def regions(feature: Tensor, cells: int) -> list[Tensor]:
    """Unit vectors of one image (C, h, w) whose sides ``cells`` divides."""
    height, width = (side // cells for side in feature.shape[1:])
    corners = itertools.product(range(cells), range(cells))
    means = [feature[:, y * height :, x * width :][:, :height, :width].mean((1, 2)) for y, x in corners]
    return [mean / mean.norm() for mean in means]


def test_attention_against_loops() -> None:
    student, teacher = maps(2, 3, 4, 6), maps(2, 5, 4, 6, seed=1)
    total = 0.0
    for pair in zip(student, teacher, strict=True):
        ours, theirs = (regions(feature, 2) for feature in pair)
        for i in range(4):
            looks = [torch.stack([each[i] @ other / 0.5 for other in each]).softmax(0) for each in (ours, theirs)]
            total += float((looks[1] * (looks[1] / looks[0]).log()).sum()) / 8
    assert attention(student, teacher, cells=2, temperature=0.5).item() == pytest.approx(total, rel=1e-9)


def test_attention_sees_no_size_and_no_names_of_channels() -> None:
    """Equal features cost nothing; nor does another order of the channels, or other sizes; small maps stay whole."""
    student, teacher = maps(2, 3, 4, 6), maps(2, 5, 4, 6, seed=1)
    turned = 3 * teacher.flip(1)
    assert attention(turned, teacher, cells=2).item() == pytest.approx(0, abs=1e-12)
    torch.testing.assert_close(attention(student, turned), attention(student, teacher))
    assert torch.equal(attention(student, teacher, cells=6), attention(student, teacher, cells=60))


def layered(*features: Tensor, cells: int = 2) -> Tensor:
    taps = {f"layer{number}": feature for number, feature in enumerate(features, start=2)}
    return LayerwiseContext(weight=1, layers=tuple(taps), cells=cells)(SegOutput(features[0], taps), None, NO_LABELS)


def test_layers_against_loops() -> None:
    features = [maps(2, width, *size, seed=width) for width, size in ((2, (8, 12)), (3, (4, 6)), (5, (4, 6)))]
    total = 0.0
    for earlier, later in itertools.pairwise(features):
        for pair in zip(earlier, later, strict=True):
            ours, theirs = (regions(feature, 2) for feature in pair)
            for i, j in itertools.product(range(4), range(4)):
                total += float(ours[i] @ ours[j] - theirs[i] @ theirs[j]) ** 2 / 64
    assert layered(*features).item() == pytest.approx(total, rel=1e-9)


def test_only_the_earlier_layer_is_taught() -> None:
    features = [maps(2, 3, 4, 6, seed=seed).requires_grad_(True) for seed in range(3)]
    layered(*features).backward()
    assert features[0].grad is not None
    assert features[1].grad is not None
    assert features[2].grad is None
    assert layered(features[0], 2 * features[0]).item() == pytest.approx(0, abs=1e-20)
    small = layered(maps(2, 3, 8, 8), maps(2, 3, 3, 5), cells=16)
    assert torch.isfinite(small), "maps of other sizes have regions in common"
    for layers, word in (("layer1",), "at least 2"), (("layer1", "layer1"), "twice"):
        with pytest.raises(ValidationError, match=word):
            LayerwiseContext(weight=1, layers=layers)


def test_gradcheck() -> None:
    student, teacher = maps(1, 3, 4, 4).requires_grad_(True), maps(1, 4, 4, 4, seed=1)
    assert torch.autograd.gradcheck(lambda f: attention(f, teacher, cells=2), student)
    assert torch.autograd.gradcheck(lambda f: layered(f, teacher), student)
