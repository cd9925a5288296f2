"""L_PSD: from layer to layer the student's attention moves as the teacher's does."""

import itertools
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field, field_validator

from kdtune.base import Confidence, LossTerm, Published, SegOutput, Tap, align, at_least_float32

if TYPE_CHECKING:
    from torch import Tensor


class PixelSimilarity(LossTerm):
    r"""Pixel-wise similarity of double similarity distillation: residual attention maps copy the teacher's.

    .. math::
        L = \mathrm{mean}_{l < m} \; \mathrm{mean}_{N,h,w} \; (r^S_{lm} - r^T_{lm})^2, \qquad
        r_{lm} = \frac{a_m - a_l}{\|a_m - a_l\|_2}, \qquad a = \frac{q}{\|q\|_2}, \qquad
        q_i = \mathrm{mean}_c \; f_{c,i}^2

    without unit: averaged over all pairs of ``layers``, in their order, over images and cells. Both norms are over the
    cells of an image, so the mean falls with the number of cells: at most 4 / (h w). All maps, the teacher's too, are
    resized to the cells of the student's last of ``layers`` (bilinear, align_corners=True). Student and teacher may
    differ in channels. Ignored pixels are included: the labels are not read. Float32 at least.

    CIRKD's script: weight 1000 on this mean, and L_CSD beside it.

    Source: Feng et al. 2021, arXiv:2107.08591, pixel-wise similarity; code: CIRKD's ``CriterionDoubleSimKD``.
    """

    symbol: ClassVar[str] = "L_PSD"
    source: ClassVar[str] = "Feng et al. 2021, arXiv:2107.08591, pixel-wise similarity, as in CIRKD's code"
    confidence: ClassVar[Confidence] = "code"
    published_weight: ClassVar[Published | None] = Published(1e3, "CIRKD's script")

    layers: Annotated[tuple[Tap, ...], Field(min_length=2)] = ("aux", "psp", "logits")

    @field_validator("layers")
    @classmethod
    def _each_once(cls, layers: tuple[Tap, ...]) -> tuple[Tap, ...]:
        if len(set(layers)) < len(layers):
            raise ValueError(f"names a layer twice: {', '.join(layers)}")
        return layers

    @property
    def taps(self) -> frozenset[Tap]:
        """Those of its layers that are none of the logits."""
        return frozenset(layer for layer in self.layers if layer != "logits")

    def __call__(self, student: SegOutput, teacher: SegOutput | None, target: "Tensor") -> "Tensor":
        """See the class."""
        import torch.nn.functional as F

        assert teacher is not None
        maps = [[_map(output, layer) for layer in self.layers] for output in (student, teacher)]
        ours, theirs = (self._residuals(each, maps[0][-1]) for each in (maps[0], [m.detach() for m in maps[1]]))
        return F.mse_loss(ours, theirs)

    def _residuals(self, maps: "list[Tensor]", like: "Tensor") -> "Tensor":
        """(pairs, N, P), each row of length 1."""
        import torch
        import torch.nn.functional as F

        from kdtune.losses.attention import attention

        each = [attention(align(feature, like)) for feature in at_least_float32(*maps)]
        return F.normalize(torch.stack([b - a for a, b in itertools.combinations(each, 2)]), dim=2, eps=1e-12)


def _map(output: SegOutput, layer: Tap) -> "Tensor":
    return output.logits if layer == "logits" else output.taps[layer]
