"""Networks of other packages: torchvision's, segmentation_models_pytorch's, one of a user's own."""

import copy
import gc
import weakref
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from kdtune.base import SegNet, Tap, UserError
from kdtune.models.builders import find
from kdtune.models.external import ExternalModel
from kdtune.training.weights import load_weights, weights_bytes

CLASSES = 5
HERE = "tests.models.test_external"
LRASPP = {
    "builder": "torchvision.models.segmentation:lraspp_mobilenet_v3_large",
    "arguments": {"weights": None, "weights_backbone": None},
    "taps": {"layer1": "backbone.3", "psp": "classifier.cbr"},
    "classifier": "classifier.high_classifier",
    "backbone": "backbone",
    "output": "out",
}
UNET = {
    "builder": "segmentation_models_pytorch:create_model",
    "arguments": {"arch": "unet", "encoder_name": "resnet18", "encoder_weights": None},
    "classes_argument": "classes",
    "taps": {"layer4": "encoder.layer4", "psp": "decoder.blocks.4"},
    "classifier": "segmentation_head.0",
    "backbone": "encoder",
}
TIMM = {
    "builder": "segmentation_models_pytorch:create_model",
    "arguments": {
        "arch": "fpn",
        "encoder_name": "tu-mobilenetv3_small_050",
        "encoder_weights": None,
        "decoder_pyramid_channels": 16,
        "decoder_segmentation_channels": 32,
        "upsampling": 1,
    },
    "classes_argument": "classes",
    "taps": {"layer1": "decoder.p2", "psp": "decoder.dropout"},
    "backbone": "encoder",
}
OWN = {
    "builder": f"{HERE}:Small",
    "taps": {"layer1": "first", "psp": "second"},
    "classifier": "last",
    "backbone": "first",
    "output": "main",
    "aux_output": "side",
}
EVERY = pytest.mark.parametrize("fields", [LRASPP, UNET, TIMM, OWN], ids=["torchvision", "smp", "timm", "own"])


class Small(nn.Module):
    """A network of a user's own, at stride 2, with BatchNorm, dropout and an auxiliary output."""

    def __init__(self, num_classes: int = 21, width: int = 8, rate: float = 0.5) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, width, 3, stride=2, padding=1), nn.BatchNorm2d(width), nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(width, width, 3, padding=1), nn.Dropout(rate))
        self.last = nn.Conv2d(width, num_classes, 1)
        self.side = nn.Conv2d(width, num_classes, 1)
        self.never = nn.Identity()

    def forward(self, image: Tensor) -> dict[str, Any]:
        first = self.first(image)
        return {"main": self.last(self.second(first)), "side": self.side(first), "note": "no tensor"}


def raising(num_classes: int) -> nn.Module:
    raise RuntimeError(f"cannot build {num_classes}\nsecond line")


def no_network(num_classes: int) -> nn.Module:
    return "text"  # type: ignore[return-value]


def stubborn(num_classes: int) -> nn.Module:
    """Has its own mind about the number of classes."""
    return Small(3)


def built(fields: dict[str, Any], seed: int = 0) -> SegNet:
    torch.manual_seed(seed)
    return ExternalModel.model_validate(fields).build(CLASSES)


@EVERY
def test_taps_logits_and_classifier(fields: dict[str, Any]) -> None:
    network = built(fields).eval()
    taps = frozenset[Tap]([*fields["taps"], "logits"])
    with torch.no_grad():
        bare, full = network(torch.randn(2, 3, 64, 96)), network(image := torch.randn(2, 3, 64, 96), taps)
        plain = network(image)
    assert (bare.taps, bare.aux, bare.logits.shape[:2]) == ({}, None, (2, CLASSES))
    assert {tap: value.shape[1] for tap, value in full.taps.items()} == {tap: network.channels[tap] for tap in taps}
    assert torch.equal(full.logits, plain.logits)
    assert full.taps["logits"] is full.logits
    assert isinstance(network.classifier, nn.Conv2d)
    assert network.classifier.out_channels == CLASSES
    if fields is not LRASPP:  # whose logits are a sum over two scales
        assert torch.equal(network.classifier(full.taps["psp"]), full.logits)


@EVERY
def test_after_the_tap_that_the_classifier_reads(fields: dict[str, Any]) -> None:
    network = built(fields).eval()
    with torch.no_grad():
        made = network(torch.randn(2, 3, 64, 96), frozenset[Tap](fields["taps"]))
    first = next(iter(fields["taps"]))
    with pytest.raises(UserError, match=f"only the classifier can be run by itself, and it does not read '{first}'"):
        network.after(first, made.taps[first])
    if fields is LRASPP:  # between the tap and the classifier it is scaled
        with pytest.raises(UserError, match="does not read 'psp'"):
            network.after("psp", made.taps["psp"])
    else:
        assert torch.equal(network.after("psp", made.taps["psp"]), made.logits)


@EVERY
def test_building_draws_weights_once_and_leaves_statistics_alone(fields: dict[str, Any]) -> None:
    network, again = built(fields), built(fields)
    after = torch.rand(1)
    torch.manual_seed(0)
    model = ExternalModel.model_validate(fields)
    theirs = find(model.builder)(**{**model.arguments, model.classes_argument: CLASSES})
    assert torch.equal(torch.rand(1), after), "the first look takes no random number"
    assert all(module.training for module in network.modules())
    own = network.state_dict()
    assert own.keys() == {f"network.{key}" for key in theirs.state_dict()}
    assert all(torch.equal(own[f"network.{key}"], value) for key, value in theirs.state_dict().items())
    assert all(torch.equal(own[key], value) for key, value in again.state_dict().items())


@EVERY
def test_copies_files_and_plain_checkpoints(fields: dict[str, Any]) -> None:
    network, other = built(fields).eval(), built(fields, seed=1).eval()
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        wanted = network(image, frozenset[Tap](["psp"]))
        twin = copy.deepcopy(network)
        assert torch.equal(twin(image, frozenset[Tap](["psp"])).taps["psp"], wanted.taps["psp"])
        load_weights(other, network.network.state_dict(), "plain.pth")  # type: ignore[union-attr, operator, arg-type]
        assert torch.equal(other(image).logits, wanted.logits)
        third = built(fields, seed=2).eval()
        load_weights(third, network.state_dict(), "ours")
        assert torch.equal(third(image).logits, wanted.logits)
    assert weights_bytes(third) == weights_bytes(network)


@EVERY
def test_the_backbone_alone_is_loaded(fields: dict[str, Any]) -> None:
    source, target, before = built(fields, seed=1), built(fields), built(fields)
    for weights in (source.state_dict(), source.network.state_dict()):  # type: ignore[union-attr, operator]
        load_weights(target, weights, "w", part="backbone")  # type: ignore[arg-type]
        own = target.backbone.state_dict()
        assert all(torch.equal(value, own[key]) for key, value in source.backbone.state_dict().items())
    assert torch.equal(target.classifier.weight, before.classifier.weight)


@EVERY
def test_on_the_meta_device(fields: dict[str, Any]) -> None:
    with torch.device("meta"):
        network = built(fields)
    assert {p.device.type for p in (*network.parameters(), *network.buffers())} == {"meta"}
    assert network.channels == built(fields).channels


@pytest.mark.parametrize("named", [True, False])
@EVERY
def test_logits_are_in_float32_under_autocast(fields: dict[str, Any], named: bool) -> None:
    """Named or not: LRASPP's are a sum of two layers' maps, of which a study names one."""
    network = built(fields if named else {k: v for k, v in fields.items() if k != "classifier"})
    image, taps = torch.randn(2, 3, 64, 96), frozenset[Tap](["psp"])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        made = network(image, taps)
    assert (made.logits.dtype, made.taps["psp"].dtype) == (torch.float32, torch.bfloat16)
    assert made.aux is None or made.aux.dtype == torch.float32
    if fields is not LRASPP:
        layer = network.network.get_submodule(fields.get("classifier", "segmentation_head.0"))  # type: ignore[union-attr, operator]
        assert torch.equal(made.logits, layer(made.taps["psp"].float()))


class Frozen(Small):
    """No gradient is recorded, and so nothing tells where the logits come from."""

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        self.requires_grad_(False)


class Refusing(Small):
    """It only infers."""

    def forward(self, image: Tensor) -> dict[str, Any]:
        if torch.is_grad_enabled():
            raise RuntimeError("no gradients here")
        return super().forward(image)


def exiting(num_classes: int) -> nn.Module:
    raise SystemExit(3)


class Exiting(Small):
    """It ends the process when it is run."""

    def forward(self, image: Tensor) -> dict[str, Any]:
        raise SystemExit(3)


class Soft(Small):
    """Its ``side`` are probabilities, its ``main`` too unless it is told otherwise."""

    def __init__(self, num_classes: int, soft: bool = True) -> None:
        super().__init__(num_classes)
        self.soft = soft

    def forward(self, image: Tensor) -> dict[str, Any]:
        made = super().forward(image)
        return {"main": made["main"].softmax(1) if self.soft else made["main"], "side": made["side"].softmax(1)}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"aux_output": None}, "as its logits: .* name what comes before it with output,"),
        ({"arguments": {"soft": False}}, "as its auxiliary logits: .* name what comes before it with aux_output,"),
    ],
)
def test_probabilities_are_no_logits(change: dict[str, Any], says: str) -> None:
    fields = OWN | {"builder": f"{HERE}:Soft"} | change
    with pytest.raises(UserError, match=f"Soft gives probabilities, with the sum 1 over the classes, {says}"):
        built(fields)
    with torch.device("meta"):  # nothing to be seen
        assert built(fields).num_classes == CLASSES
    assert built(fields | {"arguments": {"soft": False}, "aux_output": None}).num_classes == CLASSES


class Even(Small):
    """On a black image, which is 0 everywhere, its logits are all 1 / K; what is beside them is never below 0."""

    def forward(self, image: Tensor) -> dict[str, Any]:
        made = image.mean(dim=1, keepdim=True).repeat(1, CLASSES, 1, 1) + 1 / CLASSES
        return {"main": made, "side": self.side(self.first(image)).relu()}


def test_logits_with_the_sum_1_on_a_black_image_alone() -> None:
    fields: dict[str, Any] = OWN | {"builder": f"{HERE}:Even", "taps": {}, "classifier": None}
    assert built(fields).num_classes == CLASSES


@pytest.mark.parametrize("kind", ["Frozen", "Refusing"])
@pytest.mark.parametrize(("classifier", "dtype"), [("last", torch.float32), (None, torch.bfloat16)])
def test_what_autograd_does_not_tell_is_precise_where_it_is_named(
    kind: str, classifier: str | None, dtype: torch.dtype
) -> None:
    network = built(OWN | {"builder": f"{HERE}:{kind}", "classifier": classifier}).eval()
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        assert network(torch.randn(2, 3, 32, 32)).logits.dtype == dtype


def test_a_named_layer_that_gives_no_value_per_class_is_as_it_was() -> None:
    network = built(OWN | {"classifier": "first.0"})
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert network(torch.randn(2, 3, 32, 32), frozenset[Tap](["layer1"])).taps["layer1"].dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("fields", "path"), [(TIMM, "segmentation_head.0"), (OWN, "last"), (UNET, None), (LRASPP, None)]
)
def test_a_classifier_that_nobody_names_is_found_if_there_is_one(fields: dict[str, Any], path: str | None) -> None:
    """UNet's last layer is no 1x1 convolution, and LRASPP has two."""
    network = built({key: value for key, value in fields.items() if key != "classifier"})
    assert network.classifier_path == path
    if path is None:
        with pytest.raises(UserError, match="no single 1x1 convolution; name the last one with classifier: PATH"):
            _ = network.classifier


def test_a_map_of_any_name_and_the_first_of_all() -> None:
    network = built(OWN | {"taps": {"stem": "first", "before_dropout": "second.0"}}).eval()
    image = torch.randn(2, 3, 32, 32)
    found = network(image, frozenset[Tap](["stem", "before_dropout"])).taps
    assert torch.equal(found["stem"], network.network.get_submodule("first")(image))  # type: ignore[union-attr, operator]
    assert found["before_dropout"].shape[1] == network.channels["before_dropout"] == 8


def test_an_auxiliary_head_runs_in_training_or_when_asked_for() -> None:
    network = built(OWN)
    image = torch.randn(2, 3, 32, 32)
    assert network.channels["aux"] == CLASSES
    aux = network(image).aux
    assert aux is not None
    asked = network.eval()(image, frozenset[Tap](["aux"]))
    assert asked.taps["aux"] is asked.aux
    assert network(image).aux is None


def test_maps_that_nobody_wants_are_not_kept() -> None:
    network = built(OWN)
    output = network(torch.randn(2, 3, 32, 32), frozenset[Tap](["layer1"]))
    seen = weakref.ref(output.taps["layer1"])
    assert list(output.taps) == ["layer1"]
    assert not any(module._forward_hooks for module in network.modules())
    del output
    gc.collect()
    assert seen() is None


def test_a_pass_that_fails_leaves_no_hook() -> None:
    network = built(OWN)
    with pytest.raises(RuntimeError):
        network(torch.randn(2, 4, 32, 32), frozenset[Tap](["layer1"]))
    assert not any(module._forward_hooks for module in network.modules())


def test_it_can_be_hashed() -> None:
    one, same, other = (ExternalModel.model_validate(OWN | {"arguments": {"width": w}}) for w in (8, 8, 4))
    assert hash(one) == hash(same)
    assert one == same
    assert one != other


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"builder": "no_such_package:build"}, ["cannot import 'no_such_package'", "PYTHONPATH"]),
        ({"builder": f"{HERE}:Smal"}, ["no 'Smal' there", "did you mean 'Small'"]),
        ({"builder": f"{HERE}:CLASSES"}, ["is not a function"]),
        ({"builder": f"{HERE}:raising"}, ["raised RuntimeError: cannot build 5; check arguments"]),
        ({"builder": f"{HERE}:exiting"}, [f"{HERE}:exiting raised SystemExit: 3; check arguments"]),
        ({"builder": f"{HERE}:Exiting"}, [f"{HERE}:Exiting: its network raised SystemExit: 3"]),
        ({"builder": f"{HERE}:no_network"}, ["returns str, not a torch.nn.Module"]),
        ({"builder": f"{HERE}:stubborn"}, ["logits of 3 classes, the dataset has 5", "classes_argument"]),
        ({"classes_argument": "classes"}, ["raised TypeError", "unexpected keyword argument 'classes'"]),
        ({"output": None}, ["it returns a dict", "its keys: main, side, note", "name the logits with output"]),
        ({"output": "note"}, ["output: 'note' is a str"]),
        ({"output": "out"}, ["output: 'out' is a NoneType", "main, side"]),
        ({"taps": {"psp": "secnd"}}, ["taps.psp: no submodule 'secnd' (did you mean 'second'?)"]),
        ({"taps": {"psp": "never"}}, ["taps.psp: the network does not call 'never'"]),
        ({"taps": {"psp": ""}}, ["taps.psp: '' gives a dict, not a map"]),
        ({"classifier": "lst"}, ["classifier: no submodule 'lst' (did you mean 'last'?)"]),
        ({"arguments": {"rate": 7}}, ["raised ValueError"]),
    ],
)
def test_a_mistake_is_one_line(change: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        built(OWN | change)
    line = str(caught.value)
    assert "\n" not in line
    assert [word for word in words if word not in line] == []


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"init": "imagenet"}, "init='imagenet' is for kdtune's own networks"),
        ({"taps": {"aux": "side"}}, "name it with aux_output"),
        ({"builder": "no colon"}, "builder"),
        ({"taps": {"logits": "last"}}, "name it with output"),
        ({"taps": {"layer 9": "first"}}, "layer 9"),
    ],
)
def test_what_a_study_must_not_say(change: dict[str, Any], word: str) -> None:
    with pytest.raises(ValidationError, match=word):
        ExternalModel.model_validate(OWN | change)
