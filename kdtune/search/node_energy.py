"""What the nodes of a study's launches used, kept on storage as its meters tell it."""

import time
from collections.abc import Sequence

from kdtune.cluster.meters import Meters
from kdtune.filesystem.lock import Held
from kdtune.records.rows import Row
from kdtune.records.storage import Storage
from kdtune.training.energy_meter import Totals

EVERY = 30.0  # seconds between two notes on storage


class NodeEnergy:
    """The energy of each launch's nodes; see ``rows.NODES``."""

    def __init__(self, storage: Storage, held: Held) -> None:
        self._storage, self._held = storage, held
        self._used = storage.energy()
        self._noted = 0.0

    @property
    def nodes(self) -> list[Row]:
        """A row per launch and node."""
        return [node for _, nodes in sorted(self._used.items()) for node in nodes]

    def keep(self, totals: Sequence[Totals]) -> None:
        """Notes what this launch's nodes used; on storage now and then, from a thread of the meters."""
        launch = self._held.token
        self._used[launch] = [{"study": self._storage.study, "launch": launch} | each.row() for each in totals]
        if time.monotonic() - self._noted >= EVERY and not self._held.lost.is_set():
            self._noted = time.monotonic()
            self._storage.write_energy(launch, self._used[launch])

    def keep_last(self, meters: Meters | None) -> None:
        """The last reading of a launch."""
        if meters is not None:
            self._noted = 0.0
            self.keep(meters.read())
