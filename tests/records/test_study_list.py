"""The studies of a storage as a list: what each line says, and that none keeps the others from being listed."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from kdtune.cli import main
from kdtune.filesystem.lock import NAME as LOCK
from kdtune.filesystem.lock import locked
from kdtune.records.launched import Launched, write_launch
from kdtune.records.storage import Record, Storage
from kdtune.records.study_list import Listed, lines, listed
from tests.support.s3 import Proxy, Server, proxied, use
from tests.support.tiny import finished, write_tables

ENDED = "2026-01-02T05:00:00.000+00:00"


def stored(root: Path | str, name: str, records: Sequence[Record], ahead: Sequence[str] = ()) -> Storage:
    """A study with the tables of these trials; ``ahead``: trials that are planned beside them."""
    storage, plan = Storage(str(root), name), {"student": [record["row"]["trial_id"] for record in records] + [*ahead]}
    storage.write_plan(plan)
    write_tables(storage, plan, {record["row"]["trial_id"]: record for record in records})
    started = "2026-01-02T03:04:05.000+00:00"
    launch = Launched(started_at=started, host="here", pid=1, ended_at=ENDED, outcome="finished")
    write_launch(storage.folder, launch)
    return storage


def trials(*miou: float | None) -> list[Record]:
    return [finished("student", each, {"recipe.lr": 0.1 + i}) for i, each in enumerate(miou)]


def only(root: Path) -> Listed:
    (found,) = listed(str(root))
    return found


def kdtune(*words: str) -> Result:
    return CliRunner().invoke(main, ["studies", "list", *words])


def test_a_finished_study(tmp_path: Path) -> None:
    records = trials(31.5, 33.25, 12.0)
    records[2]["row"] |= {"status": "stopped", "miou": 90.0}
    stored(tmp_path, "tiny", records)
    expected = Listed("tiny", "finished", 3, 3, best=33.25, best_stage="student", best_method="student", seen_at=ENDED)
    assert only(tmp_path) == expected
    heads, line = lines([expected])
    assert heads.split("  ")[0] == "study"
    assert line.split() == "tiny finished 3/3 33.25 student, student 2026-01-02 05:00:00".split()


def test_a_teacher_is_not_the_best_of_a_study(tmp_path: Path) -> None:
    stored(tmp_path, "tiny", [*trials(31.5), finished("teacher", 50.0, {"recipe.lr": 0.7})])
    assert (only(tmp_path).best, only(tmp_path).best_method) == (31.5, "student")


def test_a_best_by_a_term_that_is_our_reconstruction_is_told_as_such(tmp_path: Path) -> None:
    record = finished("weight-csc", 31.5)
    record["row"]["method"] = "csc"
    stored(tmp_path, "tiny", [record])
    _, line, *notes = lines(listed(str(tmp_path)))
    assert "weight-csc, csc†" in line
    assert "†: our reconstruction of the term, not the authors'" in notes


def test_a_study_that_is_not_finished(tmp_path: Path) -> None:
    storage = stored(tmp_path, "tiny", trials(31.5), ahead=["student-0-s0"])
    assert (only(tmp_path).state, only(tmp_path).finished, only(tmp_path).planned) == ("ended", 1, 2)
    storage.write_plan(storage.plan() | {"student": storage.plan()["student"][:1], "final": []})
    assert (only(tmp_path).state, only(tmp_path).planned, only(tmp_path).more) == ("ended", 1, True)
    assert lines(listed(str(tmp_path)))[-1] == "+: later stages are not planned yet"


def test_whether_a_launch_runs(tmp_path: Path) -> None:
    storage = stored(tmp_path, "tiny", trials(31.5))
    with locked(storage.folder):
        mine = (tmp_path / "tiny" / LOCK).read_bytes()
        assert only(tmp_path).state == "running"
    holder = json.loads(mine)
    for changes, age, state in (
        ({"host": "elsewhere"}, 5, "running"),
        ({"host": "elsewhere"}, 3600, "silent"),
        ({"created": 1.0}, 3600, "finished"),  # killed
    ):
        storage.folder.write(LOCK, json.dumps(holder | changes).encode())
        then = round(time.time()) - age
        os.utime(tmp_path / "tiny" / LOCK, (then, then))
        found = only(tmp_path)
        assert found.state == state
        assert found.seen_at == time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime(then))


def test_a_study_that_was_only_submitted(tmp_path: Path) -> None:
    write_launch(Storage(str(tmp_path), "tiny").folder, Launched(started_at=ENDED))
    assert only(tmp_path) == Listed("tiny", "submitted", more=True, seen_at=ENDED)


@pytest.mark.parametrize("name", ["trials.parquet", "plan.json", "launch.json", LOCK])
@pytest.mark.parametrize("content", [b"", b"[1]", b"\xff"])
def test_a_damaged_study_is_told_and_the_others_too(tmp_path: Path, name: str, content: bytes) -> None:
    for study in ("a", "b", "c"):
        storage = stored(tmp_path, study, trials(31.5))
    Storage(str(tmp_path), "b").folder.write(name, content)
    storage.folder.split()[0].write("notes.txt", b"no study")
    (tmp_path / "empty").mkdir()
    done = kdtune("--storage", str(tmp_path))
    assert done.exit_code == 0, done.output
    assert [line.split()[0] for line in done.stdout.splitlines()[1:4]] == ["a", "b", "c"]
    a, b, c = listed(str(tmp_path))
    assert a == replace(c, study="a")
    assert not a.note
    if name == LOCK:  # whose holder mends it
        assert b.state == "running"
    else:
        assert f"note: b: {name} is damaged" in done.stdout


def test_as_json_and_without_torch(tmp_path: Path) -> None:
    stored(tmp_path, "tiny", trials(31.5))
    done = kdtune("--storage", str(tmp_path), "--format", "json")
    assert [row["study"] for row in json.loads(done.stdout)] == ["tiny"]
    code = f"from kdtune.records.study_list import listed; listed({str(tmp_path)!r})"
    code += "; import sys; print([name for name in ('torch', 'ray', 'pandas') if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_what_is_not_there_is_one_line(tmp_path: Path) -> None:
    done = kdtune("--storage", str(tmp_path))
    assert (done.exit_code, done.stderr.count("\n")) == (2, 1)
    assert "no study there" in done.stderr
    assert "--format goes with --storage" in kdtune("--format", "json").stderr


@pytest.fixture
def bucket(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, Proxy]]:
    """A storage in a bucket, and the proxy before it."""
    with proxied(server) as proxy:
        use(monkeypatch, proxy.address)
        yield f"s3://bucket/{tmp_path.name}", proxy


def test_requests_of_a_study(bucket: tuple[str, Proxy]) -> None:
    root, proxy = bucket
    counts = []
    for study in ("a", "b"):
        stored(root, study, trials(31.5))
        proxy.requests.clear()
        assert listed(root)[0].state == "finished"
        counts.append(len(proxy.requests))
    assert counts[1] - counts[0] == 9  # its names, and two for each of three files and of the digests


def test_a_study_that_cannot_be_read_is_told(bucket: tuple[str, Proxy], monkeypatch: pytest.MonkeyPatch) -> None:
    root, proxy = bucket
    for study in ("a", "b"):
        stored(root, study, trials(31.5))
    monkeypatch.setenv("KDTUNE_STORAGE_PATIENCE", "0")
    proxy.fault("/a/plan.json", "refuse", 60, alone=True)
    a, b = listed(root)
    assert (a.study, a.state, b.state) == ("a", "unknown", "finished")
    assert a.note.startswith(f"cannot be read: {root}/a: does not answer")
