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
    model = model.model_copy(update={"init": "random"})
    if model.name != "external":  # other packages' code may need values, and no file chooses it
        with torch.device("meta"):
            empty = model.build(num_classes)
        fitting(empty, weights, source)
    network = model.build(num_classes)
    load_weights(network, weights, source)
    return network
