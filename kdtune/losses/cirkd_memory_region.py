"""L_mem-r: each cell resembles regions of earlier images as it does in the teacher."""

from typing import TYPE_CHECKING, ClassVar

from pydantic import PositiveInt

from kdtune.base import Confidence
from kdtune.losses.cirkd_memory import Memory

if TYPE_CHECKING:
    from kdtune.base import Loss, SegNet


class RegionMemory(Memory):
    r"""Memory-based pixel-to-region distillation: relations to the teacher's regions of earlier images copy its own.

    .. math::
        L = \mathrm{mean}_{i: y_i \neq \mathrm{ignored}} \; \mathrm{KL}(p^T_i \,\|\, p^S_i), \qquad
        p^S_i = \mathrm{softmax}_r \frac{\cos(P f^S_i, r)}{\tau}, \quad
        p^T_i = \mathrm{softmax}_r \frac{\cos(f^T_i, r)}{\tau}

    in nats: summed over the regions r, averaged over the labelled cells of the batch. Not multiplied by tau^2. A region
    is the mean of the teacher's features, each of length 1, over the cells of a class in an image. The memory keeps
    ``size`` regions of each class. At every step, before the term is computed, those of each image take the places of
    the oldest; then ``sampled`` // K + 1 places are drawn, the same of every class, and r are the regions there. P is
    two 1x1 convolutions without bias, batch norm and ReLU between, from the student's C_S to the teacher's C_T and C_T
    channels, trained with the student. Labels are resized to the cells by nearest, the teacher's map bilinearly
    (align_corners=True). A batch without labels gives 0. Float32 at least.

    The memory starts from random vectors: the first steps distil towards noise. It is saved with the term, in half
    precision: 19 classes of 2,000 regions and 512 channels are 39 million bytes.

    CIRKD's script: weight 0.1 on this same mean, and L_mem-p beside it, with one P for both; here each has its own.

    Source: Yang et al. 2022, arXiv:2204.06986, memory-based pixel-to-region distillation; code: its
    ``StudentSegContrast``.
    """

    symbol: ClassVar[str] = "L_mem-r"
    source: ClassVar[str] = "Yang et al. 2022, arXiv:2204.06986, memory-based pixel-to-region, as in its code"
    confidence: ClassVar[Confidence] = "code"

    size: PositiveInt = 2000  # regions of a class
    sampled: PositiveInt = 1024  # regions that are compared with, over all classes

    def build(self, student: "SegNet", teacher: "SegNet | None") -> "Loss":
        """The term with a new projection and a memory of random vectors."""
        from kdtune.losses.cirkd_memory_loss import RegionMemoryLoss

        assert teacher is not None
        widths = student.channels[self.tap], teacher.channels[self.tap]
        return RegionMemoryLoss(self, *widths, student.num_classes)
