"""What terms that compare one feature map of both networks have in common as a study writes them."""

from kdtune.base import LossTerm, Tap


class OneTap(LossTerm):
    """A term that reads the map at ``tap``."""

    tap: Tap = "psp"

    @property
    def taps(self) -> frozenset[Tap]:
        """The one of its field."""
        return frozenset({self.tap})
