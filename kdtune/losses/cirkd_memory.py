"""What the two terms with a memory of the teacher's features have in common as a study writes them."""

from typing import ClassVar

from pydantic import PositiveFloat

from kdtune.base import Published
from kdtune.losses.one_tap import OneTap


class Memory(OneTap):
    """A term that compares cells with a sample of a memory."""

    published_weight: ClassVar[Published | None] = Published(0.1, "its script on Cityscapes; its author on VOC: 0.01")
    needs_labels: ClassVar[bool] = True
    draws: ClassVar[bool] = True
    owns: ClassVar[str] = "a memory of the teacher's features; a projection of two 1x1 convolutions"

    temperature: PositiveFloat = 0.1  # tau
