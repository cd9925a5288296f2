"""L_PSD and L_CSD: against CIRKD's code, against loops, and what leaves them unchanged."""

import itertools

import pytest
import torch
from pydantic import ValidationError

from kdtune.base import SegOutput
from kdtune.losses.dsd_category import CategorySimilarity
from kdtune.losses.dsd_pixel import PixelSimilarity
from tests.support.golden import Case, cases
from tests.support.random_maps import NO_LABELS, maps


def outputs(student: list[torch.Tensor], teacher: list[torch.Tensor]) -> list[SegOutput]:
    """Of maps in the order aux, psp, logits."""
    return [SegOutput(logits, taps={"aux": aux, "psp": psp}) for aux, psp, logits in (student, teacher)]


@pytest.mark.parametrize("case", cases("cirkd_dsd"))
def test_parity(case: Case) -> None:
    """CIRKD's CriterionDoubleSimKD, both parts."""
    student = [case.input(f"f{i}_S", grad=True) for i in range(3)]
    made = outputs(student, [case.input(f"f{i}_T") for i in range(3)])
    value = PixelSimilarity(weight=1)(*made, NO_LABELS)
    value.backward()
    case.check(value, "loss_psd")
    for i, feature in enumerate(student):
        case.check_grad(feature, f"f{i}_S", loss="loss_psd")
        feature.grad = None
    value = CategorySimilarity(weight=1)(*made, NO_LABELS)
    value.backward()
    case.check(value, "loss_csd")
    case.check_grad(student[2], "f2_S", loss="loss_csd")


def trio(seed: int, psp: int) -> list[torch.Tensor]:
    return [maps(2, width, 5, 6, seed=seed + i) for i, width in enumerate((4, psp, 4))]


def test_pixel_similarity_against_loops() -> None:
    student, teacher = trio(0, 3), trio(9, 7)
    total = torch.zeros((), dtype=torch.float64)
    for n in range(2):
        for low, high in itertools.combinations(range(3), 2):
            residuals = []
            for features in (student, teacher):
                attention = []
                for feature in (features[low][n], features[high][n]):
                    q = torch.stack([feature[:, y, x].square().mean() for y in range(5) for x in range(6)])
                    attention.append(q / q.norm())
                difference = attention[1] - attention[0]
                residuals.append(difference / difference.norm())
            total += (residuals[0] - residuals[1]).square().mean() / 6
    torch.testing.assert_close(PixelSimilarity(weight=1)(*outputs(student, teacher), NO_LABELS), total)


def test_pixel_similarity_sees_no_sizes() -> None:
    """Layers twice as active give the same value; the teacher's own give 0; two layers can be chosen."""
    student, teacher = trio(0, 3), trio(9, 7)
    larger = [student[0], -2 * student[1], 3 * student[2]]
    values = [PixelSimilarity(weight=1)(*outputs(each, teacher), NO_LABELS) for each in (student, larger, teacher)]
    torch.testing.assert_close(values[1], values[0])
    assert values[2] == 0
    two = PixelSimilarity(weight=1, layers=("layer3", "layer4"))
    assert two.taps == two.teacher_taps == {"layer3", "layer4"}
    for layers, word in (("psp",), "at least 2"), (("psp", "psp"), "twice"):
        with pytest.raises(ValidationError, match=word):
            PixelSimilarity(weight=1, layers=layers)


def test_category_similarity_against_loops() -> None:
    student, teacher = maps(2, 4, 5, 6), maps(2, 4, 5, 6, seed=1)
    total = 0.0
    for n, c, k in itertools.product(range(2), range(4), range(4)):
        shared = []
        for logits in (student, teacher):
            windows = [(y, x) for y in range(0, 5, 2) for x in range(0, 6, 2)]
            of = [[float(logits[n, j, y : y + 2, x : x + 2].mean()) / 4 for y, x in windows] for j in (c, k)]
            spread = [torch.tensor(each, dtype=torch.float64).softmax(0) for each in of]
            shared.append(float((spread[0] * spread[1]).sum()))
        total += (shared[0] - shared[1]) ** 2
    value = CategorySimilarity(weight=1)(SegOutput(student), SegOutput(teacher), NO_LABELS)
    assert value.item() == pytest.approx(total / 32, rel=1e-7)


def test_category_similarity_sees_no_offset_of_a_class() -> None:
    teacher = maps(2, 4, 5, 6)
    value = CategorySimilarity(weight=1)(SegOutput(teacher + maps(2, 4, 1, 1, seed=1)), SegOutput(teacher), NO_LABELS)
    assert value.item() == pytest.approx(0, abs=1e-20)
