"""A teacher made cheaper to run: the same maps without its BatchNorm, and weights cast once."""

import pytest
import torch
from torch import nn

from kdtune.base import SegNet
from kdtune.models.folding import cast, folded
from kdtune.models.pspnet import PSPNetModel

TAPS = frozenset({"stem", "logits", "layer1", "layer2", "layer3", "layer4", "psp", "aux"})


def trained(**fields: object) -> SegNet:
    """A narrow network whose BatchNorm does something."""
    torch.manual_seed(0)
    fields = {"width": 0.0625} | fields if str(fields["backbone"]).startswith("resnet") else fields
    network = PSPNetModel.model_validate({"name": "pspnet", **fields}).build(5).double().eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for values in (module.running_mean, module.bias, module.weight):
                assert values is not None
                nn.init.normal_(values)
            assert module.running_var is not None
            nn.init.uniform_(module.running_var, 0.5, 2.0)
    return network.requires_grad_(False)


@pytest.mark.parametrize(
    "fields",
    [
        {"backbone": "resnet18"},
        {"backbone": "resnet101", "stem": "deep"},
        {"backbone": "resnet50", "variant": "semseg", "stem": "deep"},
        {"backbone": "efficientnet_b0"},
        {"backbone": "mobilenet_v3_large"},
    ],
    ids=lambda fields: fields["backbone"],
)
def test_every_map_is_the_same_without_batch_norm(fields: dict[str, object]) -> None:
    """In float64, to rounding; nothing of it is left, and the network itself is as it was."""
    network = trained(**fields)
    image = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    made = folded(network)
    assert not [module for module in made.modules() if isinstance(module, nn.BatchNorm2d)]
    assert [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    before, after = network(image, TAPS), made(image, TAPS)
    for one, other in ((before.logits, after.logits), *((before.taps[tap], after.taps[tap]) for tap in TAPS)):
        torch.testing.assert_close(other, one, rtol=1e-9, atol=1e-9 * float(one.abs().max()))


def test_weights_are_cast_but_for_what_gives_logits() -> None:
    """The classifiers run in float32."""
    made = cast(folded(trained(backbone="resnet18").float()), torch.bfloat16)
    weights = {name: module.weight for name, module in made.named_modules() if isinstance(module, nn.Conv2d)}
    kept = {name for name, weight in weights.items() if weight.dtype == torch.float32}
    assert kept == {"classifier", "auxiliary.4"}
    with torch.autocast("cpu", torch.bfloat16):
        assert made(torch.randn(2, 3, 64, 64)).logits.dtype == torch.float32
