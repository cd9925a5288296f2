"""PSPNet: a dilated backbone, a pyramid of average pools and an auxiliary head, as SKD and semseg have it."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, PositiveFloat, model_validator

from kdtune.base import Model, Tap

if TYPE_CHECKING:
    from kdtune.base import SegNet

BackboneName = Literal["resnet18", "resnet34", "resnet50", "resnet101", "efficientnet_b0", "mobilenet_v3_large"]
Variant = Literal["skd", "semseg"]


class PSPNetModel(Model):
    """PSPNet at output stride 8.

    Published networks: SKD's teacher is ``backbone=resnet101, stem=deep``, its student ``backbone=resnet18,
    stem=deep``; semseg's PSPNet-50 is ``backbone=resnet50, stem=deep, variant=semseg``. ImageNet weights are
    torchvision's, whose stem is plain.

    Source: Zhao et al. 2017, arXiv:1612.01105; Liu et al. 2019, arXiv:1903.04197; the authors' code of both.
    """

    name: Literal["pspnet"] = "pspnet"
    backbone: BackboneName
    stem: Literal["deep", "plain"] | None = None  # deep: three 3x3; plain, and None: torchvision's
    variant: Variant = "skd"  # widths, activation and order of the heads
    width: PositiveFloat = 1.0  # times every channel count, to the nearest multiple of 4
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1  # share of channels dropped before each classifier

    @property
    def label(self) -> str:
        """Name and backbone, and its width where that is not the usual one."""
        return f"{self.name}-{self.backbone}" + (f"-{self.width:g}" if self.width != 1.0 else "")

    @property
    def tap_names(self) -> Sequence[Tap]:
        """See ``Model.tap_names``.

        ``stem`` is what ``layer1`` begins with: of a ResNet what the max pool gives (stride 4), of the others what the
        first convolution with its BatchNorm and activation gives (stride 2).
        """
        return ("stem", "layer1", "layer2", "layer3", "layer4", "psp", "logits", "aux")

    @model_validator(mode="after")
    def _fits_backbone(self) -> "PSPNetModel":
        if not self.backbone.startswith("resnet"):
            own = f"backbone '{self.backbone}' exists only with"
            if self.stem == "deep":
                raise ValueError(f"{own} its plain stem, got stem='deep'")
            if self.width != 1:
                raise ValueError(f"{own} width 1, got width={self.width}")
            if self.variant == "semseg":
                raise ValueError(f"{own} variant 'skd', got variant='semseg'")
        return self

    @model_validator(mode="after")
    def _fits_init(self) -> "PSPNetModel":
        if self.init == "imagenet" and self.stem == "deep":
            raise ValueError("init='imagenet' (torchvision's weights) needs the plain stem, got stem='deep'")
        if self.init == "imagenet" and self.width != 1:
            raise ValueError(f"init='imagenet' (torchvision's weights) needs width 1, got width={self.width}")
        return self

    def scaled(self, channels: int) -> int:
        """A published number of channels times ``width``: the nearest multiple of 4, at least 4."""
        return max(4, 4 * math.floor(channels * self.width / 4 + 0.5))

    def build(self, num_classes: int) -> "SegNet":
        """See ``Model.build``. On the meta device no weights are read."""
        from kdtune.models.backbones import load_imagenet
        from kdtune.models.pspnet_network import PSPNet

        network = PSPNet(self, num_classes)
        if self.init == "imagenet":
            load_imagenet(network.backbone, self.backbone)
        return network
