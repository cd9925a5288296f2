"""JSON that somebody else wrote ends no command with a traceback."""

from pathlib import Path

import pytest

from kdtune.filesystem import json_text
from kdtune.filesystem.folder import Folder
from kdtune.filesystem.lock import UNKNOWN, read_holder
from kdtune.records import trouble
from kdtune.records.journal_files import decoded
from kdtune.records.storage import Storage

DEEP = 100_000 * b"["


def test_lists_within_lists_without_end(tmp_path: Path) -> None:
    for read in (json_text.parsed, decoded):
        with pytest.raises(ValueError, match="too many parts within each other"):
            read(DEEP)
    assert json_text.parsed(b'{"a": [1]}') == {"a": [1]}
    assert read_holder(DEEP) == UNKNOWN
    folder = Folder(str(tmp_path / "s"))
    for name in (trouble.NAME, "plan.json", "digests.json"):
        folder.write(name, DEEP)
    assert trouble.read(folder) == trouble.Trouble()
    assert Storage(str(tmp_path), "s").plan() == {}
    assert Storage(str(tmp_path), "s").digests() == {}
