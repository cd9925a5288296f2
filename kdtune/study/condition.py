"""``when``: a stage that runs only if what was found before it is good enough."""

from collections.abc import Callable

from pydantic import NonNegativeFloat

from kdtune.base import Config


class When(Config):
    """The best of ``stage`` has more mIoU than the best of ``beats``, by more than ``by`` points."""

    stage: str
    beats: str
    by: NonNegativeFloat = 0.0  # mIoU points

    def missed(self, best: Callable[[str], float]) -> str | None:
        """Why the stage is left out; none if it runs. ``best``: the mIoU of a stage's best configuration [percent]."""
        gain = best(self.stage) - best(self.beats)
        told = f"'{self.stage}' has {gain:+.2f} mIoU points over '{self.beats}', and when wants more than {self.by:g}"
        return None if gain > self.by else told

    @property
    def told(self) -> str:
        """In words."""
        return f"runs only if '{self.stage}' has more than {self.by:g} mIoU points over '{self.beats}'"
