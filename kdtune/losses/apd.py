"""What the two terms of adaptive perspectives have in common as a study writes them."""

from typing import ClassVar

from pydantic import PositiveFloat

from kdtune.losses.one_tap import OneTap


class Perspective(OneTap):
    """A term that compares features by prototypes of the classes, through an adapter on each side."""

    needs_labels: ClassVar[bool] = True
    owns: ClassVar[str] = "adapters of two 1x1 convolutions; the teacher's has its own optimiser"

    scale: PositiveFloat = 10.0  # kappa
    adapter_lr: PositiveFloat = 1e-5  # of the teacher's adapter
