"""The networks that the keys and shapes of a checkpoint tell: SKD's, semseg's, torchvision's, kdtune's own."""

from collections.abc import Callable
from typing import Any, Literal, get_args

from kdtune.base import UserError
from kdtune.models.backbones import INVERTED, RESNETS, BasicBlock
from kdtune.training.weights import (
    Weights,
    read_record,
)

Layout = Literal["skd", "semseg", "torchvision", "kdtune"]

NETWORKS: dict[Layout, str] = {
    "skd": "SKD's Res_pspnet",
    "semseg": "semseg's PSPNet",
    "torchvision": "a segmentation network of torchvision",
    "kdtune": "kdtune's PSPNet",
}


def _skd(state: Weights, file: str) -> dict[str, Any]:
    return {"name": "pspnet", "backbone": _resnet(state, "backbone.", file), "stem": "deep", "variant": "skd"}


def _semseg(state: Weights, file: str) -> dict[str, Any]:
    return {"name": "pspnet", "backbone": _resnet(state, "backbone.", file), "stem": "deep", "variant": "semseg"}


def _own(state: Weights, file: str) -> dict[str, Any]:
    """Kdtune's own: the record's word for it, else as the keys and shapes tell."""
    record = read_record(file)
    if record is not None:
        if record.model.get("name") != "pspnet":
            raise UserError(f"{file}: holds a network of name '{record.model.get('name')}'; write it out with --model")
        return record.model
    if any(key.startswith("network.") for key in state):
        raise UserError(f"{file}: holds a network of another package; write it out with --model")
    if any(key.startswith("backbone.features.") for key in state):
        depth = 1 + max(int(key.split(".")[2]) for key in state if key.startswith("backbone.features."))
        return {"name": "pspnet", "backbone": next((n for n, s in INVERTED.items() if s.kept == depth), "unknown")}
    fields = {
        "name": "pspnet",
        "backbone": _resnet(state, "backbone.", file),
        "stem": "deep" if "backbone.conv2.weight" in state else "plain",
        "variant": "skd" if "auxiliary.0.bias" in state else "semseg",
    }
    channels = state["backbone.conv1.weight"].shape[0] if "backbone.conv1.weight" in state else 64
    return fields | ({"width": channels / 64} if channels != 64 else {})


def _torchvision(state: Weights, file: str) -> dict[str, Any]:
    """One of torchvision's segmentation networks, with its maps named."""
    bare = {key.removeprefix("network.") for key in state}
    aux = any(key.startswith("aux_classifier.") for key in bare)
    deeplab = any(key.startswith("classifier.0.convs.") for key in bare)
    arguments: dict[str, Any] = {"weights": None, "weights_backbone": None}
    psp, classifier = "classifier.3", "classifier.4"
    if "backbone.conv1.weight" in bare:
        name = f"{'deeplabv3' if deeplab else 'fcn'}_{_resnet(state, 'network.backbone.', file)}"
        taps = {layer: f"backbone.{layer}" for layer in ("layer1", "layer2", "layer3", "layer4")}
    else:
        name = f"{'deeplabv3' if deeplab else 'lraspp'}_mobilenet_v3_large"
        taps = {layer: f"backbone.{index}" for index, layer in INVERTED["mobilenet_v3_large"].layers.items()}
    if name.startswith("lraspp"):
        # Its logits are a sum over two scales; this is the deeper one, before it is weighed and resized.
        psp, classifier = "classifier.cbr", "classifier.high_classifier"
    else:
        arguments["aux_loss"] = aux
    return {
        "name": "external",
        "builder": f"torchvision.models.segmentation:{name}",
        "arguments": arguments,
        "taps": taps | {"psp": psp},
        "classifier": classifier,
        "backbone": "backbone",
        "output": "out",
        "aux_output": "aux" if aux else None,
    }


INFER: dict[Layout, Callable[[Weights, str], dict[str, Any]]] = {
    "skd": _skd,
    "semseg": _semseg,
    "torchvision": _torchvision,
    "kdtune": _own,
}

assert set(INFER) == set(get_args(Layout))


def _resnet(state: Weights, prefix: str, file: str) -> str:
    """The ResNet of so many blocks of that kind."""
    depths = []
    for layer in ("layer1", "layer2", "layer3", "layer4"):
        start = f"{prefix}{layer}."
        blocks = {int(key.removeprefix(start).split(".")[0]) for key in state if key.startswith(start)}
        depths.append(len(blocks))
    bottleneck = f"{prefix}layer1.0.conv3.weight" in state
    for name, (block, counts) in RESNETS.items():
        if tuple(depths) == counts and bottleneck != (block is BasicBlock):
            return name
    kind = "bottlenecks" if bottleneck else "basic blocks"
    raise UserError(
        f"{file}: has {', '.join(map(str, depths))} {kind} in its four layers, a depth that kdtune does not have; "
        f"there are: {', '.join(RESNETS)}"
    )
