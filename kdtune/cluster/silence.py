"""How long somebody has given no sign, as far as this process was awake to see it."""

from dataclasses import dataclass


@dataclass
class Silence:
    """One that was stopped for a minute itself (a laptop's lid, SIGSTOP) has not listened meanwhile."""

    looked: float  # on the monotonic clock
    every: float  # seconds between two looks
    seconds: float = 0.0

    def at(self, now: float, answered: bool) -> float:
        """The seconds of silence at a look."""
        self.seconds = 0.0 if answered else self.seconds + min(now - self.looked, 2 * self.every)
        self.looked = now
        return self.seconds
