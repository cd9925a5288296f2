"""``--again``: which of the trials that it names begin anew."""

from pathlib import Path

import pytest

from kdtune.filesystem.folder import Folder
from kdtune.records.launched import Launched, write_launch
from kdtune.records.progress import Reporter
from kdtune.search.anew import asked_anew

ASKED, HOUR = "2026-01-02T03:00:00.000+00:00", 3600.0
MOMENT = 1767322800.0  # the same in seconds since 1970
ROWS = {"final-a-s0": {"started_at": MOMENT - HOUR}, "final-b-s0": {"started_at": MOMENT + HOUR}}


@pytest.mark.parametrize(
    ("started", "begins"),
    [
        (ASKED, {*ROWS}),  # asked for the first time: what seems to have begun later ran where clocks are ahead
        ("2026-01-02T05:00:00.000+00:00", {"final-a-s0"}),
    ],
)
def test_what_has_begun_anew_stands_where_a_command_is_repeated(tmp_path: Path, started: str, begins: set[str]) -> None:
    folder = Folder(str(tmp_path))
    write_launch(folder, Launched(started_at=started, asked_at=ASKED))
    assert asked_anew(["final-*"], ROWS, folder, Reporter()) == begins
