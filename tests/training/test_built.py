"""A network that a file describes takes the memory that its weights take."""

import resource
from pathlib import Path

import pytest
import torch

from kdtune.analysis.evaluation import evaluate
from kdtune.base import UserError
from kdtune.models import MODELS
from kdtune.training.built import built
from kdtune.training.site import Site
from kdtune.training.weights import WeightsRecord, read_weights, weights_bytes
from tests.support.alone import alone

SMALL = MODELS.resolve("pspnet")(name="pspnet", backbone="resnet18", width=0.0625)


def test_a_network_has_the_weights_that_fit(tmp_path: Path) -> None:
    network = SMALL.build(12)
    (tmp_path / "w.safetensors").write_bytes(weights_bytes(network))
    found = built(SMALL, 12, read_weights(str(tmp_path / "w.safetensors")), "w")
    for key, value in network.state_dict().items():
        assert torch.equal(found.state_dict()[key], value)
    assert {value.device.type for value in found.state_dict().values()} == {"cpu"}


def memory_of_evaluating(file: str) -> tuple[str, int]:
    """What is said, and the KiB that it took."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(UserError) as refused:
        evaluate(file, "demo", Site(), {})
    return str(refused.value), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before


def test_a_network_that_its_weights_do_not_fit_is_not_made(tmp_path: Path) -> None:
    """20 times as wide as a ResNet18 it takes 20 GB."""
    wide = {**SMALL.model_dump(mode="json"), "width": 20}
    file = tmp_path / "w.safetensors"
    file.write_bytes(weights_bytes(SMALL.build(12), WeightsRecord(model=wide, num_classes=12, dataset="demo")))
    said, taken = alone(memory_of_evaluating, str(file))
    assert "weights of another architecture" in said
    assert taken < 500_000  # what is imported meanwhile included
