"""L_PID: where in the image a cell lies can be told from the student's features as from the teacher's."""

from typing import TYPE_CHECKING, ClassVar

from pydantic import PositiveInt

from kdtune.base import Confidence
from kdtune.losses.one_tap import OneTap

if TYPE_CHECKING:
    from kdtune.base import Loss, SegNet


class PositionInformation(OneTap):
    r"""Position information: a reader of positions finds in the student's features what it finds in the teacher's.

    .. math:: L = \mathrm{mean}_{N,2,h,w} \; (P(A f^S) - P(f^T))^2

    in squared half heights and half widths of the map: averaged over images, the two axes and cells. P reads a cell's
    place, from -1 to 1 down and across, off its features by a linear map. It is fitted to the teacher's before training
    (least squares over the cells of ``batches`` batches, with a small ridge), then fixed. A is a 1x1 convolution
    without bias, trained with the student, and the identity where the widths are equal. The teacher's map is resized to
    the student's cells (bilinear, align_corners=True). Ignored pixels are included: the labels are not read. Float32 at
    least.

    No weight is known. What the authors' position network looks like and how it is trained could not be read: our
    reconstruction from the abstract.

    Source: Zhang et al. 2022, arXiv:2205.03650, position information distillation; no code was found.
    """

    symbol: ClassVar[str] = "L_PID"
    source: ClassVar[str] = "Zhang et al. 2022, arXiv:2205.03650, position information, from the abstract"
    confidence: ClassVar[Confidence] = "reconstruction"
    owns: ClassVar[str] = "a reader of positions, fitted first; a 1x1 adapter where widths differ"

    batches: PositiveInt = 20  # that the reader is fitted to

    def build(self, student: "SegNet", teacher: "SegNet | None") -> "Loss":
        """The term with a new adapter and a reader that reads nothing yet."""
        from kdtune.losses.idd_position_loss import PositionInformationLoss

        assert teacher is not None
        return PositionInformationLoss(self, student.channels[self.tap], teacher.channels[self.tap])
