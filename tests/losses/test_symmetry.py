"""What a term's formula says of student and teacher changing places: a distance does not notice, a divergence does."""

import pytest
import torch

from kdtune.base import IGNORE
from kdtune.losses import LOSSES
from kdtune.testing.scene import SmallNet

# fitnet, nfd and others adapt the student first, and so are neither
DISTANCES = (
    *("pa", "ifv", "at", "dist", "dsd_pixel", "dsd_category"),
    *("consistency", "csc", "idd_distance", "sstkd_statistical"),
)
DIVERGENCES = ("pi", "cwd", "logit_std", "dkd", "ace", "fakd", "salc_attention", "cirkd_batch")


@pytest.mark.parametrize("name", [*DISTANCES, *DIVERGENCES])
def test_places_changed(name: str) -> None:
    torch.manual_seed(0)
    networks = SmallNet(6, 8).double(), SmallNet(6, 8).double()
    image, target = torch.randn(3, 3, 65, 65, dtype=torch.float64), torch.randint(0, 3, (3, 65, 65))
    target[:, :20] = IGNORE
    kind = LOSSES.resolve(name)
    term = kind.model_validate({"weight": 1.0} | ({"acknowledge_patent": True} if kind.patent else {}))
    with torch.no_grad():
        student, teacher = (network(image, term.taps | term.teacher_taps) for network in networks)
        found = [
            term.build(*pair).double()(*outputs, target).item()
            for pair, outputs in ((networks, (student, teacher)), (networks[::-1], (teacher, student)))
        ]
    assert found[0] > 1e-12
    assert (found[0] == pytest.approx(found[1], rel=1e-9)) == (name in DISTANCES)
