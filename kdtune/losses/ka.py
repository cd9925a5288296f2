"""What the two terms of knowledge adaptation have in common as a study writes them."""

from typing import Annotated, ClassVar

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt

from kdtune.base import Tap
from kdtune.losses.one_tap import OneTap


class Adaptation(OneTap):
    """A term that compares the student with an encoding of the teacher, learnt before training."""

    owns: ClassVar[str] = "an encoder of the teacher's features, trained first; an adapter"

    tap: Tap = "layer4"
    compression: Annotated[float, Field(gt=0, le=1)] = 0.5  # channels of the encoding, as a share of the teacher's
    batches: PositiveInt = 200  # that the encoder is trained with
    encoder_lr: PositiveFloat = 0.1
    sparsity: NonNegativeFloat = 1e-7  # on the sum of an image's encoding
