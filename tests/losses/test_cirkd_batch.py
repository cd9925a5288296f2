"""L_batch: against CIRKD's code, against loops with pools, and what one image alone sees."""

import pytest
import torch
from torch import Tensor

from kdtune.base import SegOutput
from kdtune.losses.cirkd_batch import CrossImage
from kdtune.losses.salc_attention import SelfAttention
from tests.support.golden import Case, cases
from tests.support.random_maps import NO_LABELS, maps


def value_of(student: Tensor, teacher: Tensor, pool: int = 1, **fields: float) -> Tensor:
    outputs = [SegOutput(feature[:, :1], taps={"psp": feature}) for feature in (student, teacher)]
    return CrossImage(weight=1, pool=pool, **fields)(*outputs, NO_LABELS)


@pytest.mark.parametrize("case", cases("cirkd_minibatch"))
def test_parity(case: Case) -> None:
    """CIRKD's CriterionMiniBatchCrossImagePair."""
    student = case.input("feat_S", grad=True)
    value = value_of(student, case.input("feat_T"), temperature=case.args["temperature"])
    value.backward()
    case.check(value)
    case.check_grad(student, "feat_S")


def test_against_loops_over_pairs() -> None:
    student, teacher = maps(3, 4, 5, 4), maps(3, 6, 5, 4, seed=1)

    def cells(feature: Tensor) -> list[list[Tensor]]:
        corners = [(y, x) for y in range(0, 5, 2) for x in range(0, 4, 2)]
        means = [[each[:, y : y + 2, x : x + 2].mean((1, 2)) for y, x in corners] for each in feature]
        return [[mean / mean.norm() for mean in image] for image in means]

    total, (ours, theirs) = 0.0, (cells(student), cells(teacher))
    for a in range(3):
        for b in range(3):
            for i in range(6):
                rows = [torch.stack([f[a][i] @ other / 0.3 for other in f[b]]).softmax(0) for f in (ours, theirs)]
                total += float((rows[1] * (rows[1] / rows[0]).log()).sum()) / (9 * 6)
    assert value_of(student, teacher, pool=2, temperature=0.3).item() == pytest.approx(total, rel=1e-9)


def test_one_image_alone_has_only_itself() -> None:
    student, teacher = maps(1, 4, 5, 4), maps(1, 6, 5, 4, seed=1)
    outputs = [SegOutput(feature[:, :1], taps={"psp": feature}) for feature in (student, teacher)]
    torch.testing.assert_close(value_of(student, teacher), SelfAttention(weight=1)(*outputs, NO_LABELS))
    assert value_of(3 * teacher.flip(1), teacher).item() == pytest.approx(0, abs=1e-12)


def test_gradcheck() -> None:
    student, teacher = maps(2, 3, 3, 3).requires_grad_(True), maps(2, 4, 3, 3, seed=1)
    assert torch.autograd.gradcheck(lambda f: value_of(f, teacher, pool=2), student)
