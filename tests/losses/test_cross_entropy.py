"""L_CE: by hand, against SKD's and CIRKD's code, and where nothing is labelled."""

import math

import pytest
import torch

from kdtune.base import IGNORE, SegOutput
from kdtune.losses.cross_entropy import CrossEntropy
from tests.support.golden import Case, cases


def test_by_hand() -> None:
    """Two pixels count, the third is ignored: the mean of log 2 and log 4."""
    logits = torch.tensor([[0.0, math.log(3.0), 9.0], [0.0, 0.0, -9.0]]).reshape(1, 2, 1, 3)
    target = torch.tensor([[[0, 1, IGNORE]]])
    value = CrossEntropy(weight=1)(SegOutput(logits), None, target)
    assert value.item() == pytest.approx((math.log(2) + math.log(4)) / 2, rel=1e-6)


def test_auxiliary_head() -> None:
    """The auxiliary logits count with their weight, and only where there are any."""
    logits, target = torch.zeros(1, 2, 2, 2), torch.zeros(1, 2, 2, dtype=torch.long)
    with_aux = CrossEntropy(weight=1, aux_weight=0.3)(SegOutput(logits, aux=logits), None, target)
    without = CrossEntropy(weight=1)(SegOutput(logits), None, target)
    assert with_aux.item() == pytest.approx(1.3 * math.log(2), rel=1e-6)
    assert without.item() == pytest.approx(math.log(2), rel=1e-6)


def test_all_ignored() -> None:
    """Nothing to learn from: 0, with a gradient of 0."""
    logits = torch.randn(2, 3, 2, 2, requires_grad=True)
    output = SegOutput(logits, aux=torch.randn(2, 3, 2, 2))
    value = CrossEntropy(weight=1)(output, None, torch.full((2, 5, 5), IGNORE))
    value.backward()
    assert value.item() == 0
    assert logits.grad is not None
    assert logits.grad.abs().max() == 0


def test_gradcheck() -> None:
    """The gradient is that of the value, through the upsampling."""
    target = torch.randint(0, 3, (2, 5, 6))
    target[0, 0] = IGNORE
    logits = torch.randn(2, 3, 2, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda z: CrossEntropy(weight=1)(SegOutput(z, aux=z), None, target), logits)


@pytest.mark.parametrize("case", cases("skd_dsn_ce"))
def test_parity_skd(case: Case) -> None:
    """SKD's CriterionDSN."""
    logits, aux = case.input("logits", grad=True), case.input("logits_aux", grad=True)
    value = CrossEntropy(weight=1)(SegOutput(logits, aux=aux), None, case.input("labels"))
    value.backward()
    case.check(value)
    case.check_grad(logits, "logits")
    case.check_grad(aux, "logits_aux")


@pytest.mark.parametrize("case", cases("cirkd_ce"))
def test_parity_cirkd(case: Case) -> None:
    """CIRKD's SegCrossEntropyLoss."""
    logits = case.input("logits", grad=True)
    value = CrossEntropy(weight=1)(SegOutput(logits), None, case.input("labels"))
    value.backward()
    case.check(value)
    case.check_grad(logits, "logits")
