"""Networks that take only some sizes are told before the first step; the look leaves no trace."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from kdtune.base import UserError
from kdtune.study.recipe import Recipe
from kdtune.training.site import Site
from kdtune.training.sizes import check_validation
from kdtune.training.trial import run
from kdtune.training.weights import weights_bytes
from tests.support.tiny import config

CPU = torch.device("cpu")


class Halves(nn.Module):
    """Halves its maps twice, enlarges them again and adds: as networks with skips do, it wants multiples of four."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.BatchNorm2d(4), nn.Dropout(0.5))
        self.second = nn.Conv2d(4, 4, 3, 2, 1)
        self.last = nn.Conv2d(4, num_classes, 1)

    def forward(self, image: Tensor) -> Tensor:
        large = self.first(image)
        small = self.second(large)
        return self.last(large + nn.functional.interpolate(small, scale_factor=2))  # type: ignore[no-any-return]


STUDENT = {"name": "external", "builder": "tests.training.test_sizes:Halves"}
ODD = [36, 54]  # of which 54 is no multiple of four


def test_validation_images_that_do_not_fit() -> None:
    trial = config({"student": STUDENT, "dataset.size": ODD, "recipe.crop": [32, 32]})
    with pytest.raises(
        UserError, match=r"student Halves: takes no validation images of 36 x 54 pixels.*eval_window: \[32, 32\]"
    ):
        next(run(trial, Site()))
    assert len(list(run(trial.replace({"recipe.eval_window": [32, 32]}), Site()))) == 3
    with pytest.raises(UserError, match=r"takes no recipe\.eval_window of 32 x 30 pixels"):
        next(run(trial.replace({"recipe.eval_window": [32, 30]}), Site()))


@pytest.mark.parametrize("whose", ["student", "teacher"])
def test_crops_that_do_not_fit(whose: str, tmp_path: Path) -> None:
    changes: dict[str, Any] = {"recipe.crop": [32, 30], "recipe.eval_window": [32, 32]}
    if whose == "student":
        changes["student"] = STUDENT
    else:
        torch.manual_seed(0)
        file = tmp_path / "teacher.safetensors"
        file.write_bytes(weights_bytes(config({"student": STUDENT}).student.build(12)))
        changes |= {"teacher": {"model": STUDENT, "checkpoint": str(file)}, "losses.pi": {"weight": 0.5}}
    with pytest.raises(UserError, match=rf"{whose} Halves: takes no crops of 32 x 30 pixels.*set recipe\.crop"):
        next(run(config(changes), Site()))


def test_the_look_changes_nothing() -> None:
    network = config({"student": STUDENT}).student.build(12).train()
    before, state = weights_bytes(network), torch.get_rng_state()
    check_validation(network, "it", np.array([[32, 32], [36, 52], [64, 64]]), Recipe.model_validate(RECIPE), CPU)
    assert weights_bytes(network) == before
    assert torch.equal(torch.get_rng_state(), state)
    assert all(module.training for module in network.modules())


RECIPE = config().recipe.model_dump(mode="json")
