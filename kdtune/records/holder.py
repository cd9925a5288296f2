"""Whether a launch of a study runs, as its lock tells."""

import time
from dataclasses import dataclass
from typing import Literal

from kdtune.filesystem.folder import Folder
from kdtune.filesystem.lock import LEASE, alive_here, read_holder
from kdtune.filesystem.lock import NAME as LOCK
from kdtune.records.progress import duration


@dataclass(frozen=True)
class Holder:
    """What the lock tells of the launch that runs, or none does."""

    state: Literal["running", "silent", "none"]  # silent: of another host, and not heard of for longer than its lease
    told: str = ""


def holder(folder: Folder) -> Holder:
    """Whether a launch runs. One of another host is judged by the age of its lock; clocks may differ a little."""
    content = folder.read(LOCK)
    if content is None:
        return Holder("none")
    found = read_holder(content)
    alive = alive_here(found)
    if alive is False:
        return Holder("none", f"process {found['pid']} on {found['host']} was killed")
    who = f"process {found['pid']} on {found['host']}"
    if alive:
        return Holder("running", who)
    age = max(0.0, time.time() - folder.facts().get(LOCK, (0, time.time()))[1])
    return Holder("running" if age < LEASE else "silent", f"{who}, last seen {duration(age)} ago")
