"""What a trial used: energy of its steps and of its evaluations, as whoever measures tells it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Amount:
    """Energy [kWh] and the emissions that came with it [kg CO2-equivalent]."""

    kwh: float = 0.0
    co2_kg: float = 0.0

    def __add__(self, other: "Amount") -> "Amount":
        return Amount(self.kwh + other.kwh, self.co2_kg + other.co2_kg)

    def __sub__(self, other: "Amount") -> "Amount":
        return Amount(self.kwh - other.kwh, self.co2_kg - other.co2_kg)

    def __mul__(self, factor: float) -> "Amount":
        return Amount(self.kwh * factor, self.co2_kg * factor)


Spent = Callable[[], Amount | None]  # what this process has used for its trial so far; none: nobody measures


def unmeasured() -> None:
    """Nobody measures."""


@dataclass
class Bill:
    """What a trial used: for its steps, and for its evaluations, which are inference on so many images."""

    training: Amount = Amount()
    inference: Amount = Amount()
    images: int = 0

    def trained(self, before: Amount | None, now: Amount | None) -> Amount | None:
        """Adds what was used between two readings; returns the latter."""
        if before is not None and now is not None:
            self.training += now - before
        return now

    def evaluated(self, before: Amount | None, now: Amount | None, images: int) -> Amount | None:
        """The same, of a pass over validation images; one too short for a reading does not count, nor do its images."""
        if before is not None and now is not None and now.kwh > before.kwh:
            self.inference += now - before
            self.images += images
        return now

    def columns(self) -> dict[str, float | int | None]:
        """Of a trial's row; null where nobody measured."""
        if not self.training.kwh + self.inference.kwh:
            return dict.fromkeys(("energy_kwh", "co2_kg", "inference_kwh", "inference_co2_kg", "inference_images"))
        return {
            "energy_kwh": self.training.kwh,
            "co2_kg": self.training.co2_kg,
            "inference_kwh": self.inference.kwh if self.images else None,
            "inference_co2_kg": self.inference.co2_kg if self.images else None,
            "inference_images": self.images or None,
        }

    def state_dict(self) -> dict[str, float]:
        """For a checkpoint."""
        used = {"training": self.training, "inference": self.inference}
        amounts = {f"{name}_{unit}": getattr(each, unit) for name, each in used.items() for unit in ("kwh", "co2_kg")}
        return {**amounts, "images": self.images}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """From a checkpoint."""
        self.training = Amount(state["training_kwh"], state["training_co2_kg"])
        self.inference = Amount(state["inference_kwh"], state["inference_co2_kg"])
        self.images = int(state["images"])
