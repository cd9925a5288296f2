"""L_mem-p: each cell resembles cells of earlier images as it does in the teacher."""

from typing import TYPE_CHECKING, ClassVar, Literal, Self

from pydantic import PositiveInt, model_validator

from kdtune.base import Confidence
from kdtune.losses.cirkd_memory import Memory

if TYPE_CHECKING:
    from kdtune.base import Loss, SegNet


class PixelMemory(Memory):
    r"""Memory-based pixel-to-pixel distillation: relations to the teacher's cells of earlier images copy the teacher's.

    .. math::
        L = \mathrm{mean}_{i: y_i \neq \mathrm{ignored}} \; \mathrm{KL}(p^T_i \,\|\, p^S_i), \qquad
        p^S_i = \mathrm{softmax}_v \frac{\cos(P f^S_i, v)}{\tau}, \quad
        p^T_i = \mathrm{softmax}_v \frac{\cos(f^T_i, v)}{\tau}

    in nats: summed over the vectors v, averaged over the labelled cells of the batch. Not multiplied by tau^2. The
    memory keeps ``size`` cells of the teacher for each class. At every step, before the term is computed,
    ``per_image`` cells drawn of each class and image take the places of the oldest; then ``sampled`` // K + 1 places
    are drawn, the same of every class, and v are the cells there. P is two 1x1 convolutions without bias, batch norm
    and ReLU between, from the student's C_S to the teacher's C_T and C_T channels, trained with the student. Labels are
    resized to the cells by nearest, the teacher's map bilinearly (align_corners=True). A batch without labels gives 0.
    Float32 at least.

    The memory starts from random vectors: the first steps distil towards noise. It is saved with the term, in half
    precision: 19 classes of 20,000 cells and 512 channels are 389 million bytes, 150 classes 3.1 billion; a smaller
    ``size`` takes less.

    ``convention: cirkd`` fills it as CIRKD's code does: of a class with n cells the drawn ones are among the first n
    cells of the image, whatever they show; and where a class reaches its last place, the last places are overwritten
    and it begins anew. Otherwise the cells are the class's own, as the paper says.

    CIRKD's script: weight 0.1 on this same mean, and L_mem-r beside it, with one P for both; here each has its own.

    Source: Yang et al. 2022, arXiv:2204.06986, memory-based pixel-to-pixel distillation; code: its
    ``StudentSegContrast``.
    """

    symbol: ClassVar[str] = "L_mem-p"
    source: ClassVar[str] = "Yang et al. 2022, arXiv:2204.06986, memory-based pixel-to-pixel, as in its code"
    confidence: ClassVar[Confidence] = "code"

    size: PositiveInt = 20_000  # cells of a class
    per_image: PositiveInt = 16  # cells of a class that enter
    sampled: PositiveInt = 4096  # cells that are compared with, over all classes
    convention: Literal["paper", "cirkd"] = "paper"

    @model_validator(mode="after")
    def _what_enters_has_room(self) -> Self:
        if self.per_image > self.size:
            raise ValueError(f"size must be at least per_image, got size={self.size}, per_image={self.per_image}")
        return self

    def build(self, student: "SegNet", teacher: "SegNet | None") -> "Loss":
        """The term with a new projection and a memory of random vectors."""
        from kdtune.losses.cirkd_memory_loss import PixelMemoryLoss

        assert teacher is not None
        widths = student.channels[self.tap], teacher.channels[self.tap]
        return PixelMemoryLoss(self, *widths, student.num_classes)
