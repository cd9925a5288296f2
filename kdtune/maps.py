"""What networks give, and what terms do with it first. Torch is imported where something is computed."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

if TYPE_CHECKING:
    from torch import Tensor

# The name of a feature map that a network can give. A network says which it has (``Model.tap_names``); these mean the
# same in every one that has them:
#   stem              what the first stage is given
#   layer1 to layer4  what the stages of the backbone give
#   psp               what the classifier is given
#   logits            (N, K, h, w), as the network gives them, before they are enlarged
#   aux               the logits of the auxiliary head
Tap = Annotated[str, Field(pattern=r"^[A-Za-z]\w*$", max_length=40, json_schema_extra={"format": "tap"})]
FeatureTap = Tap  # its name where a term reads features


@dataclass
class SegOutput:
    """What a network returns, by name."""

    logits: "Tensor"  # (N, K, h, w), at the network's own stride, before upsampling
    taps: "dict[str, Tensor]" = field(default_factory=dict)  # named feature maps (N, C, h, w), those asked for
    aux: "Tensor | None" = None  # (N, K, h, w), logits of the auxiliary head; None unless training or asked for
    digests: "dict[str, Tensor]" = field(default_factory=dict)  # in the place of taps, see ``LossTerm.digest``
    # (N, 3, H, W), where a term ``needs_image``: the crop before any network's preprocessing, float32, RGB from 0 to 1,
    # 0 where it is padded; contiguous, on the device, without gradient, and not to be changed
    image: "Tensor | None" = None


def align(source: "Tensor", like: "Tensor") -> "Tensor":
    """``source`` (N, C, h', w') resized to the cells of ``like``: bilinear, align_corners=True; itself if equal."""
    return resized(source, like.shape[-2:])


def resized(source: "Tensor", cells: Sequence[int]) -> "Tensor":
    """``source`` (N, C, h', w') at ``cells`` (h, w): bilinear, align_corners=True; itself if equal."""
    if tuple(source.shape[-2:]) == tuple(cells):
        return source
    from kdtune.resize import enlarged

    return enlarged(source, cells)


def at_least_float32(*maps: "Tensor") -> "list[Tensor]":
    """The maps in one precision, float32 or float64: half precision has too few digits for similarities and softmax."""
    import torch

    dtype = torch.float32
    for each in maps:
        dtype = torch.promote_types(dtype, each.dtype)
    return [each.to(dtype) for each in maps]
