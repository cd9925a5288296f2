"""What a term costs: the loop that it is measured against, and the figures' shape."""

import pyarrow.parquet as pq
import pytest
import torch

from kdtune.base import SegOutput, UserError
from kdtune.bench import terms
from kdtune.bench.terms import LOOP, ClassLoop, Setting, loss_terms
from kdtune.losses.intra_class_variation import IntraClassVariation

SMALL = Setting(classes=3, crop=32, batch=2, steps=2, teacher_backbone="resnet18")


def test_the_loop_over_classes_is_the_same_term() -> None:
    """Else its time would be that of something else."""
    student, teacher = (SegOutput(torch.randn(2, 5, 6, 6), {"psp": torch.randn(2, c, 6, 6)}) for c in (4, 7))
    student.taps["psp"].requires_grad_(True)
    target = torch.randint(0, 5, (2, 48, 48))
    target[:, :10] = 255
    values = [term(student, teacher, target) for term in (ClassLoop(), IntraClassVariation(weight=1))]
    torch.testing.assert_close(values[0], values[1])
    loop, ours = (torch.autograd.grad(value, student.taps["psp"])[0] for value in values)
    torch.testing.assert_close(loop, ours, rtol=1e-4, atol=1e-7)


def test_figures(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    """A row per variant and number of classes, the baselines among them whatever is asked for."""
    monkeypatch.setattr(terms, "_memory", lambda name, setting: 2**20)
    told = loss_terms(["ifv"], SMALL, [3, 4], f"{tmp_path}/terms.parquet")
    table = pq.read_table(f"{tmp_path}/terms.parquet").to_pylist()
    assert [(row["term"], row["classes"]) for row in table] == [
        (term, classes) for classes in (3, 4) for term in ("ce", "ce + pi", "ce + ifv", f"ce + {LOOP}")
    ]
    assert all(row["step_ms"] > row["term_ms"] > 0 for row in table)
    assert [row["to_ce"] for row in table if row["term"] == "ce"] == [1, 1]
    assert "ce + ifv" in told


def test_an_unknown_term_is_named() -> None:
    with pytest.raises(UserError, match=r"ivf: unknown loss 'ivf' \(did you mean 'ifv'\?\)"):
        loss_terms(["ivf"], SMALL, [3], None)


def test_memory_of_a_processor_is_measured() -> None:
    """A step holds at least the student's gradients and momenta, 12 million numbers each."""
    assert terms._resident("VmHWM") >= terms._resident("VmRSS") // 2 > 2**24
    assert terms._resident_growth("ce", SMALL) >= 0
