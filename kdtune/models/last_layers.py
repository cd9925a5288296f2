"""The layers that logits come from, of any network; they compute in float32 where others need not."""

from typing import Any

from torch import Tensor, nn

from kdtune.modules import precisely

Layer = nn.Conv2d | nn.ConvTranspose2d | nn.Linear


def last_layers(network: nn.Module, *logits: Tensor | None) -> list[Layer]:
    """Those between which and the logits no other layer is, told by autograd; none where it has recorded nothing."""
    owners = {p: layer for layer in network.modules() if isinstance(layer, Layer) for p in layer.parameters()}
    left: list[Any] = [each.grad_fn for each in logits if each is not None]
    found, seen = [], set()
    while left:
        node = left.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        inputs = [each for each, _ in node.next_functions]
        owned = [owners[each.variable] for each in inputs if getattr(each, "variable", None) in owners]
        found += owned
        left += [] if owned else inputs
    return list(dict.fromkeys(found))  # a layer has a weight and a bias


def make_precise(layer: nn.Module, num_classes: int) -> None:
    """The layer computes in float32 at least from now on, if it gives a value per class and has such weights."""
    if not isinstance(layer, Layer) or isinstance(layer, _Precise) or layer.weight.dtype.itemsize < 4:
        return
    if num_classes == (layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels):
        kind = type(layer)
        layer.__class__ = type(kind.__name__, (_Precise, kind), {})  # not around it: keys of weights would change


class _Precise(nn.Module):
    """Mixed into the class of a layer."""

    def forward(self, features: Tensor) -> Tensor:
        """What the layer gives, see ``precisely``."""
        return precisely(super().forward, features)
