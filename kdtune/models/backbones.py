"""Feature extractors at output stride 8: dilated ResNets, EfficientNet-B0, MobileNetV3; their ImageNet weights."""

import os
from collections.abc import Callable, Set
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from kdtune.base import UserError
from kdtune.models.pspnet import BackboneName

LAYERS = ("layer1", "layer2", "layer3", "layer4")


class Backbone(nn.Module):
    """Image (N, 3, H, W) to those wanted of its maps: stem, layer1 at stride 4, layer2 to layer4 at stride 8."""

    channels: dict[str, int]  # map -> its number of channels

    def forward(self, image: Tensor, keep: Set[str]) -> dict[str, Tensor]:
        """The maps named in ``keep``; maps that nobody wants are freed on the way."""
        raise TypeError(f"{type(self).__name__} has no forward")

    def following(self, name: str) -> nn.Sequential:
        """What makes the map of ``layer4`` of the map ``name``."""
        raise TypeError(f"{type(self).__name__} has no following")

    def __call__(self, image: Tensor, keep: Set[str]) -> dict[str, Tensor]:
        """Typed ``nn.Module.__call__``."""
        maps: dict[str, Tensor] = super().__call__(image, keep)
        return maps


class Conv(nn.Conv2d):
    """A convolution that starts as those of torchvision's ResNets: normal, variance 2 / fan-out, zero bias.

    Drawn once, where the layer is made: a second pass over the network would double the time of building it.
    """

    def reset_parameters(self) -> None:
        """Draw the weights from torch's global generator."""
        nn.init.kaiming_normal_(self.weight, mode="fan_out", nonlinearity="relu")
        if self.bias is not None:
            nn.init.zeros_(self.bias)


def conv3x3(inputs: int, outputs: int, stride: int = 1, dilation: int = 1) -> Conv:
    """3x3, no bias, padded so that stride 1 keeps the size."""
    return Conv(inputs, outputs, 3, stride=stride, padding=dilation, dilation=dilation, bias=False)


def conv1x1(inputs: int, outputs: int, stride: int = 1) -> Conv:
    """1x1, no bias."""
    return Conv(inputs, outputs, 1, stride=stride, bias=False)


def shortcut(inputs: int, outputs: int, stride: int) -> nn.Module | None:
    """The projection of a residual block whose input and output differ in shape; None where they do not."""
    if stride == 1 and inputs == outputs:
        return None
    return nn.Sequential(conv1x1(inputs, outputs, stride), nn.BatchNorm2d(outputs))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut, both dilated (torchvision's block refuses a dilation)."""

    expansion: ClassVar[int] = 1

    def __init__(self, inputs: int, planes: int, *, stride: int, dilation: int) -> None:
        super().__init__()
        self.conv1 = conv3x3(inputs, planes, stride, dilation)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = conv3x3(planes, planes, dilation=dilation)
        self.bn2 = nn.BatchNorm2d(planes)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = shortcut(inputs, planes, stride)

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, h, w) to (N, planes, h / stride, w / stride)."""
        out: Tensor = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += x if self.downsample is None else self.downsample(x)
        return nn.functional.relu_(out)


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 convolutions and a shortcut; stride and dilation on the 3x3."""

    expansion: ClassVar[int] = 4

    def __init__(self, inputs: int, planes: int, *, stride: int, dilation: int) -> None:
        super().__init__()
        outputs = planes * self.expansion
        self.conv1 = conv1x1(inputs, planes)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = conv3x3(planes, planes, stride, dilation)
        self.bn2 = nn.BatchNorm2d(planes)
        self.conv3 = conv1x1(planes, outputs)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = shortcut(inputs, outputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, h, w) to (N, 4 planes, h / stride, w / stride)."""
        out: Tensor = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        out += x if self.downsample is None else self.downsample(x)
        return nn.functional.relu_(out)


Block = type[BasicBlock] | type[Bottleneck]

RESNETS: dict[str, tuple[Block, tuple[int, int, int, int]]] = {  # block, number of blocks per layer
    "resnet18": (BasicBlock, (2, 2, 2, 2)),
    "resnet34": (BasicBlock, (3, 4, 6, 3)),
    "resnet50": (Bottleneck, (3, 4, 6, 3)),
    "resnet101": (Bottleneck, (3, 4, 23, 3)),
}


class ResNet(Backbone):
    """A ResNet whose last two layers are dilated instead of strided.

    Strides 1, 2, 1, 1 and dilations 1, 1, 2, 4; every block of a layer is dilated, the first one too.
    The keys of its state are those of torchvision's ResNet and of SKD's.

    Source: Liu et al. 2019, arXiv:1903.04197, the authors' code; Zhao et al. 2017, arXiv:1612.01105.
    """

    def __init__(
        self, name: str, *, stem: Literal["deep", "plain"], ceil_mode: bool, scaled: Callable[[int], int]
    ) -> None:
        """The named ResNet.

        Args:
            name: a key of ``RESNETS``.
            stem: "deep" three 3x3 convolutions (64, 64, 128 channels), "plain" torchvision's one 7x7.
            ceil_mode: of the max pool; true gives one cell more for even sizes.
            scaled: the published number of channels to that of this network.
        """
        super().__init__()
        block, depths = RESNETS[name]
        self.stem = stem
        channels = self._add_stem(scaled)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1, ceil_mode=ceil_mode)
        self.channels = {"stem": channels}
        plan = zip(LAYERS, depths, (64, 128, 256, 512), (1, 2, 1, 1), (1, 1, 2, 4), strict=True)
        for layer, depth, planes, stride, dilation in plan:
            blocks = []
            for index in range(depth):
                now = stride if index == 0 else 1
                blocks.append(block(channels, scaled(planes), stride=now, dilation=dilation))
                channels = scaled(planes) * block.expansion
            self.add_module(layer, nn.Sequential(*blocks))
            self.channels[layer] = channels

    def _add_stem(self, scaled: Callable[[int], int]) -> int:
        """The layers before the max pool, under SKD's and torchvision's names; returns their channels."""
        if self.stem == "plain":
            self.conv1 = Conv(3, scaled(64), 7, stride=2, padding=3, bias=False)
            self.bn1 = nn.BatchNorm2d(scaled(64))
            return scaled(64)
        self.conv1 = conv3x3(3, scaled(64), stride=2)
        self.bn1 = nn.BatchNorm2d(scaled(64))
        self.conv2 = conv3x3(scaled(64), scaled(64))
        self.bn2 = nn.BatchNorm2d(scaled(64))
        self.conv3 = conv3x3(scaled(64), scaled(128))
        self.bn3 = nn.BatchNorm2d(scaled(128))
        return scaled(128)

    def forward(self, image: Tensor, keep: Set[str]) -> dict[str, Tensor]:
        """See ``Backbone.forward``."""
        x = nn.functional.relu_(self.bn1(self.conv1(image)))  # (N, C, H/2, W/2)
        if self.stem == "deep":
            x = nn.functional.relu_(self.bn2(self.conv2(x)))
            x = nn.functional.relu_(self.bn3(self.conv3(x)))
        x = self.maxpool(x)  # (N, C, H/4, W/4)
        maps = {"stem": x} if "stem" in keep else {}
        for layer in LAYERS:
            x = self.get_submodule(layer)(x)
            if layer in keep:
                maps[layer] = x
        return maps

    def following(self, name: str) -> nn.Sequential:
        """See ``Backbone.following``."""
        return nn.Sequential(*map(self.get_submodule, LAYERS[("stem", *LAYERS).index(name) :]))


@dataclass(frozen=True)
class Stages:
    """How torchvision's ``features`` become four layers; every number is an index of ``features``."""

    kept: int  # how many are kept: the last 1x1 convolution is the classifier's
    layers: dict[int, str]  # the end of each layer
    channels: tuple[int, int, int, int]
    dilations: dict[int, int]  # of the depthwise convolutions behind stride 8


INVERTED: dict[str, Stages] = {
    # Tan and Le 2019, arXiv:1905.11946, table 1: stages 3, 4, 6 and 8.
    "efficientnet_b0": Stages(
        kept=8,
        layers={2: "layer1", 3: "layer2", 5: "layer3", 7: "layer4"},
        channels=(24, 40, 112, 320),
        dilations={4: 2, 5: 2, 6: 4, 7: 4},
    ),
    # Howard et al. 2019, arXiv:1905.02244, table 1: the last block before each stride, and the last block.
    "mobilenet_v3_large": Stages(
        kept=16,
        layers={3: "layer1", 6: "layer2", 12: "layer3", 15: "layer4"},
        channels=(24, 40, 112, 160),
        dilations=dict.fromkeys(range(7, 13), 2) | dict.fromkeys(range(13, 16), 4),
    ),
}


class InvertedResiduals(Backbone):
    """Torchvision's EfficientNet-B0 or MobileNetV3-Large at output stride 8, without its last 1x1 convolution.

    The two strides after stride 8 are removed; depthwise convolutions are dilated 2 from the first of them
    on, 4 from the second on, as in ``ResNet``. What else they do (EfficientNet's stochastic depth of 0 to 0.19 along
    the blocks, MobileNetV3's BatchNorm with eps 1e-3 and momentum 0.01) is torchvision's.
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        import torchvision

        stages = INVERTED[name]
        self.ends = {0: "stem", **stages.layers}
        self.features: nn.Sequential = torchvision.models.get_model(name, weights=None).features[: stages.kept]
        self.channels = {"stem": self.features[0][0].out_channels, **dict(zip(LAYERS, stages.channels, strict=True))}
        for index, dilation in stages.dilations.items():
            for module in self.features[index].modules():
                if isinstance(module, nn.Conv2d) and module.kernel_size != (1, 1):
                    module.stride = (1, 1)
                    module.dilation = (dilation, dilation)
                    pad = dilation * (module.kernel_size[0] - 1) // 2
                    module.padding = (pad, pad)

    def forward(self, image: Tensor, keep: Set[str]) -> dict[str, Tensor]:
        """See ``Backbone.forward``."""
        x = image
        maps = {}
        for index, stage in enumerate(self.features):
            x = stage(x)
            name = self.ends.get(index)
            if name is not None and name in keep:
                maps[name] = x
        return maps

    def following(self, name: str) -> nn.Sequential:
        """See ``Backbone.following``."""
        return self.features[next(index for index, found in self.ends.items() if found == name) + 1 :]


def imagenet_weights(name: BackboneName) -> Any:
    """Torchvision's entry for a backbone's ``IMAGENET1K_V1`` weights.

    Torchvision is imported when it is needed: it takes 150 MB of every worker.
    """
    import torchvision

    return torchvision.models.get_model_weights(name)["IMAGENET1K_V1"]


def load_imagenet(backbone: Backbone, name: BackboneName) -> None:
    """Copy torchvision's ImageNet weights into a backbone; nothing on the meta device, which holds no values.

    Raises:
        UserError: the weights are neither in torchvision's cache nor reachable, or that file is another.
    """
    if next(backbone.parameters()).is_meta:
        return
    weights = imagenet_weights(name)
    own = backbone.state_dict()
    try:
        state: dict[str, Tensor] = weights.get_state_dict(
            check_hash=True, progress=False, map_location="cpu", weights_only=True
        )
        backbone.load_state_dict({key: value for key, value in state.items() if key in own})
    except Exception as error:  # not only OSError: a damaged file makes the unpickler raise anything
        raise UserError(_not_loaded(weights, error)) from error


def _not_loaded(weights: Any, error: Exception) -> str:
    """One line: which weights, why not, and what to do."""
    file = os.path.join(torch.hub.get_dir(), "checkpoints", os.path.basename(weights.url))
    problem = "cannot be read from torchvision's cache" if os.path.exists(file) else "could not be downloaded"
    reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(":")
    return (
        f"ImageNet weights {weights} {problem} ({reason}): they come from torchvision's download server,"
        f" {weights.url}; put that file at {file} or use --set student.init=random"
    )
