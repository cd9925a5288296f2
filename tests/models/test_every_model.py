"""What every network must do, over all registered models and their backbones."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.feature_extraction import create_feature_extractor

from kdtune.base import Model, SegNet, Tap, UserError
from kdtune.models import MODELS
from kdtune.models.backbones import imagenet_weights

CLASSES = 5
STRIDES = {"layer1": 4, "layer2": 8, "layer3": 8, "layer4": 8, "psp": 8, "logits": 8, "aux": 8}
EVERYTHING: frozenset[Tap] = frozenset({"stem", *STRIDES})


def every_config() -> Iterator[Any]:
    """Each registered model with each of its backbones, as a study file names it.

    Networks of other packages have a test of their own: which backbone they have is the study's to say.
    """
    for name in MODELS.table:
        for backbone in get_args(MODELS.resolve(name).model_fields["backbone"].annotation):
            if isinstance(backbone, str):
                yield pytest.param({"name": name, "backbone": backbone}, id=f"{name}-{backbone}")


over_models = pytest.mark.parametrize("fields", list(every_config()))


def config_of(fields: dict[str, str], **more: Any) -> Model:
    model: Model = MODELS.resolve(fields["name"]).model_validate({**fields, **more})
    return model


def network_of(fields: dict[str, str], seed: int = 0, **more: Any) -> SegNet:
    torch.manual_seed(seed)
    return config_of(fields, **more).build(CLASSES)


def image_of(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def write_weights(backbone: str, home: Path) -> dict[str, Tensor]:
    """Random values of torchvision's own network, where its loader looks for the published ones."""
    weights = imagenet_weights(backbone)
    file = home / "hub" / "checkpoints" / weights.url.rsplit("/", 1)[-1]
    file.parent.mkdir(parents=True)
    torch.manual_seed(7)
    state: dict[str, Tensor] = torchvision.models.get_model(backbone, weights=None).state_dict()
    torch.save(state, file)
    return state


@over_models
@pytest.mark.parametrize("size", [(97, 129), (64, 96)], ids=["odd", "even"])
def test_taps_have_the_declared_channels_and_strides(fields: dict[str, str], size: tuple[int, int]) -> None:
    network = network_of(fields).eval()
    with torch.no_grad():
        output = network(image_of(1, 3, *size), EVERYTHING)
    strides = {"stem": 4 if fields["backbone"].startswith("resnet") else 2, **STRIDES}
    assert list(output.taps) == list(strides) == list(network.channels) == list(config_of(fields).tap_names)
    for tap, stride in strides.items():
        cells = tuple(-(-side // stride) for side in size)
        assert output.taps[tap].shape == (1, network.channels[tap], *cells), tap
    assert output.logits.shape == (1, CLASSES, *(-(-side // 8) for side in size))
    assert output.aux is output.taps["aux"]
    assert output.logits is output.taps["logits"]
    assert network.num_classes == network.channels["logits"] == network.channels["aux"] == CLASSES
    assert network.classifier.weight.shape == (CLASSES, network.channels["psp"], 1, 1)


@over_models
def test_only_wanted_taps_are_kept_and_change_nothing(fields: dict[str, str]) -> None:
    network, image = network_of(fields).eval(), image_of(1, 3, 65, 65)
    with torch.no_grad():
        bare, everything = network(image), network(image, EVERYTHING)
        some = network(image, frozenset(("layer3", "psp")))
    assert (bare.taps, bare.aux, some.aux) == ({}, None, None)
    assert list(some.taps) == ["layer3", "psp"]
    assert torch.equal(bare.logits, everything.logits)
    assert torch.equal(some.taps["layer3"], everything.taps["layer3"])
    assert torch.equal(network.classifier(some.taps["psp"]), bare.logits)


@over_models
def test_gradients_reach_every_parameter(fields: dict[str, str]) -> None:
    network = network_of(fields).train()
    output = network(image_of(2, 3, 65, 65))
    assert output.aux is not None
    assert output.taps == {}
    (output.logits.square().mean() + output.aux.square().mean()).backward()  # type: ignore[no-untyped-call]
    gradients = {name: parameter.grad for name, parameter in network.named_parameters()}
    assert [name for name, gradient in gradients.items() if gradient is None or not gradient.any()] == []
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients.values())


@over_models
def test_equal_seeds_give_equal_networks_and_a_state_survives_a_file(fields: dict[str, str], tmp_path: Path) -> None:
    network, same, other = network_of(fields), network_of(fields), network_of(fields, seed=1)
    assert states_equal(network, same)
    assert not states_equal(network, other)

    torch.save(network.state_dict(), tmp_path / "state.pt")
    other.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    (tmp_path / "state.pt").unlink()
    assert states_equal(network, other)

    image = image_of(2, 3, 65, 65)
    with torch.no_grad():
        once, again, loaded = network.eval()(image), network(image), other.eval()(image)
    assert torch.equal(once.logits, again.logits)
    assert torch.equal(once.logits, loaded.logits)


def states_equal(a: nn.Module, b: nn.Module) -> bool:
    ours, theirs = a.state_dict(), b.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)


@over_models
def test_building_on_the_meta_device_takes_no_memory_and_no_weights(
    fields: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with torch.device("meta"):
        network = config_of(fields, init="imagenet").build(CLASSES)
    assert {p.device.type for p in (*network.parameters(), *network.buffers())} == {"meta"}
    assert list(tmp_path.iterdir()) == []


@over_models
def test_imagenet_weights_fill_the_whole_backbone_and_only_it(
    fields: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    published = write_weights(fields["backbone"], tmp_path)
    network, random = network_of(fields, init="imagenet").eval(), network_of(fields)
    next(tmp_path.rglob("*.pth")).unlink()

    backbone = network.backbone.state_dict()
    assert backbone.keys() <= published.keys()
    assert all(torch.equal(backbone[key], published[key]) for key in backbone)
    heads = [key for key in network.state_dict() if not key.startswith("backbone.")]
    assert all(torch.equal(network.state_dict()[key], random.state_dict()[key]) for key in heads)


@over_models
def test_layers_before_the_first_dilation_are_torchvisions(
    fields: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the same weights stem, layer1 and layer2 equal torchvision's own."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    published = write_weights(fields["backbone"], tmp_path)
    network = network_of(fields, init="imagenet").eval()
    next(tmp_path.rglob("*.pth")).unlink()

    reference = torchvision.models.get_model(fields["backbone"], weights=None).eval()
    reference.load_state_dict(published)
    nodes = {
        "efficientnet_b0": {"features.0": "stem", "features.2": "layer1", "features.3": "layer2"},
        "mobilenet_v3_large": {"features.0": "stem", "features.3": "layer1", "features.6": "layer2"},
    }.get(fields["backbone"], {"maxpool": "stem", "layer1": "layer1", "layer2": "layer2"})
    extract = create_feature_extractor(reference, nodes)
    image = image_of(1, 3, 64, 96)
    with torch.no_grad():
        theirs, ours = extract(image), network(image, EVERYTHING).taps
    for layer in ("stem", "layer1", "layer2"):
        torch.testing.assert_close(ours[layer], theirs[layer])


@over_models
def test_weights_that_cannot_be_had_are_one_line_that_helps(
    fields: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:1")  # nobody listens there
    weights = imagenet_weights(fields["backbone"])
    file = tmp_path / "hub" / "checkpoints" / weights.url.rsplit("/", 1)[-1]
    helpful = [
        str(weights),
        weights.url,
        str(file),
        "--set student.init=random",
        "torchvision's download server",
    ]

    with pytest.raises(UserError, match="could not be downloaded") as absent:
        network_of(fields, init="imagenet")
    file.write_bytes(b"half a download")
    with pytest.raises(UserError, match="cannot be read") as damaged:
        network_of(fields, init="imagenet")
    torch.save({"fc.weight": torch.zeros(1)}, file)
    with pytest.raises(UserError, match="cannot be read") as another:
        network_of(fields, init="imagenet")
    for error in (absent, damaged, another):
        line = str(error.value)
        assert "\n" not in line
        assert [word for word in helpful if word not in line] == []
