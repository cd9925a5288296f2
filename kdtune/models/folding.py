"""A frozen network made cheaper to run on a GPU: BatchNorm inside its convolutions, weights cast once."""

import copy
import itertools

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from kdtune.base import SegNet
from kdtune.models.backbones import BasicBlock, Bottleneck, ResNet
from kdtune.models.pspnet_network import PSPNet

NUMBERED = (BasicBlock, Bottleneck, ResNet)  # their bn1 follows their conv1, and so on


def folded(network: SegNet) -> SegNet:
    """A copy in eval mode whose convolutions do what the BatchNorm behind them did; only of kdtune's own networks.

    Equal but for rounding, and so are all taps: none lies between a convolution and its BatchNorm.
    """
    made = copy.deepcopy(network).eval()
    if isinstance(made, PSPNet):
        for module in list(made.modules()):
            _fold(module)
    return made


def _fold(module: nn.Module) -> None:
    children = dict(module.named_children())
    pairs = []
    if isinstance(module, nn.Sequential):
        pairs = list(itertools.pairwise(children))
    elif isinstance(module, NUMBERED):
        pairs = [(name, name.replace("conv", "bn")) for name in children if name.startswith("conv")]
    for name, after in pairs:
        convolution, norm = children[name], children[after]
        if isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
            setattr(module, name, fuse_conv_bn_eval(convolution, norm))
            setattr(module, after, nn.Identity())


def cast(network: SegNet, dtype: torch.dtype) -> SegNet:
    """The network itself, the weights of what autocast would cast at each step in ``dtype``.

    What gives logits stays as it is: it runs in float32.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            outputs = module.out_features if isinstance(module, nn.Linear) else module.out_channels
            if outputs != network.num_classes:
                module.to(dtype)
    return network
