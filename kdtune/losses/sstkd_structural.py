"""L_str: edges and lines of each direction and size are where the teacher has them."""

from typing import TYPE_CHECKING, ClassVar

from pydantic import PositiveInt

from kdtune.base import Confidence, Tap
from kdtune.losses.one_tap import OneTap

if TYPE_CHECKING:
    from kdtune.base import Loss, SegNet


class StructuralTexture(OneTap):
    r"""Structural texture: the bands of a pyramid, each split by direction, are those of the teacher's features.

    .. math::
        L = \mathrm{mean}_{\ell, d} \; \mathrm{mean}_{N,C,h_\ell,w_\ell} \;
        (S_{\ell d}(A f^S) - S_{\ell d}(f^T))^2, \qquad
        S_{\ell d}(f)_i = b_i - \tfrac{1}{2}(b_{i+d} + b_{i-d}), \qquad b = f_\ell - \mathrm{up}(f_{\ell+1})

    in the teacher's own squared unit: averaged over ``levels`` of a Laplacian pyramid, the four directions d (across,
    down, both diagonals), images, the teacher's C channels and the level's cells. f_0 is the map at ``tap``, f_{l+1}
    the mean of f_l over 2 x 2 cells (a last partial window included), up is bilinear (align_corners=True). Beyond the
    map a band is 0. A is a 1x1 convolution without bias, trained with the student, and the identity where the widths
    are equal. The teacher's map is resized to the student's cells (bilinear, align_corners=True). Ignored pixels are
    included: the labels are not read. Float32 at least.

    What is the same everywhere costs nothing: bands have no mean. Nothing here is trained but A: the authors' module
    (1.24 million weights) also fuses the bands, in a way that could not be read. Their directional filters are those of
    a contourlet transform, these are second differences. Two levels are best by a note on the paper. Our
    reconstruction; no weight is known.

    Source: Ji et al. 2022, arXiv:2305.03944, structural texture; no code was found.
    """

    symbol: ClassVar[str] = "L_str"
    source: ClassVar[str] = "Ji et al. 2022, arXiv:2305.03944, structural texture, from a note"
    confidence: ClassVar[Confidence] = "reconstruction"
    owns: ClassVar[str] = "a 1x1 adapter, where widths differ"

    tap: Tap = "layer1"
    levels: PositiveInt = 2

    def build(self, student: "SegNet", teacher: "SegNet | None") -> "Loss":
        """The term, with a new adapter where the widths differ."""
        from kdtune.losses.sstkd_structural_loss import StructuralTextureLoss

        assert teacher is not None
        return StructuralTextureLoss(self, student.channels[self.tap], teacher.channels[self.tap])
