"""How many classes the network of a file of weights tells apart, where no record says it."""

from kdtune.base import Model, SegNet, UserError
from kdtune.models.external_network import OtherClasses
from kdtune.training.built import plain
from kdtune.training.weights import Weights, fitting, own_names

TRIED = 61  # classes of the network that is built to be looked at: no layer is likely to have as many channels


def classes_told(model: Model, weights: Weights, file: str) -> int:
    """From the shape of the classifier that the model names, or else of all that changes with the number of classes.

    Raises:
        UserError: the network cannot be built, the weights are another network's, or their shapes do not tell.
    """
    named = "classifier" if model.name == "pspnet" else getattr(model, "classifier", None)
    for key in (f"network.{named}.weight", f"{named}.weight"):
        if named and key in weights and weights[key].ndim:
            return int(weights[key].shape[0])
    try:
        network = plain(model, TRIED)
    except OtherClasses as error:  # it has its own mind about the number
        return error.classes
    found = _sizes(network, weights)
    if not found:
        fitting(network, weights, file)  # says what differs in another network
    if len(found) != 1:
        raise UserError(
            f"{file}: the shapes in it do not tell how many classes it has; name its last 1x1 convolution in --model, "
            "with classifier: PATH"
        )
    return found.pop()


def _sizes(network: SegNet, weights: Weights) -> set[int]:
    """The first sizes of the file's tensors where the network has ``TRIED``, and all others are equal."""
    own = network.state_dict()
    given = own_names({**network.own_keys(weights)}, own)
    pairs = [(value.shape, given[key].shape) for key, value in own.items() if key in given]
    return {int(theirs[0]) for ours, theirs in pairs if ours[:1] == (TRIED,) and theirs and theirs[1:] == ours[1:]}
