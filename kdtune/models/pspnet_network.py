"""PSPNet as torch computes it: its pyramid, heads and backbone."""

import torch
from torch import Tensor, nn

from kdtune.base import SegNet, SegOutput, Tap
from kdtune.models.backbones import Backbone, Conv, InvertedResiduals, ResNet, conv1x1, conv3x3
from kdtune.models.pspnet import BackboneName, PSPNetModel, Variant
from kdtune.modules import precisely, without_trace
from kdtune.resize import enlarged, pooled

SLOPES: dict[Variant, float] = {"skd": 0.01, "semseg": 0.0}  # of the heads' leaky ReLU below zero
POOLS = (1, 2, 3, 6)  # cells per side of the pyramid's four average pools
SKD_WIDTHS: dict[BackboneName, int] = {
    "resnet18": 128,
    "resnet34": 128,
    "resnet50": 512,
    "resnet101": 512,
    "efficientnet_b0": 128,
    "mobilenet_v3_large": 128,
}


class PSPNet(SegNet):
    """The network of a ``PSPNetModel``.

    Training needs at least two images in a batch: of the 1x1 pool, BatchNorm sees one value per image.
    """

    backbone: Backbone

    def __init__(self, config: PSPNetModel, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.backbone = _backbone(config)
        deepest, middle = self.backbone.channels["layer4"], self.backbone.channels["layer3"]
        if config.variant == "skd":
            width = aux_width = config.scaled(SKD_WIDTHS[config.backbone])
        else:
            width, aux_width = deepest // len(POOLS), middle // 4
        self.pyramid = Pyramid(deepest, width, config)
        # Both classifiers keep torch's own start: by fan-out the first logits would be 2 to 5 in size.
        self.classifier = nn.Conv2d(width, num_classes, 1)
        self.auxiliary = nn.Sequential(
            # The bias is SKD's: BatchNorm cancels it, but its published checkpoints have it.
            Conv(middle, aux_width, 3, padding=1, bias=config.variant == "skd"),
            nn.BatchNorm2d(aux_width),
            nn.LeakyReLU(SLOPES[config.variant], inplace=True),
            nn.Dropout2d(config.dropout),
            nn.Conv2d(aux_width, num_classes, 1),
        )
        self.channels = {**self.backbone.channels, "psp": width, "logits": num_classes, "aux": num_classes}

    def forward(self, image: Tensor, taps: frozenset[Tap] = frozenset()) -> SegOutput:
        """See ``SegNet.forward``; the auxiliary head runs only in training or when asked for."""
        assert taps <= self.channels.keys(), f"no such tap: {sorted(taps - self.channels.keys())}"
        with_aux = self.training or "aux" in taps
        maps = self.backbone(image, {"layer4", *taps, *(["layer3"] if with_aux else [])})
        maps["psp"] = self.pyramid(maps["layer4"])  # (N, C, h, w)
        logits = maps["logits"] = precisely(self.classifier, maps["psp"])  # (N, K, h, w)
        aux = None
        if with_aux:
            aux = maps["aux"] = precisely(self.auxiliary[-1], self.auxiliary[:-1](maps["layer3"]))  # (N, K, h, w)
        return SegOutput(logits, {tap: maps[tap] for tap in self.channels if tap in taps}, aux)

    def after(self, tap: Tap, feature: Tensor) -> Tensor:
        """See ``SegNet.after``: any tap but the two that give logits."""
        if tap not in (*self.backbone.channels, "psp"):
            return super().after(tap, feature)
        with without_trace(self):
            if tap != "psp":
                feature = self.pyramid(self.backbone.following(tap)(feature))
            return precisely(self.classifier, feature)


class Average(nn.Module):
    """The mean over ``cells`` x ``cells`` windows."""

    def __init__(self, cells: int) -> None:
        super().__init__()
        self.cells = cells

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, h, w) to (N, C, cells, cells)."""
        return pooled(x, self.cells)


class Pyramid(nn.Module):
    """Average pools of 1, 2, 3 and 6 cells a side, each reduced to ``width`` channels, fused with the input.

    The variants concatenate in their own order: SKD the pools first, semseg the input first.
    """

    def __init__(self, inputs: int, width: int, config: PSPNetModel) -> None:
        super().__init__()
        slope = SLOPES[config.variant]
        self.input_first = config.variant == "semseg"
        self.branches = nn.ModuleList(
            nn.Sequential(
                Average(cells),
                conv1x1(inputs, width),
                nn.BatchNorm2d(width),
                nn.LeakyReLU(slope, inplace=True),
            )
            for cells in POOLS
        )
        self.fuse = nn.Sequential(
            conv3x3(inputs + len(POOLS) * width, width),
            nn.BatchNorm2d(width),
            nn.LeakyReLU(slope, inplace=True),
            nn.Dropout2d(config.dropout),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, h, w) to (N, width, h, w)."""
        averages = [enlarged(branch(x), x.shape[-2:]) for branch in self.branches]
        parts = [x, *averages] if self.input_first else [*averages, x]
        fused: Tensor = self.fuse(torch.cat(parts, dim=1))  # (N, inputs + 4 width, h, w) -> (N, width, h, w)
        return fused


def _backbone(config: PSPNetModel) -> Backbone:
    """The backbone with random weights."""
    if not config.backbone.startswith("resnet"):
        return InvertedResiduals(config.backbone)
    stem = config.stem or "plain"
    # SKD's pool rounds up (512 pixels give 65 cells in the end), semseg's and torchvision's down (64).
    ceil_mode = stem == "deep" and config.variant == "skd"
    return ResNet(config.backbone, stem=stem, ceil_mode=ceil_mode, scaled=config.scaled)
