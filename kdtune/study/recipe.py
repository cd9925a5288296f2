"""How a network is trained: every number of the recipe, with its unit and default."""

import operator
from typing import Literal, Self

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from kdtune.base import Config
from kdtune.study.budget import Budget


class Recipe(Config):
    """How a network is trained: SGD, polynomial decay of the rate, random scale, crop and flip."""

    lr: PositiveFloat  # mu(0), the rate before the first step
    weight_decay: NonNegativeFloat
    momentum: NonNegativeFloat = 0.9
    power: PositiveFloat = 0.9  # of the polynomial decay, equation 4
    num_steps: NonNegativeInt  # eta; 0 only evaluates
    # takes the place of num_steps; a stage's own, see ``kdtune.study.budget``. Left out of what is written where null
    budget: Budget | None = Field(default=None, exclude_if=operator.not_)
    batch_size: PositiveInt = 8
    crop: tuple[PositiveInt, PositiveInt] = (512, 512)  # height, width
    scale_min: PositiveFloat = 0.5
    scale_max: PositiveFloat = 2.1
    scale_step: PositiveFloat = 0.1
    flip: bool = True
    eval_every: PositiveInt | None = None  # steps; null: twenty evaluations per trial
    eval_batch_size: PositiveInt = 4
    eval_window: tuple[PositiveInt, PositiveInt] | None = None  # height, width of sliding tiles; null: whole images
    absent_classes: Literal["skip", "zero"] = "skip"  # absent from labels and predictions alike; SKD's code: zero
    bf16: bool = True  # autocast, where the device is a GPU
    channels_last: bool = True  # where the device is a GPU
    compile: bool = False  # torch.compile; worth it on a GPU, and made for one

    @model_validator(mode="after")
    def _budget_is_measured(self) -> Self:
        if self.budget is not None and self.budget.steps is not None:
            raise ValueError("budget: of steps it is num_steps")
        return self

    @model_validator(mode="after")
    def _scales(self) -> Self:
        if self.scale_max < self.scale_min:
            raise ValueError(f"scale_min <= scale_max must hold, got {self.scale_min} and {self.scale_max}")
        return self

    @property
    def length(self) -> str:
        """How long a trial is, in words."""
        return self.budget.told if self.budget else f"{self.num_steps} steps"

    @property
    def evaluation_steps(self) -> tuple[int, ...]:
        """Steps after which a trial is evaluated; the last step is always among them."""
        every = self.eval_every or max(1, self.num_steps // 20)
        return tuple(sorted({*range(every, self.num_steps + 1, every), self.num_steps}))
