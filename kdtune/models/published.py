"""The state dicts of the authors' own networks, renamed to ours. A prefix ``module.`` is dropped."""

from collections.abc import Iterable, Mapping

from torch import Tensor

ABN_EPS = 1e-5  # of InPlaceABN, added to its affine factor

SKD_NAMES = {
    "pspmodule.stages.": "pyramid.branches.",
    "pspmodule.bottleneck.": "pyramid.fuse.",
    "head.": "classifier.",
    "dsn.0.": "auxiliary.0.",
    "dsn.1.": "auxiliary.1.",
    "dsn.3.": "auxiliary.4.",  # SKD's activation is part of its BatchNorm
    **{f"{layer}.": f"backbone.{layer}." for layer in ("layer1", "layer2", "layer3", "layer4")},
    **{f"{part}.": f"backbone.{part}." for part in ("conv1", "bn1", "conv2", "bn2", "conv3", "bn3")},
}

SEMSEG_NAMES = {
    "layer0.0.": "backbone.conv1.",
    "layer0.1.": "backbone.bn1.",
    "layer0.3.": "backbone.conv2.",
    "layer0.4.": "backbone.bn2.",
    "layer0.6.": "backbone.conv3.",
    "layer0.7.": "backbone.bn3.",
    "ppm.features.": "pyramid.branches.",
    "cls.0.": "pyramid.fuse.0.",
    "cls.1.": "pyramid.fuse.1.",
    "cls.4.": "classifier.",
    "aux.": "auxiliary.",
    **{f"{layer}.": f"backbone.{layer}." for layer in ("layer1", "layer2", "layer3", "layer4")},
}


SIGNS = {  # layout -> how a key begins that only it has
    "skd": ("pspmodule.",),
    "semseg": ("layer0.",),
    "kdtune": ("pyramid.", "network."),
}


def layout_of(keys: Iterable[str]) -> str | None:
    """Whose state dict has such keys: ``skd``, ``semseg``, ``kdtune``, ``torchvision`` (segmentation), or unknown."""
    bare = [key.removeprefix("module.") for key in keys]
    found = (layout for layout, signs in SIGNS.items() if any(key.startswith(signs) for key in bare))
    both = all(any(key.startswith(part) for key in bare) for part in ("backbone.", "classifier."))
    return next(found, "torchvision" if both else None)


def from_skd(state: Mapping[str, Tensor], *, inplace_abn: bool) -> dict[str, Tensor]:
    """The state of SKD's ``Res_pspnet`` for ``PSPNetModel(stem="deep")``, in the same order.

    Args:
        state: SKD's key -> tensor.
        inplace_abn: the weights were trained with InPlaceABN on a GPU, as all published ones were. Its affine
            factor is abs(weight) + 1e-5, BatchNorm's is weight: the weights are rewritten so that they agree.

    Raises:
        ValueError: a key that the network does not have.

    Source: Liu et al. 2019, arXiv:1903.04197, the authors' code and its InPlaceABN kernel.
    """
    renamed = _renamed(state, SKD_NAMES, "SKD's Res_pspnet")
    if not inplace_abn:
        return renamed
    return {
        key: value.abs() + ABN_EPS if key.endswith(".weight") and value.ndim == 1 else value
        for key, value in renamed.items()
    }


def from_semseg(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state of semseg's ``PSPNet`` for ``PSPNetModel(stem="deep", variant="semseg")``, in the same order.

    Raises:
        ValueError: a key that the network does not have.

    Source: Zhao et al. 2017, arXiv:1612.01105, the authors' PyTorch code.
    """
    return _renamed(state, SEMSEG_NAMES, "semseg's PSPNet")


def _renamed(state: Mapping[str, Tensor], names: Mapping[str, str], network: str) -> dict[str, Tensor]:
    return {_rename(key.removeprefix("module."), names, network): value for key, value in state.items()}


def _rename(key: str, names: Mapping[str, str], network: str) -> str:
    for theirs, ours in names.items():
        if key.startswith(theirs):
            return ours + key.removeprefix(theirs)
    raise ValueError(f"'{key}' is no key of {network}; its keys start with {', '.join(names)}")
