"""What every loss term of kdtune's promises, whatever it computes."""

import pytest
import torch

from kdtune.base import LossTerm
from kdtune.losses import LOSSES
from kdtune.testing.loss_terms import *  # noqa: F403
from kdtune.testing.scene import Scene

SMALL = {"batches": 2, "sampled": 64}  # fields that cost time and change no promise
OF_A_TAP = [name for name in LOSSES.table if "tap" in LOSSES.resolve(name).model_fields]


@pytest.fixture(params=LOSSES.table)
def term(request: pytest.FixtureRequest) -> LossTerm:
    """Each, with weight 1."""
    kind: type[LossTerm] = LOSSES.resolve(request.param)
    return kind.plain(**{key: value for key, value in SMALL.items() if key in kind.model_fields})


@pytest.mark.parametrize("term", OF_A_TAP, indirect=True)
@pytest.mark.parametrize("tap", ["stem", "logits"])
def test_at_the_first_map_and_at_the_last(term: LossTerm, tap: str) -> None:
    """A term that lets a study choose its map takes any."""
    scene = Scene(term.model_copy(update={"tap": tap}))
    assert scene.term.teacher_taps <= {tap}
    grad = scene.gradient(scene.value())
    assert grad is not None
    assert torch.isfinite(grad).all()
    assert grad.abs().max() > 0
