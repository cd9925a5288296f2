"""L_HO: a critic cannot tell the student's maps from the teacher's."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from kdtune.base import Confidence, LossTerm, Published

if TYPE_CHECKING:
    from kdtune.base import Loss, SegNet

SMALLEST_MAP = 64  # four halvings must leave the 4 x 4 cells of the critic's last convolution

Preprocessing = Literal["batch_norm", "tanh", "scale"]


class Holistic(LossTerm):
    r"""Holistic distillation: the student's maps please a critic D that tells them from the teacher's.

    .. math:: L = -\mathrm{mean} \; D(z_S)

    in the critic's own unit, over images and cells of its output (one cell per image at 64 or 65 cells); no
    bound, no zero. After every step of the student the critic takes ``critic_steps`` steps of its own, on the
    same maps, down

    .. math::
        \lambda_d \, (\mathrm{mean} \, D(z_S) - \mathrm{mean} \, D(z_T)
        + \lambda_{gp} \, \mathrm{mean}_N (\|\nabla_z D(\hat z)\| - 1)^2), \qquad \hat z = a z_T + (1 - a) z_S

    with one a drawn evenly from 0 to 1 per image (``wgan-gp``), or mean relu(1 - D(z_T)) + mean relu(1 +
    D(z_S)) without penalty (``hinge``; so ``gradient_penalty`` is 0 there). D sees raw logits at the
    student's stride, and no image. Ignored pixels are included: the labels are not read. Maps below 64 cells
    are enlarged to ``input_size`` (column ``input_size_ho``); a trial's log says so once.
    Published critics have ``critic_width`` 1. Everything here runs in float32 at least.

    ``convention`` is whose optimiser the critic has: ``skd`` SGD with momentum 0.9 and weight decay 5e-4,
    ``ifvd`` and ``cirkd`` Adam with betas 0.9 and 0.99; the rate falls to 0 as (1 - progress)^0.9.
    Under ``ifvd`` the critic scores the student's maps before the teacher's. Published weights multiply this same
    mean: SKD 0.1, which there is lambda_d too; IFVD 0.001 with lambda_d 0.1. ``cirkd`` means ``hinge``.

    Source: Liu et al. 2019, arXiv:1903.04197, holistic distillation (the paper shows the critic the image,
    its code does not); Niemann et al. 2023, arXiv:2309.03659, prints no equation; code: SKD's
    ``Discriminator``, ``CriterionAdv``, ``CriterionAdvForG``, ``CriterionAdditionalGP``.
    """

    symbol: ClassVar[str] = "L_HO"
    source: ClassVar[str] = "Liu et al. 2019, arXiv:1903.04197, holistic distillation, as in its code"
    confidence: ClassVar[Confidence] = "code"
    published_weight: ClassVar[Published | None] = Published(0.1, "SKD's script; IFVD's has 0.001")
    draws: ClassVar[bool] = True
    owns: ClassVar[str] = "a critic with its optimiser"

    convention: Literal["skd", "ifvd", "cirkd"] = "skd"
    adversary: Literal["wgan-gp", "hinge"] = "wgan-gp"
    gradient_penalty: NonNegativeFloat = 10.0  # lambda_gp; wgan-gp only
    critic_weight: PositiveFloat = 0.1  # lambda_d, on the critic's own loss
    critic_lr: PositiveFloat = 4e-4
    critic_steps: PositiveInt = 1
    critic_width: PositiveFloat = 1.0  # times the critic's channels, of which no layer gets fewer than 8
    preprocessing: Preprocessing = "batch_norm"  # of the logits z, first layer of the critic; scale: 2 (z / 255 - 1/2)
    input_size: Annotated[int, Field(ge=SMALLEST_MAP)] = 65  # [cells] what a side below 64 becomes

    @model_validator(mode="before")
    @classmethod
    def _left_out(cls, data: Any) -> Any:
        """What is left out is the convention's own: CIRKD's critic is a hinge, and a hinge has no penalty."""
        if not isinstance(data, Mapping):
            return data
        data = {"adversary": "hinge" if data.get("convention") == "cirkd" else "wgan-gp", **data}
        return {"gradient_penalty": 0.0 if data["adversary"] == "hinge" else 10.0, **data}

    @model_validator(mode="after")
    def _what_is_given_is_read(self) -> Self:
        if self.convention == "cirkd" and self.adversary != "hinge":
            raise ValueError(
                f"convention cirkd is a hinge: leave adversary out or set it to hinge, got {self.adversary}"
            )
        if self.adversary == "hinge" and self.gradient_penalty:
            given = f"got {self.gradient_penalty:g}"
            raise ValueError(f"adversary hinge has no penalty: leave gradient_penalty out or set it to 0, {given}")
        return self

    def build(self, student: "SegNet", teacher: "SegNet | None") -> "Loss":
        """The term with a new critic, drawn from torch's global generator."""
        from kdtune.losses.holistic_loss import HolisticLoss

        return HolisticLoss(self, student.num_classes)
