"""L_batch: each cell resembles the cells of every image in the batch as it does in the teacher."""

from typing import TYPE_CHECKING, ClassVar

from pydantic import PositiveFloat, PositiveInt

from kdtune.base import Confidence, Published, SegOutput
from kdtune.losses.one_tap import OneTap
from kdtune.losses.side_by_side import side_by_side

if TYPE_CHECKING:
    from torch import Tensor


class CrossImage(OneTap):
    r"""Mini-batch pixel-to-pixel distillation: relations between the cells of any two images copy the teacher's.

    .. math::
        L = \mathrm{mean}_{a,b,i} \; \mathrm{KL}(p^T_{ab,i} \,\|\, p^S_{ab,i}), \qquad
        p_{ab,ij} = \frac{e^{\cos(f_{a,i}, f_{b,j}) / \tau}}{\sum_k e^{\cos(f_{a,i}, f_{b,k}) / \tau}}

    in nats: summed over the cells j of image b, averaged over the cells i of image a and over all N^2 ordered pairs of
    images of the batch, a = b included. Not multiplied by tau^2. What it measures changes with the number of images
    that a device has at once: one alone has only itself. The maps are averaged over windows of ``pool`` x ``pool``
    cells first (a last partial window included). Networks of any widths can be compared. The teacher's map is resized
    to the student's cells (bilinear, align_corners=True). Ignored pixels are included: the labels are not read. Float32
    at least.

    Time and memory grow with the fourth power of the map's side and the square of the batch. CIRKD's code does not pool
    maps of fewer than 256 cells a side, and has two images on a GPU; eight images of 65 x 65 cells make 4.6 GB of each
    tensor of N^2 P^2 numbers, with pools of 2 a sixteenth. Its script: weight 1 on this same mean, tau 0.1.

    Source: Yang et al. 2022, arXiv:2204.06986, mini-batch-based pixel-to-pixel distillation; code: its
    ``CriterionMiniBatchCrossImagePair``.
    """

    symbol: ClassVar[str] = "L_batch"
    source: ClassVar[str] = "Yang et al. 2022, arXiv:2204.06986, mini-batch pixel-to-pixel, as in its code"
    confidence: ClassVar[Confidence] = "code"
    published_weight: ClassVar[Published | None] = Published(1.0, "its script, without pooling")

    temperature: PositiveFloat = 0.1  # tau
    pool: PositiveInt = 2  # [cells] a side of what is averaged; 1: as published

    def __call__(self, student: SegOutput, teacher: SegOutput | None, target: "Tensor") -> "Tensor":
        """See the class."""
        import torch
        import torch.nn.functional as F

        assert teacher is not None
        maps = student.taps[self.tap], teacher.taps[self.tap]  # (N, C, h, w)
        with torch.autocast(maps[0].device.type, enabled=False):  # it would multiply matrices in bfloat16
            ours, theirs = map(self._log_relations, side_by_side(*maps))
            return F.kl_div(ours, theirs, log_target=True, reduction="sum") / ours[:, :, 0].numel()

    def _log_relations(self, feature: "Tensor") -> "Tensor":
        """(N, C, h, w) to (N P, N, P): of each cell, over the cells of each image."""
        import torch.nn.functional as F

        if self.pool > 1:
            feature = F.avg_pool2d(feature, self.pool, ceil_mode=True)
        images = len(feature)
        cells = F.normalize(feature.flatten(2).transpose(1, 2).flatten(0, 1), dim=1, eps=1e-12)  # (N P, C)
        relations: Tensor = (cells @ cells.T / self.temperature).view(len(cells), images, -1)
        return relations.log_softmax(dim=2)
