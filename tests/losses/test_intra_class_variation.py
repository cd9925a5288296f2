"""L_IFV: by hand, what ignored cells do, and against IFVD's and CIRKD's code."""

import pytest
import torch

from kdtune.base import IGNORE, SegOutput
from kdtune.losses.class_centres import _sum_by_class, _sum_by_product
from kdtune.losses.intra_class_variation import IntraClassVariation
from tests.support.golden import Case, cases


def value_of(student: torch.Tensor, teacher: torch.Tensor, target: torch.Tensor, num_classes: int) -> torch.Tensor:
    """The term on these features; of the logits only the number of classes is read."""
    outputs = [
        SegOutput(feature.new_zeros(len(feature), num_classes, *feature.shape[-2:]), taps={"psp": feature})
        for feature in (student, teacher)
    ]
    return IntraClassVariation(weight=1)(*outputs, target)


def test_by_hand() -> None:
    """One class of two cells: alike in the teacher, at right angles in the student."""
    student = torch.tensor([[1.0, 0.0], [0.0, 1.0]]).reshape(1, 2, 1, 2)
    teacher = torch.tensor([[2.0, 2.0]]).reshape(1, 1, 1, 2)
    value = value_of(student, teacher, torch.zeros(1, 1, 2, dtype=torch.long), 3)
    assert value.item() == pytest.approx((1 - 0.5**0.5) ** 2, rel=1e-5)


def test_ignored_cells_stay_in_the_divisor() -> None:
    """Two ignored cells more: the sum is the same, the mean half."""
    student, teacher = torch.randn(1, 4, 1, 4), torch.randn(1, 6, 1, 4)
    target = torch.tensor([[[1, 1, IGNORE, IGNORE]]])
    labelled = value_of(student[..., :2], teacher[..., :2], target[..., :2], 2)
    assert value_of(student, teacher, target, 2).item() == pytest.approx(labelled.item() / 2, rel=1e-5)


def test_centres_are_per_image() -> None:
    """A second image with the same class does not move the first one's centre."""
    student, teacher = torch.randn(2, 4, 3, 3), torch.randn(2, 4, 3, 3)
    target = torch.randint(0, 2, (2, 3, 3))
    alone = [value_of(student[i : i + 1], teacher[i : i + 1], target[i : i + 1], 2).item() for i in range(2)]
    assert value_of(student, teacher, target, 2).item() == pytest.approx(sum(alone) / 2, rel=1e-5)


def test_gradcheck() -> None:
    """The gradient is that of the value, through the centres, with ignored cells and a coarser teacher."""
    student = torch.randn(2, 3, 4, 4, dtype=torch.float64, requires_grad=True)
    teacher = torch.randn(2, 5, 2, 2, dtype=torch.float64)
    target = torch.randint(0, 3, (2, 9, 9))
    target[:, :3] = IGNORE
    assert torch.autograd.gradcheck(lambda f: value_of(f, teacher, target, 3), student)


def test_a_cell_without_any_activity() -> None:
    """Zeros have no direction: 0 to their centre, and to themselves where ignored; the gradient is finite."""
    student, teacher = torch.randn(1, 3, 2, 2), torch.randn(1, 3, 2, 2)
    student[..., 0] = 0
    student.requires_grad_(True)
    value = value_of(student, teacher, torch.tensor([[[0, 0], [IGNORE, IGNORE]]]), 2)
    value.backward()
    assert value.isfinite()
    assert student.grad is not None
    assert student.grad.isfinite().all()
    ignored = value_of(student, teacher, torch.full((1, 2, 2), IGNORE), 2)
    assert ignored.item() == pytest.approx(2 / 4)  # the two cells of zeros


@pytest.mark.parametrize("classes", [19, 150])
def test_sums_of_a_gpu_are_those_of_a_processor(classes: int) -> None:
    """Two ways to the same sums, each told by a loop over the classes."""
    cells, labels = torch.randn(2, 5, 40), torch.randint(0, classes + 1, (2, 40))
    expected = torch.stack([(cells * (labels == k)[:, None]).sum(2) for k in range(classes + 1)], dim=2)
    for way in (_sum_by_class, _sum_by_product):
        torch.testing.assert_close(way(cells, labels, classes + 1), expected)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_the_same_to_the_last_bit_on_a_gpu() -> None:
    """Value and gradient, five times over: no sum is taken in an order of its own."""
    target = torch.randint(0, 19, (4, 128, 128), device="cuda")
    student, teacher = (torch.randn(4, width, 65, 65, device="cuda") for width in (128, 512))
    student.requires_grad_(True)
    runs = [torch.autograd.grad(value_of(student, teacher, target, 19), student)[0] for _ in range(5)]
    assert all(torch.equal(run, runs[0]) for run in runs)


@pytest.mark.parametrize("case", cases("ifvd_ifv", "cirkd_ifv"))
def test_parity(case: Case) -> None:
    """IFVD's and CIRKD's CriterionIFV."""
    student = case.input("feat_S", grad=True)
    value = value_of(student, case.input("feat_T"), case.input("labels"), case.args["classes"])
    value.backward()
    case.check(value)
    case.check_grad(student, "feat_S")
