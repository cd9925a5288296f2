"""A network that a file describes, and its weights: built once they are seen to fit, so that it is as large as they."""

import torch

from kdtune.base import Model, SegNet
from kdtune.training.weights import Weights, fitting, load_weights


def built(model: Model, num_classes: int, weights: Weights, source: str) -> SegNet:
    """The network with these weights; ``source`` is where they are from.

    What a file says of its network may need any memory. So that network is first made without values, which takes none.

    Raises:
        UserError: the weights are those of another architecture.
    """
    if model.name != "external":
        fitting(plain(model, num_classes), weights, source)
    network = model.model_copy(update={"init": "random"}).build(num_classes)
    load_weights(network, weights, source)
    return network


def plain(model: Model, num_classes: int) -> SegNet:
    """The network to be looked at, without values; with random ones where other packages' code may need values."""
    start = model.model_copy(update={"init": "random"})
    if model.name == "external":  # no file chooses that code
        return start.build(num_classes)
    with torch.device("meta"):
        return start.build(num_classes)
