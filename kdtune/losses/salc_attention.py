"""L_SA: each region attends to the regions that it attends to in the teacher."""

from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field, PositiveFloat

from kdtune.base import Confidence, SegOutput
from kdtune.losses.one_tap import OneTap
from kdtune.losses.side_by_side import side_by_side

if TYPE_CHECKING:
    from torch import Tensor


class SelfAttention(OneTap):
    r"""Self-attention distillation: where each region of the image looks copies the teacher.

    .. math::
        L = \mathrm{mean}_{N,i} \; \mathrm{KL}(A^T_i \,\|\, A^S_i), \qquad
        A_i = \mathrm{softmax}_j \left( \frac{\cos(f_i, f_j)}{\tau} \right)

    in nats: summed over the regions j that are looked at, averaged over the regions i that look, and over images. Not
    multiplied by tau^2. f_i are the features at ``tap``, averaged over ``cells`` x ``cells`` regions of the map; a map
    with no side longer than that is taken as it is. Networks of any widths can be compared. The teacher's map is
    resized to the student's cells first (bilinear, align_corners=True). Ignored pixels are included: the labels are not
    read. Float32 at least.

    The matrices have cells^4 entries: at 65 x 65 cells unpooled, 71 MB each and image.

    Queries and keys are the features themselves: what the authors train in their attention could not be read. Our
    reconstruction from the abstract; no weight is known.

    Source: An et al. 2022, IEEE T-ITS 23(9), self-attention distillation; no code was found.
    """

    symbol: ClassVar[str] = "L_SA"
    source: ClassVar[str] = "An et al. 2022, IEEE T-ITS 23(9), self-attention, from the abstract"
    confidence: ClassVar[Confidence] = "reconstruction"

    cells: Annotated[int, Field(ge=2)] = 32  # regions a side
    temperature: PositiveFloat = 0.1  # tau

    def __call__(self, student: SegOutput, teacher: SegOutput | None, target: "Tensor") -> "Tensor":
        """See the class."""
        import torch
        import torch.nn.functional as F

        from kdtune.losses.relations import cosines

        assert teacher is not None
        maps = student.taps[self.tap], teacher.taps[self.tap]  # (N, C, h, w)
        with torch.autocast(maps[0].device.type, enabled=False):  # it would multiply matrices in bfloat16
            both = side_by_side(*maps)
            ours, theirs = ((cosines(f, self.cells) / self.temperature).log_softmax(dim=2) for f in both)
            return F.kl_div(ours, theirs, log_target=True, reduction="sum") / ours[:, :, 0].numel()
