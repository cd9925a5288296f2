"""L_LC: a student's earlier layers see the context that its later ones see. No teacher."""

import itertools
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field, field_validator

from kdtune.base import Confidence, LossTerm, SegOutput, Tap, at_least_float32

if TYPE_CHECKING:
    from torch import Tensor


class LayerwiseContext(LossTerm):
    r"""Layer-wise context distillation: the relations between regions in a layer become those of the next one.

    .. math::
        L = \mathrm{mean}_l \; \mathrm{mean}_{N,i,j} \;
        (a^l_{ij} - \mathrm{sg}(a^{l+1}_{ij}))^2, \qquad a_{ij} = \cos(f_i, f_j)

    without unit: averaged over the pairs of neighbours in ``layers``, in their order, over images and all pairs of
    regions, i = j included. f_i are the student's features, averaged over ``cells`` x ``cells`` regions of the map; a
    smaller map has fewer regions, and then both layers of a pair have as many. sg: no gradient flows into the later
    layer. No teacher is needed, and no label: ignored pixels are included. Float32 at least.

    What the authors call context, and how layers are paired, could not be read: our reconstruction from the abstract.
    No weight is known.

    Source: An et al. 2022, IEEE T-ITS 23(9), layer-wise context distillation; no code was found.
    """

    symbol: ClassVar[str] = "L_LC"
    source: ClassVar[str] = "An et al. 2022, IEEE T-ITS 23(9), layer-wise context, from the abstract"
    confidence: ClassVar[Confidence] = "reconstruction"
    needs_teacher: ClassVar[bool] = False

    layers: Annotated[tuple[Tap, ...], Field(min_length=2)] = ("layer2", "layer3", "layer4")
    cells: Annotated[int, Field(ge=2)] = 16  # regions a side

    @field_validator("layers")
    @classmethod
    def _each_once(cls, layers: tuple[Tap, ...]) -> tuple[Tap, ...]:
        if len(set(layers)) < len(layers):
            raise ValueError(f"names a layer twice: {', '.join(layers)}")
        return layers

    @property
    def taps(self) -> frozenset[Tap]:
        """Its layers."""
        return frozenset(self.layers)

    def __call__(self, student: SegOutput, teacher: SegOutput | None, target: "Tensor") -> "Tensor":
        """See the class."""
        import torch
        import torch.nn.functional as F

        from kdtune.losses.relations import cosines

        maps = at_least_float32(*(student.taps[layer] for layer in self.layers))  # (N, C, h, w) each
        with torch.autocast(maps[0].device.type, enabled=False):  # it would multiply matrices in bfloat16
            cells = min(self.cells, *(side for each in maps for side in each.shape[-2:]))
            relations = [cosines(each, cells) for each in maps]  # (N, M, M)
            pairs = itertools.pairwise(relations)
            return torch.stack([F.mse_loss(earlier, later.detach()) for earlier, later in pairs]).mean()
