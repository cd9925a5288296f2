"""The network that a Python function built, looked at and wrapped so that its feature maps can be had."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from kdtune.base import SegNet, SegOutput, Tap, UserError
from kdtune.models.builders import find, first_line
from kdtune.models.external import CLASSES_ARGUMENT, ExternalModel
from kdtune.models.huggingface import from_config, own_keys, takes_config
from kdtune.models.last_layers import last_layers, make_precise
from kdtune.text import did_you_mean

PREFIX = "network."  # of every key of the state: the rest is the key that the network itself uses
SIZES = (64, 224, 512)  # sides of the image of the first look, tried in turn: some networks refuse small ones


def called(config: ExternalModel, num_classes: int) -> nn.Module:
    """What the builder returns.

    Raises:
        UserError: no such function, it raises, or what it returns is no network.
    """
    function = find(config.builder)
    try:
        if takes_config(function):
            key = "num_labels" if config.classes_argument == CLASSES_ARGUMENT else config.classes_argument
            network: Any = from_config(function, {**config.arguments, key: num_classes})
        else:
            network = function(**{**config.arguments, config.classes_argument: num_classes})
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        raise UserError(
            f"{config.builder} raised {first_line(error)}; check arguments, and classes_argument "
            f"(now '{config.classes_argument}'), the builder's name for the number of classes"
        ) from error
    if not isinstance(network, nn.Module):
        raise UserError(f"{config.builder} returns {type(network).__name__}, not a torch.nn.Module; give a builder")
    return network


class OtherClasses(UserError):
    """A network of another number of classes than it was asked for."""

    def __init__(self, text: str, classes: int) -> None:
        super().__init__(text)
        self.classes = classes


class External(SegNet):
    """The network of an ``ExternalModel``. Logits stay at its own resolution.

    Within autocast they are float32, as PSPNet's: the layers that they and the auxiliary ones come from compute in it.
    Autograd tells in the first look which these are. Of a network that it cannot follow, since its weights are frozen
    as it is built, say, only the ``classifier`` that the study names computes in float32; without a name its logits
    have the precision that autocast gives them.
    """

    def __init__(self, network: nn.Module, config: ExternalModel, num_classes: int) -> None:
        super().__init__()
        self.network = network
        self.config = config
        self.num_classes = num_classes
        paths = {f"taps.{tap}": path for tap, path in config.taps.items()}
        paths |= {key: path for key in ("classifier", "backbone") if (path := getattr(config, key)) is not None}
        known = dict(network.named_modules())
        for key, path in paths.items():
            if path not in known:
                raise UserError(f"{config.builder}: {key}: no submodule '{path}'{did_you_mean(path, known)}")
        theirs: Any = type(network)
        self._image: str | None = config.image_argument or (theirs.main_input_name if takes_config(theirs) else None)
        found, read = self._look()
        classes = found.logits.shape[1]
        if classes != num_classes:
            raise OtherClasses(
                f"{config.builder} gives logits of {classes} classes, the dataset has {num_classes}: they must agree; "
                f"classes_argument (now '{config.classes_argument}') is the builder's name for the number",
                classes,
            )
        self.channels = {tap: value.shape[1] for tap, value in found.taps.items()}
        last = last_layers(network, found.logits)
        self._found = config.classifier or _only_convolution(known, last, num_classes)
        given = read.get(self._found or "", [])
        self.classified = frozenset(tap for tap in config.taps if any(found.taps[tap] is each for each in given))
        named = [] if config.classifier is None else [self.classifier]
        for layer in (*last, *last_layers(network, found.aux), *named):
            make_precise(layer, num_classes)

    # The parts are properties: registered as modules, their weights would stand in the state twice.

    @property
    def classifier(self) -> nn.Module:  # type: ignore[override]
        """The convolution named ``classifier``, or else the only 1x1 convolution that the logits come from.

        Raises:
            UserError: neither is there.
        """
        if self._found is None:
            raise UserError(
                f"{self.config.builder}: its logits come from no single 1x1 convolution; name the last one with "
                "classifier: PATH"
            )
        return self.network.get_submodule(self._found)

    @property
    def classifier_path(self) -> str | None:
        """Where the classifier is; none if it is neither named nor found."""
        return self._found

    @property
    def backbone(self) -> nn.Module:  # type: ignore[override]
        """The part named ``backbone``, or all of the network."""
        return self.network.get_submodule(self.config.backbone or "")

    def forward(self, image: Tensor, taps: frozenset[Tap] = frozenset()) -> SegOutput:
        """See ``SegNet.forward``."""
        maps: dict[str, Tensor] = {}
        hooks = [self._hook(tap, maps) for tap in self.config.taps if tap in taps]
        try:
            returned = self.network(image) if self._image is None else self.network(**{self._image: image})
        finally:
            for hook in hooks:
                hook.remove()
        logits = self._picked(returned, self.config.output, "output")
        if "logits" in taps:
            maps["logits"] = logits
        aux = None
        if self.config.aux_output is not None and (self.training or "aux" in taps):
            aux = self._picked(returned, self.config.aux_output, "aux_output")
            if "aux" in taps:
                maps["aux"] = aux
        return SegOutput(logits, maps, aux)

    def after(self, tap: Tap, feature: Tensor) -> Tensor:
        """See ``SegNet.after``: of the tap that the classifier reads; at the feature's own cells."""
        if tap not in self.classified:
            raise UserError(
                f"{self.config.builder}: only the classifier can be run by itself, and it does not read '{tap}'; name "
                "the submodule that gives its input in taps, and the classifier"
            )
        logits: Tensor = self.classifier(feature)
        return logits

    def own_keys(self, weights: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """See ``SegNet.own_keys``: a file of kdtune has the network's own keys already."""
        if not takes_config(type(self.network)) or any(key.startswith(PREFIX) for key in weights):
            return weights
        return own_keys(self.network, weights)

    def _hook(self, tap: Tap, maps: dict[str, Tensor]) -> Any:
        """For one pass only: a hook that stays would keep the map, and go with every copy of the network."""
        path = self.config.taps[tap]

        def keep(module: nn.Module, args: Any, output: Any) -> None:
            if not isinstance(output, Tensor) or output.ndim != 4:
                raise UserError(
                    f"{self.config.builder}: taps.{tap}: '{path}' gives {_what(output)}, not a map (N, C, h, w); "
                    "name another submodule"
                )
            maps[tap] = output

        return self.network.get_submodule(path).register_forward_hook(keep)

    def _picked(self, returned: Any, key: str | None, field: str) -> Tensor:
        """The tensor (N, K, h, w) that ``key`` names in what the network returned."""
        found = returned
        if key is not None:
            if isinstance(returned, Mapping):
                found = returned.get(key)
            elif isinstance(returned, list | tuple) and key.isdecimal():
                found = returned[int(key)] if int(key) < len(returned) else None
            else:
                found = getattr(returned, key, None)
        if not isinstance(found, Tensor) or found.ndim != 4:
            named = f"{field}: '{key}' is {_what(found)}" if key is not None else f"it returns {_what(returned)}"
            keys = f"; its keys: {', '.join(map(str, returned))}" if isinstance(returned, Mapping) else ""
            raise UserError(
                f"{self.config.builder}: {named}, not logits (N, K, h, w){keys}; name the logits with {field}"
            )
        return found

    def _look(self) -> tuple[SegOutput, dict[str, list[Any]]]:
        """One pass over a black image that changes no weight, no statistic and no random number.

        Beside the output, what each layer was given that may be the classifier, by its path.
        """
        first = next(self.network.parameters(), torch.zeros(0))
        wanted = frozenset[Tap](self.config.tap_names)
        error: Exception | SystemExit | None = None
        read: dict[str, list[Any]] = {}
        with self._reading(read), resting(self), torch.random.fork_rng(devices=[]):
            for side, recorded in itertools.product(SIZES, (True, False)):  # some refuse autograd
                try:
                    with torch.set_grad_enabled(recorded):
                        image = torch.zeros(1, 3, side, side, device=first.device, dtype=first.dtype)
                        found = self(image, wanted)
                        self._refuse_probabilities(found, image, wanted)
                    break
                except UserError:
                    raise
                except (Exception, SystemExit) as raised:
                    error = error or raised
            else:
                assert error is not None
                raise UserError(f"{self.config.builder}: its network raised {first_line(error)}") from error
        missing = wanted - found.taps.keys()
        if missing:
            tap = min(missing)
            path = self.config.taps[tap]
            raise UserError(f"{self.config.builder}: taps.{tap}: the network does not call '{path}'; name another")
        return found, read

    def _refuse_probabilities(self, found: SegOutput, image: Tensor, taps: frozenset[Tap]) -> None:
        """Logits that are probabilities would go through a softmax twice. What looks so is tried on noise, too."""
        if not any(map(_are_probabilities, (found.logits, found.aux))):
            return
        again = self(torch.randn_like(image), taps)
        pairs = {"output": (found.logits, again.logits), "aux_output": (found.aux, again.aux)}
        for field, pair in pairs.items():
            if all(map(_are_probabilities, pair)):
                which = "logits" if field == "output" else "auxiliary logits"
                raise UserError(
                    f"{self.config.builder} gives probabilities, with the sum 1 over the classes, as its {which}: have "
                    "it leave out the softmax (of segmentation_models_pytorch: activation: null), or name what comes "
                    f"before it with {field}, if it returns that, too"
                )

    @contextmanager
    def _reading(self, read: dict[str, list[Any]]) -> Iterator[None]:
        """What is given in this block to each layer that may be the classifier goes to ``read``."""
        modules = dict(self.network.named_modules())
        named = self.config.classifier
        paths = [path for path, m in modules.items() if _is_last(m, self.num_classes)] if named is None else [named]
        hooks = [
            modules[path].register_forward_pre_hook(lambda _, given, path=path: read.setdefault(path, []).extend(given))
            for path in paths
        ]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()


def _are_probabilities(values: Tensor | None) -> bool:
    """Whether these (N, K, h, w) are none below 0, with the sum 1 at each cell; not told without values."""
    if values is None or values.is_meta or values.shape[1] == 0:
        return False
    sums = values.detach().float().sum(dim=1)
    return bool((values >= 0).all()) and bool(((sums - 1).abs() <= 1e-4).all())


def _is_last(module: nn.Module, num_classes: int) -> bool:
    """Whether it may be a classifier: a 1x1 convolution with a value per class."""
    return isinstance(module, nn.Conv2d) and module.out_channels == num_classes and module.kernel_size == (1, 1)


def _only_convolution(modules: Mapping[str, nn.Module], last: Sequence[nn.Module], num_classes: int) -> str | None:
    """The path of the one layer before the logits, if it is one that may be the classifier."""
    if len(last) != 1 or not _is_last(last[0], num_classes):
        return None
    return next(path for path, module in modules.items() if module is last[0])


@contextmanager
def resting(network: nn.Module) -> Iterator[None]:
    """Eval mode, and then each module as it was."""
    before = {module: module.training for module in network.modules()}
    network.eval()
    try:
        yield
    finally:
        for module, training in before.items():
            module.training = training


def _what(value: Any) -> str:
    return f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
