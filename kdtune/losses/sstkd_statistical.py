"""L_sta: how strong the texture of a cell is among those of its image, the teacher's way."""

from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field

from kdtune.base import Confidence, SegOutput, Tap
from kdtune.losses.one_tap import OneTap
from kdtune.losses.side_by_side import side_by_side

if TYPE_CHECKING:
    from torch import Tensor


class StatisticalTexture(OneTap):
    r"""Statistical texture: each cell's intensity, after the histogram is equalised, is the teacher's.

    .. math::
        L = \mathrm{mean}_{N,h,w} \; (Q(f^S)_i - Q(f^T)_i)^2, \qquad
        Q(f)_i = \sum_n e_{in} \, g_n, \qquad g_n = \sum_{m \leq n} \tilde{h}_m, \qquad
        e_{in} = \max(0, \, 1 - |(B - 1) \, s_i - n|)

    in squared shares of the range of intensities, averaged over images and cells. s_i is the cosine of the cell's
    features with the image's mean feature, shifted and scaled to 0 to 1 within the image; each cell belongs to its two
    nearest of B ``levels``, by the share e. h_n is the mean of e over the cells; where it is above ``limit`` times
    1/B it is cut there, and what is cut goes to all levels evenly (h~), so that noise in flat regions is not blown up.
    The gradient flows through all of it. Networks of any widths can be compared. The teacher's map is resized to the
    student's cells (bilinear, align_corners=True). Ignored pixels are included: the labels are not read. Float32 at
    least.

    Nothing here is trained: the authors' module (2.8 million weights) learns its levels, and looks at windows that a
    sampling by importance picks, in a way that could not be read. Our reconstruction from a note; no weight is known.

    Source: Ji et al. 2022, arXiv:2305.03944, statistical texture; no code was found.
    """

    symbol: ClassVar[str] = "L_sta"
    source: ClassVar[str] = "Ji et al. 2022, arXiv:2305.03944, statistical texture, from a note"
    confidence: ClassVar[Confidence] = "reconstruction"

    tap: Tap = "layer1"
    levels: Annotated[int, Field(ge=2)] = 16  # B
    limit: Annotated[float, Field(ge=1)] = 2.0  # [times an even histogram's share]

    def __call__(self, student: SegOutput, teacher: SegOutput | None, target: "Tensor") -> "Tensor":
        """See the class."""
        import torch.nn.functional as F

        assert teacher is not None
        ours, theirs = map(self._equalised, side_by_side(student.taps[self.tap], teacher.taps[self.tap]))
        return F.mse_loss(ours, theirs)

    def _equalised(self, feature: "Tensor") -> "Tensor":
        """(N, C, h, w) to (N, P), from 0 to 1."""
        import torch
        import torch.nn.functional as F

        feature = feature.flatten(2)  # (N, C, P)
        cosine = F.cosine_similarity(feature, feature.mean(dim=2, keepdim=True), dim=1)  # (N, P)
        low, high = cosine.amin(dim=1, keepdim=True), cosine.amax(dim=1, keepdim=True)
        place = (cosine - low) / (high - low).clamp(min=1e-6) * (self.levels - 1)
        level = torch.arange(self.levels, device=place.device)[:, None]
        share = (1 - (place[:, None] - level).abs()).clamp(min=0)  # (N, B, P)
        histogram = share.mean(dim=2)  # (N, B)
        cut = histogram.clamp(max=self.limit / self.levels)
        cut = cut + (histogram - cut).sum(dim=1, keepdim=True) / self.levels
        return (share * cut.cumsum(dim=1)[:, :, None]).sum(dim=1)
