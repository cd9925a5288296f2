"""A file of weights that a user names, and the network that it holds."""

from dataclasses import dataclass

from kdtune.analysis.checkpoint_file import file_of
from kdtune.base import Model, SegNet, UserError
from kdtune.devices import compute_device
from kdtune.study.given_model import model_from, network_named
from kdtune.training.built import built
from kdtune.training.hub_folder import chooses_code
from kdtune.training.weights import WeightsRecord, read_record, read_weights
from kdtune.training.weights_classes import classes_told


@dataclass(frozen=True)
class Opened:
    """A network from a file, ready to answer."""

    file: str
    model: Model
    record: WeightsRecord
    network: SegNet


def named_network(checkpoint: str, model: str | None) -> tuple[str, WeightsRecord | None, Model]:
    """The file of a checkpoint, what it says of itself, and its network.

    Args:
        checkpoint: a file of weights, or the folder of a trial's checkpoint.
        model: the network as YAML; none: as the file's record says.

    Raises:
        UserError: no such file, or nothing says which network it is.
    """
    file = file_of(checkpoint)
    record = read_record(file)
    return file, record, _network(file, record, model)


def opened_network(checkpoint: str, model: str | None) -> Opened:
    """The network of a checkpoint with its weights, on this machine's device; see ``named_network``.

    Raises:
        UserError: as ``named_network``, and weights that do not fit, or that do not tell how many classes there are.
    """
    file, record, found = named_network(checkpoint, model)
    weights = read_weights(file)
    if record is None:  # its classes then have no names
        record = WeightsRecord(model=found.model_dump(mode="json"), num_classes=classes_told(found, weights, file))
    network = built(found, record.num_classes, weights, file)
    return Opened(file, found, record, network.to(compute_device()).eval().requires_grad_(False))


def _network(file: str, record: WeightsRecord | None, model: str | None) -> Model:
    if model is not None:
        return network_named(model)
    if record is None:
        raise UserError(
            f"{file}: says not which network it is: name it with --model '{{name: pspnet, backbone: resnet18}}', or "
            "convert the file with `kdtune teacher import`"
        )
    # building it imports code, which a file must not choose
    if record.model.get("name") == "external" and chooses_code(record.model):
        raise UserError(f"{file}: holds a network of another package ({record.model.get('builder')}): give its --model")
    return model_from(record.model, f"{file}: its kdtune record")
