"""L_PA: pooled regions of the image resemble each other as they do in the teacher."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from kdtune.base import Confidence, LossTerm, Published, SegOutput, Tap, at_least_float32, resized

if TYPE_CHECKING:
    from torch import Tensor

SKD_POOL = 0.5


class PairWise(LossTerm):
    r"""Pair-wise distillation: the similarities between pooled regions are the teacher's.

    .. math:: L = \mathrm{mean}_{N,i,j} \; (a^T_{ij} - a^S_{ij})^2, \qquad a_{ij} = \cos(f_i, f_j)

    without unit, on the features after the pyramid module, max-pooled to M nodes f_i; averaged over images
    and all M x M pairs, i = j included. Ignored pixels are included: the labels are not read. Student and
    teacher may differ in channels. Similarities are computed in float32 at least.

    ``convention``:

    * ``skd``: kernel and stride are ``pool`` times the map, rounded down, a last partial window included.
      With 0.5, M = 9 on 65 x 65 cells (kernel 32, so 3 x 3) but M = 4 on 64 x 64 (2 x 2). The norm in the
      cosine is held constant: no gradient flows through it. SKD's script: weight 0.5.
    * ``cirkd``: windows of 2 x 2 cells whatever the map (M = 1,089 on 65 x 65, 1,024 on 64 x 64); the
      gradient flows through the norm. CIRKD's script: weight 10. ``pool`` does not apply.

    Both publish their weight on this same mean, but over other nodes: the values are not comparable.

    Source: Liu et al. 2019, arXiv:1903.04197, pair-wise distillation (the paper pools by average, its code by
    maximum); Niemann et al. 2023, arXiv:2309.03659, prints no equation; code: SKD's
    ``CriterionPairWiseforWholeFeatAfterPool``, CIRKD's ``CriterionStructuralKD``.
    """

    symbol: ClassVar[str] = "L_PA"
    source: ClassVar[str] = "Liu et al. 2019, arXiv:1903.04197, pair-wise distillation, as in its code"
    confidence: ClassVar[Confidence] = "code"
    published_weight: ClassVar[Published | None] = Published(0.5, "SKD's script, pool 0.5")
    taps: ClassVar[frozenset[Tap]] = frozenset({"psp"})
    digested: ClassVar[bool] = True

    pool: Annotated[float, Field(gt=0, le=1)] = SKD_POOL  # window as a share of the map's height and width
    convention: Literal["skd", "cirkd"] = "skd"

    @model_validator(mode="after")
    def _pool_is_read(self) -> Self:
        if self.convention == "cirkd" and self.pool != SKD_POOL:
            raise ValueError(f"convention cirkd pools 2 x 2 cells, so pool must be left out, got pool={self.pool}")
        return self

    def __call__(self, student: SegOutput, teacher: SegOutput | None, target: "Tensor") -> "Tensor":
        """See the class."""
        import torch

        assert teacher is not None
        feature = student.taps["psp"]  # (N, C, h, w)
        with torch.autocast(feature.device.type, enabled=False):  # it would multiply matrices in bfloat16
            difference = self.of_teacher(teacher, feature.shape[-2:], target) - self._similarities(feature)
            return difference.square().mean()

    def digest(self, teacher: SegOutput, cells: Sequence[int], target: "Tensor") -> "Tensor":
        """The teacher's similarities, (N, M, M)."""
        import torch

        feature = teacher.taps["psp"].detach()  # (N, C_T, h', w')
        with torch.autocast(feature.device.type, enabled=False):
            (feature,) = at_least_float32(feature)
            return self._similarities(resized(feature, cells))

    def _similarities(self, feature: "Tensor") -> "Tensor":
        import torch.nn.functional as F

        (feature,) = at_least_float32(feature)
        window = (2, 2)
        if self.convention == "skd":
            height, width = feature.shape[-2:]
            window = (max(1, int(height * self.pool)), max(1, int(width * self.pool)))
        nodes = F.max_pool2d(feature, window, window, ceil_mode=True).flatten(2)  # (N, C, M)
        if self.convention == "skd":
            nodes = nodes / (nodes.detach().norm(dim=1, keepdim=True) + 1e-8)
        else:
            nodes = F.normalize(nodes, dim=1, eps=1e-12)
        return nodes.mT @ nodes  # (N, M, M)
