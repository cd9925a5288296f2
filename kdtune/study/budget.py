"""``budget``: how much a trial may take, in the place of a number of steps."""

from collections.abc import Mapping
from typing import Any, Self

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from kdtune.base import Config


def _absent(value: Any) -> bool:
    return value is None


class Budget(Config):
    """One of these. What the steps take counts, and what comes before the first; evaluations do not."""

    steps: PositiveInt | None = Field(default=None, exclude_if=_absent)
    seconds: PositiveFloat | None = Field(default=None, exclude_if=_absent)
    kwh: PositiveFloat | None = Field(default=None, exclude_if=_absent)

    @model_validator(mode="after")
    def _is_one(self) -> Self:
        if len(self.model_dump()) != 1:
            raise ValueError("needs one of steps, seconds and kwh, e.g. {seconds: 3600}")
        return self

    @property
    def told(self) -> str:
        """In words."""
        unit, amount = next(iter(self.model_dump().items()))
        return f"{amount:,g} {'kWh' if unit == 'kwh' else unit}"


def as_changes(budget: Any) -> dict[str, Any]:
    """What a stage's budget sets in its configurations; a budget with a fault sets nothing, it is told elsewhere."""
    given = budget.model_dump() if isinstance(budget, Budget) else budget
    if not isinstance(given, Mapping) or len(given) != 1:
        return {}
    if "steps" in given:
        return {"recipe.num_steps": given["steps"], "recipe.budget": None}
    return {"recipe.budget": dict(given)} if given.keys() & {"seconds", "kwh"} else {}
