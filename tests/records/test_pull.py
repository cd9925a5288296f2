"""Results copied from a storage to this machine."""

import os
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from kdtune.api import results
from kdtune.cli import main
from kdtune.filesystem.folder import Folder, leads_out
from kdtune.records.launched import Launched, write_launch
from kdtune.records.storage import IMAGE_COUNTS, WEIGHTS, Storage
from tests.support import report_study
from tests.support.image_counts import drawn
from tests.support.s3 import Server, use
from tests.support.tiny import config, finished, study, write_tables


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A storage of two studies with tables, weights, a state, and all that a running launch leaves."""
    root = tmp_path / "storage"
    for name in ("tiny", "other"):
        storage = Storage(str(root), name)
        record = finished("student", 31.5)
        record["row"]["study"] = name
        trial_id = record["row"]["trial_id"]
        record["attempt"] = 1
        plan = {"student": [trial_id]}
        storage.write_study(study().model_copy(update={"name": name}), {"kdtune": "0.1.0"})
        storage.write_plan(plan)
        storage.write_record(record)
        write_tables(storage, plan, {trial_id: record})
        storage.write_weights(trial_id, config().student.build(12))
        storage.write_state(trial_id, 1, 4, {"step": 4})
        write_launch(storage.folder, Launched(started_at="2026-01-02T03:04:05+00:00"))
        storage.folder.write("entropy.svg", b"<svg/>")
        for left in ("launch.log", "lock.json", "stop.json"):
            storage.folder.write(left, b"{}")
    return root


def pull(*words: str | Path) -> Result:
    return CliRunner().invoke(main, ["pull", *map(str, words)])


def names(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_tables_are_copied_and_read_there(source: Path, tmp_path: Path) -> None:
    done = pull(source, tmp_path / "here")
    assert done.exit_code == 0, done.output
    tables = ("trials", "history", "optimal", "final", "emissions", "nodes")
    found = {*(f"{table}.parquet" for table in tables), "digests.json", "study.yaml", "plan.json", "entropy.svg"}
    assert names(tmp_path / "here") == {f"{name}/{file}" for name in ("tiny", "other") for file in found}
    there, here = (results("tiny", str(root)) for root in (source, tmp_path / "here"))
    assert here.table("trials").equals(there.table("trials"))
    shown = CliRunner().invoke(main, ["results", "tiny", "--storage", str(tmp_path / "here")])
    assert shown.exit_code == 0, shown.output
    assert f"kdtune results tiny --storage {tmp_path / 'here'}" in done.stderr


def test_counts_over_images_come_with_the_tables(source: Path, tmp_path: Path) -> None:
    storage = Storage(str(source), "tiny")
    for trial_id in ("final-0123456789-s1", "student-0123456789-s1"):
        storage.write_image_counts(trial_id, drawn([0.5], 12, 1))
    assert pull(source, tmp_path / "here", "--study", "tiny").exit_code == 0
    counts = {name for name in names(tmp_path / "here") if "checkpoints" in name}
    assert counts == {f"tiny/checkpoints/final-0123456789-s1/{IMAGE_COUNTS}"}
    assert pull(source, tmp_path / "all", "--study", "tiny", "--checkpoints").exit_code == 0
    assert sum(name.endswith(IMAGE_COUNTS) for name in names(tmp_path / "all")) == 2


def test_with_weights_and_one_study(source: Path, tmp_path: Path) -> None:
    for uri, words in ((source / "tiny", ()), (source, ("--study", "tiny"))):
        dest = tmp_path / f"here-{len(words)}"
        assert pull(uri, dest, "--checkpoints", *words).exit_code == 0
        (weights,) = dest.rglob(WEIGHTS)
        assert weights.read_bytes() == (source / weights.relative_to(dest)).read_bytes()
        assert {name.split("/")[0] for name in names(dest)} == {"tiny"}
        assert not any(part in name for name in names(dest) for part in ("state-", "lock", "stop", "launch", "journal"))


def test_a_uri_that_ends_in_a_slash_names_its_study(source: Path, tmp_path: Path) -> None:
    done = pull(f"file://{source}/tiny/", tmp_path / "here", "--study", "tiny")
    assert done.exit_code == 0, done.output
    assert {name.split("/")[0] for name in names(tmp_path / "here")} == {"tiny"}
    assert f"kdtune results tiny --storage {tmp_path / 'here'}" in done.stderr


def test_it_copies_to_this_machine_alone(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = pull(source, "s3://bucket/results")
    assert done.exit_code == 2
    assert "s3://bucket/results: is a URI: give a folder of this machine" in done.stderr
    assert not Path("s3:").exists()


def test_the_best_has_run_all_of_its_seeds(tmp_path: Path) -> None:
    """A study without tables, its first trial under way, holds up no other."""
    storage = Storage(str(tmp_path / "storage"), "tiny")
    given = [(0.1, 11, 51.0), (0.1, 12, 52.0), (0.01, 11, 60.0)]
    records = [finished("final", miou, {"recipe.lr": lr, "seed": seed}) for lr, seed, miou in given]
    known = {record["row"]["trial_id"]: record | {"attempt": 1} for record in records}
    for record in known.values():
        storage.write_record(record)
        storage.write_weights(record["row"]["trial_id"], config().student.build(12))
    plan = {"final": [*known]}
    storage.write_study(study(), {"kdtune": "0.1.0"})
    storage.write_plan(plan)
    write_tables(storage, plan, known)
    Storage(storage.root, "new").write_study(study().model_copy(update={"name": "new"}), {"kdtune": "0.1.0"})
    done = pull(storage.root, tmp_path / "here", "--checkpoints", "--best")
    assert done.exit_code == 0, done.output
    found = {path.parent.name for path in (tmp_path / "here").rglob(WEIGHTS)}
    assert found == {*list(known)[:2]}
    assert (tmp_path / "here" / "new" / "study.yaml").is_file()


def test_what_is_there_is_not_copied_again(source: Path, tmp_path: Path) -> None:
    dest = tmp_path / "here"
    assert pull(source / "tiny", dest, "--checkpoints").exit_code == 0
    (weights,) = dest.rglob(WEIGHTS)
    before = weights.stat().st_ino
    done = pull(source / "tiny", dest, "--checkpoints")
    assert "0 files copied" in done.stderr
    assert weights.stat().st_ino == before


def test_a_table_that_changed_is_copied_though_its_size_is_the_same(source: Path, tmp_path: Path) -> None:
    dest = tmp_path / "here"
    assert pull(source / "tiny", dest).exit_code == 0
    table = source / "tiny" / "trials.parquet"
    changed = table.read_bytes().replace(b"student", b"STUDENT")
    table.write_bytes(changed)
    os.utime(table, (1_900_000_000, 1_900_000_000))
    done = pull(source / "tiny", dest)
    assert "1 files copied" in done.stderr
    assert (dest / "tiny" / "trials.parquet").read_bytes() == changed


@pytest.mark.parametrize("name", ["..\\evil.parquet", "C:evil.parquet"])
def test_a_name_cannot_lead_out_of_the_folder(source: Path, tmp_path: Path, name: str) -> None:
    (source / "tiny" / name).write_bytes(b"x")
    done = pull(source, tmp_path / "here")
    assert done.exit_code == 2
    (line,) = done.stderr.splitlines()
    assert repr(name) in line
    assert "nothing is copied" in line
    assert not (tmp_path / "here").exists()


@pytest.mark.parametrize("place", ["tiny/private.svg", "tiny/trials.parquet", "tiny/checkpoints", "linked"])
def test_a_link_out_of_the_study_is_not_followed(source: Path, tmp_path: Path, place: str) -> None:
    """It could name any file of the user's, who then shares the folder."""
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "study.yaml").write_text("secret")
    (mine / "t").mkdir()
    (mine / "t" / WEIGHTS).write_text("secret")
    path = source / place
    if path.is_dir():
        path.rename(tmp_path / "away")
    path.unlink(missing_ok=True)
    path.symlink_to(mine / "study.yaml" if "." in path.name else mine)
    done = pull(source, tmp_path / "to", "--checkpoints")
    assert (done.exit_code, done.stderr.count("\n")) == (2, 1)
    assert f"{place}" in done.stderr
    assert "which lies elsewhere; nothing is copied" in done.stderr
    assert not (tmp_path / "to").exists()


def test_links_within_a_study_and_to_the_storage_are_followed(source: Path, tmp_path: Path) -> None:
    (source / "tiny" / "same.svg").symlink_to("entropy.svg")
    (tmp_path / "storage-link").symlink_to(source)
    assert pull(tmp_path / "storage-link", tmp_path / "to").exit_code == 0
    assert (tmp_path / "to" / "tiny" / "same.svg").read_bytes() == b"<svg/>"


def test_links_in_a_circle(source: Path, tmp_path: Path) -> None:
    (source / "tiny" / "a.svg").symlink_to("b.svg")
    (source / "tiny" / "b.svg").symlink_to("a.svg")
    assert pull(source, tmp_path / "to").exit_code == 0  # they are no files
    assert leads_out(Folder(str(source / "tiny")), "a.svg") is not None


def test_nothing_to_copy(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    done = pull(tmp_path / "empty", tmp_path / "here")
    assert done.exit_code == 2
    (line,) = done.stderr.splitlines()
    assert "no study there" in line


@pytest.fixture
def bucket(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A storage in a bucket, with one study: the path of its folder."""
    use(monkeypatch, server.address)
    path = f"bucket/{tmp_path.name}"
    server.put(f"{path}/tiny/study.yaml", b"name: tiny\n")
    server.put(f"{path}/tiny/trials.parquet", b"x")
    return path


def test_from_a_bucket(bucket: str, tmp_path: Path) -> None:
    done = pull(f"s3://{bucket}", tmp_path / "here", "--checkpoints")
    assert done.exit_code == 0, done.output
    assert names(tmp_path / "here") == {"tiny/study.yaml", "tiny/trials.parquet"}
    assert "0 files copied" in pull(f"s3://{bucket}", tmp_path / "here", "--checkpoints").stderr


def test_what_is_copied_is_said_in_its_order(bucket: str, tmp_path: Path) -> None:
    trials = [f"student-{i:02}-s0" for i in range(40)]
    for trial in trials:
        folder = Folder(f"s3://{bucket}") / "tiny" / "checkpoints" / trial
        folder.write(WEIGHTS, trial.encode())
        folder.write("state-4.1.pt", b"x")
    done = pull(f"s3://{bucket}", tmp_path / "here", "--checkpoints")
    said = ["tiny/study.yaml", "tiny/trials.parquet", *(f"tiny/checkpoints/{trial}/{WEIGHTS}" for trial in trials)]
    assert done.stderr.splitlines()[:-2] == said
    assert all((tmp_path / "here" / path).is_file() for path in said)
    assert {(tmp_path / "here" / path).read_text() for path in said[2:]} == set(trials)


def test_what_cannot_be_written_is_named(source: Path, tmp_path: Path) -> None:
    (tmp_path / "here" / "tiny").mkdir(parents=True)
    (tmp_path / "here" / "tiny" / "checkpoints").write_text("no folder")
    done = pull(source, tmp_path / "here", "--checkpoints", "--study", "tiny")
    assert done.exit_code == 2
    assert str(tmp_path / "here" / "tiny" / "checkpoints") in done.stderr.splitlines()[-1]


@pytest.mark.parametrize("key", ["checkpoints/%2e%2e/student.safetensors", "a%5Cb.parquet"])
def test_a_key_cannot_lead_out_of_the_folder(server: Server, bucket: str, tmp_path: Path, key: str) -> None:
    server.put(f"{bucket}/tiny/{key}", b"x")
    done = pull(f"s3://{bucket}", tmp_path / "here", "--checkpoints")
    assert done.exit_code == 2
    assert "nothing is copied" in done.stderr
    assert not (tmp_path / "here").exists()


def test_of_the_weights_only_the_best(tmp_path: Path) -> None:
    """Of each stage and method, all seeds of its best configuration."""
    where = Storage(str(tmp_path / "there"), "demo")
    for record in report_study.write(where, report_study.demo()):
        (where.folder / "checkpoints" / record["row"]["trial_id"]).write("student.safetensors", b"weights")
    done = pull(tmp_path / "there", tmp_path / "here", "--checkpoints", "--best")
    assert done.exit_code == 0, done.output
    copied = {path.parent.name for path in (tmp_path / "here").rglob("student.safetensors")}
    rows = where.table("trials").to_pylist()
    final = [row for row in rows if row["stage"] == "final"]
    assert {row["trial_id"] for row in final} <= copied  # one configuration of each method
    grid = [row for row in rows if row["stage"] == "student"]
    assert len(grid) > 1
    assert {row["trial_id"] for row in grid} & copied == {max(grid, key=lambda row: row["miou"])["trial_id"]}
    told = pull(tmp_path / "there", tmp_path / "here", "--best")
    assert told.exit_code == 2
    assert "--best goes with --checkpoints" in told.output
