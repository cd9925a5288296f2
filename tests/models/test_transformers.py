"""Networks of the package transformers: made from a configuration, given weights from its files."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kdtune.base import SegNet, Tap, UserError
from kdtune.models.external import ExternalModel
from kdtune.training.weights import load_weights, read_weights, weights_bytes

CLASSES = 5
SEGFORMER: dict[str, Any] = {
    "builder": "transformers:SegformerForSemanticSegmentation",
    "arguments": {
        "hidden_sizes": [8, 16, 16, 16],
        "depths": [1, 1, 1, 1],
        "num_attention_heads": [1, 1, 1, 1],
        "decoder_hidden_size": 16,
    },
    "taps": {"layer1": "segformer.stages.0", "layer4": "segformer.stages.3", "psp": "decode_head.dropout"},
    "backbone": "segformer",
    "output": "logits",
}
UPERNET: dict[str, Any] = {
    "builder": "transformers:UperNetForSemanticSegmentation",
    "arguments": {
        "backbone_config": {
            "model_type": "convnext",
            "hidden_sizes": [8, 8, 16, 16],
            "depths": [1, 1, 1, 1],
            "out_features": ["stage1", "stage2", "stage3", "stage4"],
        },
        "hidden_size": 16,
        "pool_scales": [1, 2],
        "auxiliary_in_channels": 16,
        "auxiliary_channels": 8,
    },
    "taps": {"psp": "decode_head.fpn_bottleneck"},
    "output": "logits",
}


class OddlyCalled(nn.Module):
    """The images are not its first argument."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.last = nn.Conv2d(3, num_classes, 1)

    def forward(self, words: None = None, pixel_values: Tensor | None = None) -> Tensor:
        assert words is None
        assert pixel_values is not None
        found: Tensor = self.last(pixel_values)
        return found


def built(fields: dict[str, Any], seed: int = 0) -> SegNet:
    torch.manual_seed(seed)
    return ExternalModel.model_validate(fields).build(CLASSES)


@pytest.mark.parametrize(
    ("fields", "stride", "channels"),
    [(SEGFORMER, 4, {"layer1": 8, "layer4": 16, "psp": 16}), (UPERNET, 1, {"psp": 16})],
    ids=["segformer", "upernet"],
)
def test_logits_maps_and_a_classifier_that_is_found(
    fields: dict[str, Any], stride: int, channels: dict[str, int]
) -> None:
    network = built(fields).eval()
    with torch.no_grad():
        made = network(torch.randn(2, 3, 64, 96), frozenset[Tap](fields["taps"]))
    assert made.logits.shape == (2, CLASSES, 64 // stride, 96 // stride)
    assert network.channels == channels | {"logits": CLASSES}
    assert {tap: value.shape[1] for tap, value in made.taps.items()} == channels
    assert isinstance(network.classifier, nn.Conv2d)
    assert network.classifier is network.network.get_submodule("decode_head.classifier")  # type: ignore[union-attr, operator]
    small = network.after("psp", made.taps["psp"])
    assert small.shape[-2:] == (16, 24)  # a quarter: UperNet enlarges its logits, SegFormer does not
    assert stride == 1 or torch.equal(small, made.logits)


def test_weights_of_a_file_that_has_other_names_for_the_parts(tmp_path: Path) -> None:
    """Files keep the names of the package's first version, whatever its parts are called now."""
    network, other = built(SEGFORMER), built(SEGFORMER, seed=1)
    network.network.save_pretrained(tmp_path)  # type: ignore[union-attr, operator]
    weights = read_weights(str(tmp_path / "model.safetensors"))
    assert not weights.keys() <= network.network.state_dict().keys()  # type: ignore[union-attr, operator]
    torch.manual_seed(5)
    drawn = torch.rand(1)
    torch.manual_seed(5)
    load_weights(other, weights, "theirs")
    assert torch.equal(torch.rand(1), drawn)
    assert weights_bytes(other) == weights_bytes(network)
    third = built(SEGFORMER, seed=2)
    load_weights(third, other.state_dict(), "ours")
    assert weights_bytes(third) == weights_bytes(network)

    encoder = {key: value for key, value in weights.items() if key.startswith("segformer.")}
    encoder["classifier.weight"] = torch.zeros(9, 16)
    fourth = built(SEGFORMER, seed=3)
    load_weights(fourth, encoder, "pre-trained", "backbone")
    own = fourth.state_dict()
    same = {key for key, value in network.state_dict().items() if torch.equal(own[key], value)}
    assert {key for key in own if key.startswith("network.segformer.")} <= same
    assert "network.decode_head.classifier.weight" not in same

    with pytest.raises(UserError, match=r"missing, first network\.decode_head.*1 unknown, first network\.classifier"):
        load_weights(third, encoder, "pre-trained")
    weights["decode_head.classifier.weight"] = torch.zeros(7, 16, 1, 1)
    with pytest.raises(UserError, match=r"1 of other shape, .* is \(7, 16, 1, 1\), the network has \(5, 16, 1, 1\)"):
        load_weights(third, weights, "theirs")


def test_a_field_that_the_configuration_does_not_have() -> None:
    arguments = {**SEGFORMER["arguments"], "hiden_sizes": [8]}
    with pytest.raises(UserError, match=r"Config has no field 'hiden_sizes' \(did you mean 'hidden_sizes'\?\)"):
        built(SEGFORMER | {"arguments": arguments})


def test_images_by_the_name_of_an_argument() -> None:
    fields = {"builder": "tests.models.test_transformers:OddlyCalled"}
    with pytest.raises(UserError, match="its network raised AssertionError"):
        built(fields)
    network = built(fields | {"image_argument": "pixel_values"})
    assert network(torch.zeros(1, 3, 8, 8)).logits.shape == (1, CLASSES, 8, 8)


def test_what_older_studies_wrote_is_what_is_written_now() -> None:
    assert "image_argument" not in ExternalModel.model_validate(SEGFORMER).model_dump(mode="json")
