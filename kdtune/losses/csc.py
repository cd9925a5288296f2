"""L_CSC: products of classes go together over the image as they do in the teacher. Patented."""

from typing import TYPE_CHECKING, Annotated, ClassVar, Self

from pydantic import Field, model_validator

from kdtune.base import Confidence, LossTerm, SegOutput
from kdtune.losses.side_by_side import side_by_side

if TYPE_CHECKING:
    from torch import Tensor


class ChannelSpaceCorrelation(LossTerm):
    r"""Channel and spatial correlation: how products of two classes correlate over the regions copies the teacher.

    .. math::
        L = \mathrm{mean}_N \; \frac{1}{K} \sum_{k=0}^{K-1} \mathrm{mean}_{i,j} \; (M^S_{k,ij} - M^T_{k,ij})^2, \qquad
        M_{k,ij} = \sum_c a_{k,ic} \, a_{k,jc}, \qquad a_{k,ic} = f_{i,c} \, f_{i,\,c+k \bmod K}

    without unit: averaged over images, over the K circular shifts k of the classes and over all pairs of regions i, j.
    f_i are the logits, averaged over ``cells`` x ``cells`` regions of the map (fewer where it has fewer), as unit
    vectors over the K classes. The teacher's logits are resized to the student's cells first (bilinear,
    align_corners=True). Ignored pixels are included: the labels are not read. Float32 at least.

    The method is claimed by the patent US 11,756,202 B2: a study that uses this term says ``acknowledge_patent: true``.

    The authors' measure is the Euclidean norm of the difference, not a mean of squares; no weight is known. How their
    association matrices are put together in space could not be read: our reconstruction from the patent's first claim.
    One matrix per shift is needed: of all shifts in one matrix, i and j would have (f_i . f_j)^2, the square of L_PA's.

    Source: Park and Heo 2020, Sensors 20(16):4616; US 11,756,202 B2, claim 1; no code was found.
    """

    symbol: ClassVar[str] = "L_CSC"
    source: ClassVar[str] = "Park and Heo 2020, Sensors 20(16):4616, from the patent's claim"
    confidence: ClassVar[Confidence] = "reconstruction"
    patent: ClassVar[str] = "US 11,756,202 B2"

    cells: Annotated[int, Field(ge=2)] = 8  # regions a side
    acknowledge_patent: bool = False

    @model_validator(mode="after")
    def _patent_is_acknowledged(self) -> Self:
        if not self.acknowledge_patent:
            raise ValueError(
                f"the method is claimed by the patent {self.patent}: whether it may be used is yours to say, with "
                "acknowledge_patent: true"
            )
        return self

    def __call__(self, student: SegOutput, teacher: SegOutput | None, target: "Tensor") -> "Tensor":
        """See the class."""
        import torch

        assert teacher is not None
        with torch.autocast(student.logits.device.type, enabled=False):  # it would multiply matrices in bfloat16
            ours, theirs = map(self._regions, side_by_side(student.logits, teacher.logits))
            classes = ours.shape[2]
            total = ours.new_zeros(())
            for shift in range(classes // 2 + 1):  # a shift and the one that completes it to K give the same matrix
                twice = 2 if 0 < shift < classes - shift else 1
                difference = _association(ours, shift) - _association(theirs, shift)
                total = total + twice * difference.square().mean()
            return total / classes

    def _regions(self, logits: "Tensor") -> "Tensor":
        """(N, K, h, w) to unit vectors (N, regions, K)."""
        import torch.nn.functional as F

        from kdtune.resize import pooled

        return F.normalize(pooled(logits, min(self.cells, *logits.shape[-2:])).flatten(2), dim=1, eps=1e-12).mT


def _association(regions: "Tensor", shift: int) -> "Tensor":
    """(N, regions, K) to (N, regions, regions)."""
    products = regions * regions.roll(-shift, dims=2)
    return products @ products.mT
