"""What every loss term of kdtune's promises, whatever it computes."""

import pytest

from kdtune.base import LossTerm
from kdtune.losses import LOSSES
from kdtune.testing.loss_terms import *  # noqa: F403

SMALL = {"batches": 2, "sampled": 64}  # fields that cost time and change no promise


@pytest.fixture(params=LOSSES.table)
def term(request: pytest.FixtureRequest) -> LossTerm:
    """Each, with weight 1."""
    kind: type[LossTerm] = LOSSES.resolve(request.param)
    return kind.plain(**{key: value for key, value in SMALL.items() if key in kind.model_fields})
