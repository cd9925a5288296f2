"""L_PI: each cell copies the teacher's class distribution."""

import operator
from typing import TYPE_CHECKING, ClassVar, Literal, Self

from pydantic import Field, PositiveFloat, model_validator

from kdtune.base import Confidence, LossTerm, Published, SegOutput, align, at_least_float32

if TYPE_CHECKING:
    from torch import Tensor


class PixelWise(LossTerm):
    r"""Pixel-wise distillation: each cell copies the teacher's class distribution.

    .. math:: L = \tau^2 \; \mathrm{mean}_{N,h,w} \; \mathrm{KL}(\sigma(z_T / \tau) \,\|\, \sigma(z_S / \tau))

    in nats: summed over the K classes, averaged over cells and images, at the student's own stride. With ``upsample``
    the cells are pixels: both logits are enlarged to the labels' size first (bilinear, align_corners=True), as IFVD's
    ``upsample=True`` does (off in its script) and APD does always. Ignored pixels are included: the labels are not
    read. Equation 3 writes the cross-entropy; the divergence is that minus the teacher's entropy, with the same
    gradient and 0 where the two agree. Float32 at least.

    ``convention`` says what the weight multiplies, as a factor on the gradient of the formula above:

    ======= ========================================================================= ===================
    paper   the formula (Niemann et al. searched 0.1)                                 1
    cirkd   the same; CIRKD's script: weight 1, tau 1                                 1
    skd     cross-entropy, entropy of the teacher included, summed over the images,   N
            averaged over cells; SKD's script: weight 10
    ifvd    averaged over the classes too, no tau^2; IFVD's script: weight 10, tau 1  1 / (K tau^2)
    ======= ========================================================================= ===================

    SKD's code has no tau: another than 1 is refused under its convention.

    Source: Niemann et al. 2023, arXiv:2309.03659, eq. 3; Liu et al. 2019, arXiv:1903.04197 (without tau);
    code: SKD's ``CriterionPixelWise``, IFVD's and CIRKD's ``CriterionKD``.
    """

    symbol: ClassVar[str] = "L_PI"
    source: ClassVar[str] = "Niemann et al. 2023, arXiv:2309.03659, eq. 3"
    confidence: ClassVar[Confidence] = "code"
    published_weight: ClassVar[Published | None] = Published(
        1.0, "CIRKD's script; SKD's 10 is 10 N of this, IFVD's 10 is 10 / K"
    )

    temperature: PositiveFloat = 1.0  # tau
    convention: Literal["paper", "skd", "ifvd", "cirkd"] = "paper"
    # left out of what is written where it is off: trials from before it was there keep their ids
    upsample: bool = Field(default=False, exclude_if=operator.not_)

    @model_validator(mode="after")
    def _temperature_is_the_conventions(self) -> Self:
        if self.convention == "skd" and self.temperature != 1:
            raise ValueError(f"convention skd has no temperature: leave it out, got temperature={self.temperature:g}")
        return self

    def __call__(self, student: SegOutput, teacher: SegOutput | None, target: "Tensor") -> "Tensor":
        """See the class."""
        import torch.nn.functional as F

        assert teacher is not None
        from_student, from_teacher = at_least_float32(student.logits, teacher.logits.detach())  # (N, K, h, w)
        if self.upsample:
            from_student = align(from_student, target)
        from_teacher = align(from_teacher, from_student)
        if self.temperature != 1:  # a division by 1 would be two copies
            from_student, from_teacher = from_student / self.temperature, from_teacher / self.temperature
        log_student, log_teacher = F.log_softmax(from_student, dim=1), F.log_softmax(from_teacher, dim=1)

        images, classes, height, width = from_student.shape
        if self.convention == "skd":
            return -(log_teacher.exp() * log_student).sum() / (height * width)
        divergence = F.kl_div(log_student, log_teacher, log_target=True, reduction="sum") / (images * height * width)
        if self.convention == "ifvd":
            return divergence / classes
        return self.temperature**2 * divergence
