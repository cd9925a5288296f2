"""A thread of the driver that looks at the cluster again and again, for as long as a block runs."""

import contextlib
import threading
from collections.abc import Callable

from kdtune.base import Lost


class Looking:
    """Does each of ``looks`` every so many seconds; none ends for another's error, which others tell."""

    def __init__(self, name: str, every: float, within: float, *looks: Callable[[], None]) -> None:
        """``within``: seconds that the last look gets to end."""
        self._every, self._within, self._looks = every, within, looks
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._go_on, daemon=True, name=name)

    def start(self) -> None:
        """Begins."""
        self._thread.start()

    def end(self, error: object) -> None:
        """Looks no more, since the block has ended with this error; Ray ends a process that asks it something later."""
        self._done.set()
        if not isinstance(error, Lost):  # then no answer comes
            self._thread.join(self._within)

    def _go_on(self) -> None:
        while not self._done.wait(self._every):
            for look in self._looks:
                with contextlib.suppress(Exception):  # Ray or the storage may be gone
                    look()
