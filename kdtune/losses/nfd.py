"""L_NFD: the student's features are the teacher's, once both have mean 0 and variance 1."""

from typing import TYPE_CHECKING, ClassVar, Literal

from kdtune.base import Confidence
from kdtune.losses.one_tap import OneTap

if TYPE_CHECKING:
    from kdtune.base import Loss, SegNet


class NormalisedFeatures(OneTap):
    r"""Normalised feature distillation: a linear map of the student's features copies the teacher's but for its scale.

    .. math::
        L = \mathrm{mean}_{N,C,h,w} \; (n(W f^S) - n(f^T))^2, \qquad n(x) = \frac{x - \mu}{\sqrt{\sigma^2 + 10^{-5}}}

    without unit, between 0 and 4, and 2 where the two are unrelated: averaged over images, the teacher's C channels and
    cells. mu and sigma^2 are over the cells of a channel in its image (``normalise_over: cells``), or over the channels
    of a cell (``channels``). W is a 1x1 convolution without bias, trained with the student and present also where the
    widths are equal. The teacher's map is resized to the student's cells (bilinear, align_corners=True). Ignored pixels
    are included: the labels are not read. Float32 at least.

    No weight is known, nor over which axis the authors normalise: this is our reconstruction from the abstract.

    Source: Liu et al. 2022, arXiv:2207.05256, abstract; no code was found.
    """

    symbol: ClassVar[str] = "L_NFD"
    source: ClassVar[str] = "Liu et al. 2022, arXiv:2207.05256, abstract"
    confidence: ClassVar[Confidence] = "reconstruction"
    owns: ClassVar[str] = "a 1x1 adapter"

    normalise_over: Literal["cells", "channels"] = "cells"

    def build(self, student: "SegNet", teacher: "SegNet | None") -> "Loss":
        """The term with a new adapter."""
        from kdtune.losses.nfd_loss import NormalisedFeaturesLoss

        assert teacher is not None
        return NormalisedFeaturesLoss(self, student.channels[self.tap], teacher.channels[self.tap])
