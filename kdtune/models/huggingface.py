"""Networks of the package transformers: a class that is made from a configuration, and files that name its parts anew.

Nothing is fetched, and no code but that of the package runs.
"""

import copy
import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from kdtune.base import UserError
from kdtune.text import did_you_mean


def takes_config(function: Callable[..., Any]) -> bool:
    """Whether it is a class of transformers, whose one argument is a configuration."""
    return inspect.isclass(function) and hasattr(function, "config_class") and hasattr(function, "main_input_name")


def from_config(builder: Any, arguments: Mapping[str, Any]) -> nn.Module:
    """The network of such a class; ``arguments`` are the fields of its configuration.

    Raises:
        UserError: the configuration has no such field. The class itself takes any name, and ignores it.
    """
    known = {*vars(builder.config_class()), *inspect.signature(builder.config_class.__init__).parameters, "num_labels"}
    for key in arguments:
        if key not in known:
            raise UserError(
                f"builder {builder.__name__}: arguments: its {builder.config_class.__name__} has no field '{key}'"
                f"{did_you_mean(key, known)}"
            )
    network: nn.Module = builder(builder.config_class(**copy.deepcopy(dict(arguments))))
    return network


def own_keys(network: Any, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of a file under the names that this version of transformers gives the parts of the network.

    The names in files are those of the first version. What the network does not have keeps its name, and what has
    another shape there keeps its shape, without values.
    """
    if weights.keys() >= network.state_dict().keys():
        return dict(weights)
    with _quietly(), torch.random.fork_rng(devices=[]):
        read, told = type(network).from_pretrained(
            None,
            config=copy.deepcopy(network.config),
            state_dict=dict(weights),
            dtype=torch.float32,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    odd = {key: torch.empty(shape, device="meta") for key, shape, *_ in told["mismatched_keys"]}
    absent = {*told["missing_keys"], *odd}
    found = {key: value for key, value in read.state_dict().items() if key not in absent}
    return found | odd | {key: weights[key] for key in told["unexpected_keys"] if key in weights}


@contextmanager
def _quietly() -> Iterator[None]:
    """Without the package's bars and warnings: what does not fit is told by kdtune."""
    from transformers.utils import logging

    before, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(before)
        if bars:
            logging.enable_progress_bar()
