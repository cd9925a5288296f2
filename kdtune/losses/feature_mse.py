"""L_FitNet: the student's features, put through a trained 1x1 convolution, are the teacher's."""

from typing import TYPE_CHECKING, ClassVar

from kdtune.base import Confidence, Published
from kdtune.losses.one_tap import OneTap

if TYPE_CHECKING:
    from kdtune.base import Loss, SegNet


class FeatureMse(OneTap):
    r"""Feature distillation: a linear map of the student's features copies the teacher's.

    .. math:: L = \mathrm{mean}_{N,C,h,w} \; (W f^S - f^T)^2

    in the teacher's own squared unit: averaged over images, the teacher's C channels and cells, without the 1/2 of
    the paper. W is a 1x1 convolution without bias, trained with the student and present also where the widths are
    equal. The teacher's map is resized to the student's cells (bilinear, align_corners=True). Ignored pixels are
    included: the labels are not read. Float32 at least.

    CIRKD's script: weight 10 on this mean, at the feature before the classifier.

    Source: Romero et al. 2015, arXiv:1412.6550, the hint loss (a sum, not a mean, and 1/2); code: CIRKD's
    ``CriterionFitNet``.
    """

    symbol: ClassVar[str] = "L_FitNet"
    source: ClassVar[str] = "Romero et al. 2015, arXiv:1412.6550, hint loss, as in CIRKD's code"
    confidence: ClassVar[Confidence] = "code"
    published_weight: ClassVar[Published | None] = Published(10.0, "CIRKD's script")
    owns: ClassVar[str] = "a 1x1 adapter"

    def build(self, student: "SegNet", teacher: "SegNet | None") -> "Loss":
        """The term with a new adapter."""
        from kdtune.losses.feature_mse_loss import FeatureMseLoss

        assert teacher is not None
        return FeatureMseLoss(self, student.channels[self.tap], teacher.channels[self.tap])
