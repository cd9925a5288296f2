"""Numbers that may only change together with their version, so that nobody compares the old ones with the new."""

from pathlib import Path

import pytest

from kdtune.training.numerics import NUMERICS
from tests.support.tiny import config, evaluations, teacher


@pytest.mark.usefixtures("one_thread")
def test_a_change_of_the_numbers_raises_the_version(tmp_path: Path) -> None:
    """A distilled trial that uses data, crops, networks, three terms, both optimisers, the schedule and mIoU.

    If this fails because a change is meant to give other numbers: raise ``NUMERICS``, and write the new ones here. The
    tolerance is for other processors and versions of torch.
    """
    terms = {"losses.pi": {"weight": 0.5}, "losses.ho": {"weight": 0.1}, "losses.ifv": {"weight": 1.0}}
    found, _ = evaluations(config({"teacher": teacher(tmp_path), "recipe.bf16": False, **terms}))
    last = found[-1]
    assert NUMERICS == 3
    assert [e["loss"] for e in found] == pytest.approx([4.45485, 4.37659, 4.49437], rel=1e-3)
    assert [e["miou"] for e in found] == pytest.approx([2.93209, 2.89752, 3.03208], abs=0.1)
    expected = {"ce": 3.52980, "pi": 1.77165, "ifv": 0.0787337}  # the critic's term is tiny here
    assert {name: last["losses"][name] for name in expected} == pytest.approx(expected, rel=1e-3)
    expected = {"ce": 1.54726, "pi": 1.24026, "ho": 0.774744, "ifv": 5.20918}
    assert last["grad_norms"] == pytest.approx(expected, rel=2e-2)
