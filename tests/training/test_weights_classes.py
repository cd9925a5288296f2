"""How many classes a file of weights without a record tells apart, of every kind of network."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kdtune.base import Model, UserError
from kdtune.models.external import ExternalModel
from kdtune.models.pspnet import PSPNetModel
from kdtune.training.weights_classes import classes_told
from tests.models.test_external import LRASPP, OWN, TIMM, UNET
from tests.models.test_transformers import SEGFORMER

HERE = "tests.training.test_weights_classes"
SMALL = "tests.models.test_external:Small"
CLASSES = 12


class Repeating(nn.Module):
    """No layer of it has a channel per class."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.num_classes, self.only = num_classes, nn.Conv2d(3, 1, 1)

    def forward(self, image: Tensor) -> Tensor:
        made: Tensor = self.only(image)
        return made.repeat(1, self.num_classes, 1, 1)


def told(model: Model, weights: dict[str, Tensor]) -> int:
    return classes_told(model, weights, "w.pth")


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize(
    "fields", [LRASPP, UNET, TIMM, OWN, SEGFORMER], ids=["torchvision", "smp", "timm", "own", "transformers"]
)
def test_of_another_package_with_a_classifier_that_is_named_or_not(fields: dict[str, Any], named: bool) -> None:
    """Also where the last layer is none that is found: the U-Net's is 3x3, and LRASPP has two."""
    given = fields if named else {key: value for key, value in fields.items() if key != "classifier"}
    model = ExternalModel.model_validate(given)
    weights = model.build(CLASSES).state_dict()
    assert told(model, weights) == CLASSES
    assert told(model, {key.removeprefix("network."): value for key, value in weights.items()}) == CLASSES


@pytest.mark.parametrize("backbone", ["resnet18", "mobilenet_v3_large"])
def test_of_kdtunes_own(backbone: str) -> None:
    model = PSPNetModel.model_validate({"backbone": backbone})
    with torch.device("meta"):
        assert told(model, model.build(CLASSES).state_dict()) == CLASSES


def test_of_a_builder_that_has_its_own_mind_about_the_number() -> None:
    model = ExternalModel(builder="tests.models.test_external:stubborn", output="main")
    assert told(model, model.build(3).state_dict()) == 3


@pytest.mark.parametrize(
    ("fields", "weights", "says"),
    [
        ({"builder": SMALL, "output": "main"}, {"head.bias": torch.zeros(5)}, "weights of another architecture"),
        ({"builder": f"{HERE}:Repeating"}, Repeating(5).state_dict(), "how many classes it has; name its last 1x1"),
    ],
)
def test_what_does_not_tell(fields: dict[str, Any], weights: dict[str, Tensor], says: str) -> None:
    with pytest.raises(UserError, match=says) as caught:
        told(ExternalModel.model_validate(fields), weights)
    assert str(caught.value).startswith("w.pth: ")
    assert "None" not in str(caught.value)
