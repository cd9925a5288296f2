"""L_MGD: from what a mask leaves of the student's features, the teacher's whole ones are generated."""

from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field

from kdtune.base import Confidence, Published, Tap
from kdtune.losses.one_tap import OneTap

if TYPE_CHECKING:
    from kdtune.base import Loss, SegNet


class MaskedGeneration(OneTap):
    r"""Masked generative distillation: the teacher's features are generated from a masked part of the student's.

    .. math::
        L = \mathrm{mean}_{N,C,h,w} \; (G(m \odot A f^S) - f^T)^2, \qquad
        m_i = 0 \text{ with probability } \lambda, \text{ else } 1

    in the teacher's own squared unit: averaged over images, the teacher's C channels and cells. The mask is drawn for
    every image and step, one number per cell for all channels; what is left is not enlarged for what is lost. A is a
    1x1 convolution, the identity where the widths are equal. G is a 3x3 convolution, a ReLU and another, each from C to
    C channels. Both are trained with the student. The teacher's map is resized to the student's cells (bilinear,
    align_corners=True). Ignored pixels are included: the labels are not read. Float32 at least.

    G has 18 C^2 weights: 75 million at the 2048 channels of a ResNet-101's ``layer4``, more than the student. There it
    decides what a step costs.

    Its segmentation script: 2e-5 on the sum over channels and cells, which for 2048 channels and 64 x 64 cells is 168
    on this mean; lambda 0.75, at ``layer4`` alone.

    Source: Yang et al. 2022, arXiv:2205.01529; code: its ``FeatureLoss``.
    """

    symbol: ClassVar[str] = "L_MGD"
    source: ClassVar[str] = "Yang et al. 2022, arXiv:2205.01529, as in its code"
    confidence: ClassVar[Confidence] = "code"
    published_weight: ClassVar[Published | None] = Published(
        168.0, "its script's 2e-5 on a sum over 2048 channels and 64 x 64 cells", 2e-5
    )
    draws: ClassVar[bool] = True
    owns: ClassVar[str] = "a generator of two convolutions; a 1x1 adapter where widths differ"

    tap: Tap = "layer4"
    masked: Annotated[float, Field(ge=0, lt=1)] = 0.75  # lambda, the share of cells

    def build(self, student: "SegNet", teacher: "SegNet | None") -> "Loss":
        """The term with a new adapter and generator."""
        from kdtune.losses.mgd_loss import MaskedGenerationLoss

        assert teacher is not None
        return MaskedGenerationLoss(self, student.channels[self.tap], teacher.channels[self.tap])
