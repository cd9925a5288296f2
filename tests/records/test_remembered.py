"""What a launch asks its storage for: a file once, and never less than it takes to notice what is damaged."""

import threading
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from kdtune.bench.counted_store import BUCKET, counted_store
from kdtune.bench.synthetic_study import fill, synthetic_study
from kdtune.cli import main
from kdtune.errors import UserError
from kdtune.filesystem.folder import Folder
from kdtune.filesystem.lock import BEAT
from kdtune.records import remembered
from kdtune.records.logbook import STOP_EVERY
from kdtune.records.storage import Storage
from kdtune.study.file import dump
from tests.support.tiny import finished, write_tables


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    where, record = Storage(str(tmp_path), "tiny"), finished("student", 31.5)
    id_ = record["row"]["trial_id"]
    write_tables(where, {"student": [id_]}, {id_: record})
    return where


def test_a_file_is_read_once_in_the_block_and_written_ones_not_at_all(tmp_path: Path) -> None:
    folder = Folder(str(tmp_path))
    folder.write("a", b"first")
    with remembered.remembered():
        assert remembered.read(folder, "a") == b"first"
        folder.write("a", b"of somebody else")
        assert remembered.read(folder, "a") == b"first"
        assert remembered.read(folder, "a", anew=True) == remembered.read(folder, "a") == b"of somebody else"
        remembered.write(folder, "a", b"of this process")
        folder.remove("a")
        assert remembered.read(folder, "a") == b"of this process"
        remembered.write(folder, "a", b"of this process")
        assert folder.names() == []  # it is there, as far as who alone writes it knows
        assert remembered.read(folder, "a", anew=True) is remembered.read(folder, "a") is None
    folder.write("a", b"after")
    assert remembered.read(folder, "a") == b"after"
    folder.write("a", b"nothing is kept outside of the block")
    assert remembered.read(folder, "a") == b"nothing is kept outside of the block"


def test_threads_share_what_is_kept(tmp_path: Path) -> None:
    """Tables are written by Tune's thread, too: what the launch's own wrote before is there no more."""
    folder = Folder(str(tmp_path))
    with remembered.remembered():
        remembered.write(folder, "a", b"before")
        thread = threading.Thread(target=remembered.write, args=(folder, "a", b"by another"))
        thread.start()
        thread.join()
        assert remembered.read(folder, "a") == folder.read("a") == b"by another"
        remembered.write(folder, "a", b"before")
        assert folder.read("a") == b"before"


def test_what_is_large_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remembered, "LARGEST", 3)
    folder = Folder(str(tmp_path))
    with remembered.remembered():
        for content in (b"four", b"five"):
            folder.write("a", content)
            assert remembered.read_many(folder, ["a", "b"]) == {"a": content}
            assert remembered.read(folder, "a") == content


def test_a_kept_table_that_does_not_fit_its_digest_is_read_anew(storage: Storage) -> None:
    sound = storage.folder.read("trials.parquet") or b""
    with remembered.remembered():
        storage.folder.write("trials.parquet", b"damaged")
        with pytest.raises(UserError, match=r"trials\.parquet: damaged"):
            storage.table("trials")
        storage.folder.write("trials.parquet", sound)
        assert storage.table("trials").num_rows == 1


def test_a_launch_of_a_finished_study_asks_for_nothing_twice(tmp_path: Path) -> None:
    study, file = synthetic_study(2), tmp_path / "study.yaml"
    file.write_text(dump(study))
    with counted_store() as store:
        root = f"s3://{BUCKET}/runs"
        fill(Storage(root, study.name), study)
        store.counts()
        began = time.monotonic()
        done = CliRunner().invoke(main, ["launch", str(file), "--storage", root])
        counts, seconds = store.counts(), time.monotonic() - began
    assert done.exit_code == 0
    assert "nothing left to run" in done.stderr
    assert f"{study.name}: best configuration of each stage" in done.stdout
    del counts["bytes"]
    assert counts["LIST"] == 2  # journals, a thousand to a request; energy
    often = seconds // STOP_EVERY + 4 * (seconds // BEAT)  # whether it is to end; the lock's sign of life and the log
    assert counts.total() <= 38 + often  # 9 more with the journals of 10,000 trials
