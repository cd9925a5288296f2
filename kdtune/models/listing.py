"""A network as a person wants to see it who writes its keys: logits, classifier, taps, and the maps of its modules."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from kdtune.base import SegNet, Tap, UserError
from kdtune.models.builders import first_line
from kdtune.models.external_network import External, resting


def listed(network: SegNet, size: Sequence[int], modules: bool) -> Iterator[str]:
    """Lines of what one pass over a black image of this size (H, W) shows; ``modules``: every one that gives a map.

    The pass changes no weight, no statistic and no random number.

    Raises:
        UserError: the network takes no image of that size.
    """
    found: dict[str, Tensor] = {}

    def keep(name: str, output: object) -> None:
        if name and isinstance(output, Tensor) and output.ndim == 4:
            found[name] = output

    core = network.network if isinstance(network, External) else network
    hooks = [
        module.register_forward_hook(lambda _, __, output, name=name: keep(name, output))
        for name, module in core.named_modules()
    ]
    try:
        with resting(network), torch.no_grad(), torch.random.fork_rng(devices=[]):
            made = network(torch.zeros(1, 3, *size), frozenset[Tap](network.channels))
    except UserError:
        raise
    except (Exception, SystemExit) as error:  # a network of another package may raise anything
        raise UserError(f"it takes no image of {size[0]} x {size[1]} pixels: {first_line(error)}") from error
    finally:
        for hook in hooks:
            hook.remove()
    weights = sum(parameter.numel() for parameter in network.parameters())
    yield f"  {weights / 1e6:.2f} million weights"
    yield f"  logits: {_shape(made.logits, size)}"
    yield f"  classifier: {_classifier(network, core)}"
    for tap in network.channels:
        path = network.config.taps.get(tap) if isinstance(network, External) else None
        yield f"  tap {tap}: {_shape(made.taps[tap], size)}{f', of {path}' if path else ''}"
    if modules:
        yield "  modules that give a map:"
        yield from (f"    {name}: {_shape(output, size)}" for name, output in found.items())


def _shape(output: Tensor, size: Sequence[int]) -> str:
    channels, height, width = output.shape[1:]
    return f"{channels} channels, {height} x {width} of {size[0]} x {size[1]} pixels"


def _classifier(network: SegNet, core: nn.Module) -> str:
    if not isinstance(network, External):
        return str(next(name for name, module in core.named_modules() if module is network.classifier))
    if network.classifier_path is None:
        return "neither named nor found; only terms that read it need one"
    return f"{network.classifier_path}, {'named' if network.config.classifier else 'found'}"
