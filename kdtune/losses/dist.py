"""L_DIST: the student's probabilities correlate with the teacher's, within each cell and within each class."""

from typing import TYPE_CHECKING, ClassVar

from pydantic import NonNegativeFloat, PositiveFloat

from kdtune.base import Confidence, LossTerm, Published, SegOutput, Tap
from kdtune.losses.side_by_side import side_by_side

if TYPE_CHECKING:
    from torch import Tensor

EPS = 1e-8  # added to the product of two lengths


class Dist(LossTerm):
    r"""DIST: probabilities copy the teacher's up to scale and shift, over the classes of a cell and over the cells.

    .. math::
        L = \beta \, (1 - \mathrm{mean}_{N,h,w} \; \rho(p^S_i, p^T_i))
        + \gamma \, (1 - \mathrm{mean}_c \; \rho(p^S_c, p^T_c)), \qquad p = \sigma(z / \tau)

    without unit, from 0 to 2 (beta + gamma). rho is Pearson's correlation: of p_i over the K classes of a cell,
    averaged over images and cells, and of p_c over the cells of all images of the batch, averaged over classes. So the
    second part is of the batch, not of an image. The logits have the student's stride; the teacher's are resized to it
    (bilinear, align_corners=True). Ignored pixels are included: the labels are not read. Float32 at least.

    With ``aux_weight`` the same of the two auxiliary heads is added, times it.

    Its segmentation script: weight 1, beta = gamma = 1, tau 1, and 0.4 for the auxiliary heads (here 0: few teachers
    have one).

    Source: Huang et al. 2022, arXiv:2205.10536; code: its ``DIST``.
    """

    symbol: ClassVar[str] = "L_DIST"
    source: ClassVar[str] = "Huang et al. 2022, arXiv:2205.10536, as in its code"
    confidence: ClassVar[Confidence] = "code"
    published_weight: ClassVar[Published | None] = Published(1.0, "its script, beside 0.4 for the auxiliary heads")

    beta: NonNegativeFloat = 1.0  # of the correlation over classes
    gamma: NonNegativeFloat = 1.0  # of the correlation over cells
    temperature: PositiveFloat = 1.0  # tau
    aux_weight: NonNegativeFloat = 0.0

    @property
    def taps(self) -> frozenset[Tap]:
        """The auxiliary logits, if they count."""
        return frozenset({"aux"}) if self.aux_weight else frozenset()

    def __call__(self, student: SegOutput, teacher: SegOutput | None, target: "Tensor") -> "Tensor":
        """See the class."""
        assert teacher is not None
        loss = self._of(student.logits, teacher.logits)
        return loss + self.aux_weight * self._of(student.taps["aux"], teacher.taps["aux"]) if self.aux_weight else loss

    def _of(self, student: "Tensor", teacher: "Tensor") -> "Tensor":
        ours, theirs = ((z / self.temperature).softmax(1).flatten(2) for z in side_by_side(student, teacher))
        within_cells, within_classes = (1 - _correlation(ours, theirs, axes).mean() for axes in ((1,), (0, 2)))
        return self.beta * within_cells + self.gamma * within_classes


def _correlation(one: "Tensor", other: "Tensor", axes: tuple[int, ...]) -> "Tensor":
    import torch

    one, other = one - one.mean(axes, keepdim=True), other - other.mean(axes, keepdim=True)
    length: Tensor = torch.linalg.vector_norm(one, dim=axes) * torch.linalg.vector_norm(other, dim=axes)
    return (one * other).sum(axes) / (length + EPS)
