"""What growth costs is measured on studies that every reader takes for real ones; requests and bytes are those sent."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from kdtune.api import results
from kdtune.bench import growth, synthetic_study
from kdtune.bench.counted_store import counted_store
from kdtune.cli import main
from kdtune.filesystem.folder import Folder
from kdtune.records.status import status_of
from kdtune.records.storage import Storage
from kdtune.study.schedulers import stands

TRIALS = 30


@pytest.fixture
def _here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of all commands the quickest, and no process of its own for what is no command."""
    monkeypatch.setattr(growth, "COMMANDS", ("results",))
    monkeypatch.setattr(growth, "_in_process", lambda work, *given: work(*given))


@pytest.mark.usefixtures("_here")
def test_folder_and_s3(tmp_path: Path) -> None:
    output = tmp_path / "figures.parquet"
    text = growth.growth([TRIALS], ["folder", "s3"], str(output))
    rows = {(row["place"], row["trials"], row["what"]): row for row in pq.read_table(output).to_pylist()}
    tables, evaluation = "tables, of a trial", "an evaluation"
    sized = [(1, "results"), (TRIALS, "results"), (TRIALS, tables)]
    assert list(rows) == [
        *(("folder", *each) for each in sized),
        *(("s3", *each) for each in sized),
        ("s3", None, evaluation),
    ]
    assert all(word in text for word in ("results", tables, evaluation))

    for place in ("folder", "s3"):
        alone, many = rows[place, 1, "results"], rows[place, TRIALS, "results"]
        assert alone["cpu_more"] == alone["mib_more"] == 0
        assert many["cpu_more"] == many["cpu_s"] - alone["cpu_s"]
        assert many["mib"] > 30
    on_s3, in_folder = (rows[place, TRIALS, "results"] for place in ("s3", "folder"))
    assert in_folder["files"] >= 2
    assert in_folder["GET"] is None
    assert (on_s3["GET"], on_s3["HEAD"]) == (in_folder["files"], in_folder["files"])  # a file is two requests
    assert on_s3["PUT"] == on_s3["kib"] == 0
    for place in ("folder", "s3"):  # how often is up to how fast the machine writes
        assert 0.1 < rows[place, TRIALS, tables]["kib"] < 1000
    assert rows["s3", TRIALS, tables]["PUT"] > 0
    trial = rows["s3", None, evaluation]
    assert trial["PUT"] >= 1
    assert 0.1 < trial["kib"] < 100


def test_the_study_is_one_that_a_launch_has_finished(tmp_path: Path) -> None:
    study = synthetic_study.synthetic_study(TRIALS)
    storage = Storage(str(tmp_path), study.name)
    synthetic_study.fill(storage, study)
    status = status_of(storage)
    assert status.done
    assert [(stage.planned, stage.completed) for stage in status.stages] == [(TRIALS, TRIALS)]
    assert all(stands(record["row"]["status"], "asha") for record in storage.records().values())
    found = results(study.name, str(tmp_path))
    assert found.table("history").num_rows == TRIALS * synthetic_study.EVALUATIONS
    assert found.table("grid").num_rows == TRIALS
    assert all(len(iou) == 19 for iou in found.table("trials")["per_class_iou"].to_pylist())


def test_requests_are_counted_by_kind_and_checkpoints_left_out() -> None:
    with counted_store() as store:
        folder = Folder("s3://growth/counted")
        folder.write("one", b"12345")
        (folder / "checkpoints" / "trial").write("state.pt", b"1234567890")
        assert store.counts() == {"PUT": 2, "bytes": 5}
        assert folder.read("one") == b"12345"
        assert folder.names() == ["one"]
        assert store.counts() == {"GET": 1, "HEAD": 1, "LIST": 1, "bytes": 0}


@pytest.mark.parametrize("trials", ["100,x", "1", ""])
def test_sizes_that_are_none(trials: str) -> None:
    done = CliRunner().invoke(main, ["bench", "growth", "--trials", trials])
    assert done.exit_code == 2
    assert "numbers of trials, 2 or more" in done.stderr
