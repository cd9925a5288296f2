"""What is stored is trusted only as far as it is what was written; what is not is run again, and comes to the same."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from kdtune.api import results
from kdtune.records.storage import Storage
from kdtune.training.numerics import NUMERICS
from tests.support.launching import as_text, essence, kdtune, whole

pytestmark = pytest.mark.slow

TEACHERS_WEIGHTS = "checkpoints/teacher-*/student.safetensors"


@pytest.fixture
def stored(once: Callable[..., Path], tmp_path: Path) -> Storage:
    """The tiny study, finished, on a storage of the test's own."""
    shutil.copytree(once("whole", whole), tmp_path / "own", ignore=shutil.ignore_patterns(".ray"))
    return Storage(str(tmp_path / "own"), "tiny")


def launch(stored: Storage, *words: str) -> tuple[int, str]:
    done = kdtune("launch", f"{stored.root}/tiny.yaml", "--storage", stored.root, "--scheduler", "none", *words)
    return done.returncode, done.stderr


def damage(path: Path, old: bytes | None = None, new: bytes = b"") -> None:
    """One flipped bit near the end of a file, or one text in it replaced."""
    content = path.read_bytes()
    if old is None:
        changed = bytearray(content)
        changed[-20] ^= 4
        path.write_bytes(changed)
    else:
        assert old in content
        path.write_bytes(content.replace(old, new, 1))


def made_by_another_version(stored: Storage, trial_id: str) -> None:
    record = stored.record(trial_id)
    assert record is not None
    record["row"] |= {"numerics": 0, "kdtune_version": "0.0.9"}
    stored.write_record(record)


def test_what_is_damaged_is_named_and_run_again(stored: Storage) -> None:
    """A table, a digit of a journal, a bit of the teacher: each alone would have changed rows without a sign."""
    folder = Path(stored.folder.uri)
    before = {table: essence(stored.root, table) for table in ("trials", "optimal", "final")}
    student, final = (
        next(row["trial_id"] for row in before["trials"] if row["stage"] == name) for name in ("student", "final")
    )
    made_by_another_version(stored, final)
    damage(folder / "trials.parquet")
    damage(folder / "journal" / f"{student}.1.json", b'"miou": ', b'"miou": 9')
    (weights,) = folder.glob(TEACHERS_WEIGHTS)
    whole_weights = weights.read_bytes()
    damage(weights)
    teacher = weights.parent.name
    (folder / "journal" / "half.json.4711-1.partial").write_bytes(b"killed while it was written")
    code, told = launch(stored, "--again", "weight-pi-*", "--mixed")
    assert code == 0, told
    assert f"{folder}/trials.parquet: damaged" in told
    assert f"{folder}/journal/{student}.1.json: damaged, and skipped" in told
    assert f"{weights}: not a file of weights" in told
    assert f"trial {teacher} is run again" in told
    assert weights.read_bytes() == whole_weights
    assert not [*folder.rglob("*.partial")]
    for row in before["trials"]:
        if row["trial_id"] == final:
            row |= {"numerics": 0, "kdtune_version": "0.0.9"}
    for table, rows in before.items():
        assert essence(stored.root, table) == sorted(rows, key=as_text), table
    shown = kdtune("results", "tiny", "--storage", stored.root)
    assert f"not all trials have the same version of the numerics (0: 1 trial, {NUMERICS}: 20 trials)" in shown.stderr
    rows = results("tiny", stored.root).table("trials").to_pylist()
    again = {row["trial_id"] for row in rows if row["attempt"] > 1}
    assert again == {teacher, *(row["trial_id"] for row in rows if row["stage"] == "weight-pi")}


def test_other_numerics_are_not_mixed_unasked(stored: Storage) -> None:
    folder = Path(stored.folder.uri)
    made_by_another_version(stored, next(id_ for id_ in stored.trial_ids() if id_.startswith("student-")))
    for name in ("trials.parquet", "digests.json"):
        (folder / name).unlink()
    journals = {path: path.read_bytes() for path in (folder / "journal").iterdir()}
    code, told = launch(stored, "--again", "final-*")
    assert code == 2
    for words in ("1 of the 17 trials", "0.0.9", "--again", "--storage", "--mixed"):
        assert words in told
    assert journals == {path: path.read_bytes() for path in (folder / "journal").iterdir()}
    code, told = launch(stored, "--again", "final-nowhere")
    assert (code, "--again final-nowhere: no trial" in told) == (2, True)
