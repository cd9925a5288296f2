"""``signs.json``: which trials of a running launch hang, and for what it waits; gone when the launch has ended."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

from kdtune.filesystem import json_text
from kdtune.filesystem.folder import Folder

NAME = "signs.json"


@dataclass(frozen=True)
class Trouble:
    """What keeps a launch from going on, as far as it knows."""

    stalled: Mapping[str, str] = field(default_factory=dict)  # trial -> since when and where, in words
    waiting: str | None = None  # for what, in words
    since: float | None = None  # of the waiting, seconds since 1970


def write(folder: Folder, trouble: Trouble) -> None:
    """Replaces what is on storage; removes it where there is no trouble."""
    if trouble == Trouble():
        folder.remove(NAME)
    else:
        folder.write(NAME, json.dumps(asdict(trouble)).encode())


def read(folder: Folder) -> Trouble:
    """What a launch has noted last; no trouble where the file is missing or damaged."""
    content = folder.read(NAME)
    try:
        return Trouble(**json_text.parsed(content)) if content is not None else Trouble()
    except (ValueError, TypeError):
        return Trouble()
