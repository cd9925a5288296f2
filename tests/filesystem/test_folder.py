"""Folders: whole files in, whole files out."""

import hashlib
import multiprocessing
import threading
from pathlib import Path

import pytest

from kdtune.base import UserError
from kdtune.filesystem.folder import READERS, Folder

FORK = multiprocessing.get_context("fork")


def test_write_read_names_remove(tmp_path: Path) -> None:
    folder = Folder(str(tmp_path / "a" / "b"))
    assert folder.read("one.json") is None
    assert (folder.names(), folder.folders()) == ([], [])
    folder.write("two.json", b"2")
    folder.write("one.json", b"1")
    (folder / "inner").write("three", b"3")
    (tmp_path / "a" / "b" / "half.4711-1.partial").write_bytes(b"left by a process that was killed")
    assert folder.names() == ["one.json", "two.json"]
    assert folder.folders() == ["inner"]
    assert folder.read("one.json") == b"1"
    folder.write("one.json", b"again")
    assert folder.read("one.json") == b"again"
    assert folder.sha256("one.json") == hashlib.sha256(b"again").hexdigest()
    assert folder.sha256("three.json") is None
    folder.remove("one.json")
    folder.remove("one.json")
    assert folder.names() == ["two.json"]


def rewrite(path: Path) -> None:
    folder = Folder(str(path))
    for i in range(200):
        folder.write("table", bytes([i]) * 50_000)


def test_a_reader_never_sees_half_a_file(tmp_path: Path) -> None:
    folder = Folder(str(tmp_path))
    folder.write("table", b"\0" * 50_000)
    writer = FORK.Process(target=rewrite, args=(tmp_path,))
    writer.start()
    seen = set()
    while writer.is_alive():
        content = folder.read("table")
        assert content is not None
        assert content == content[:1] * 50_000
        assert folder.names() == ["table"]
        seen.add(content[0])
    writer.join()
    assert writer.exitcode == 0
    assert len(seen) > 3
    assert folder.read("table") == bytes([199]) * 50_000


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    folder = Folder(str(tmp_path))
    (tmp_path / "name").mkdir()
    with pytest.raises(OSError, match="directory"):
        folder.write("name", b"x")
    assert [path.name for path in tmp_path.iterdir()] == ["name"]


def test_one_of_many_creates(tmp_path: Path) -> None:
    answers, start = FORK.Queue(), FORK.Event()

    def process(number: int) -> None:
        start.wait()
        for i in range(20):
            if Folder(str(tmp_path)).create(f"lock-{i}", b"%d" % number):
                answers.put((i, number))
        answers.put(None)

    processes = [FORK.Process(target=process, args=(number,)) for number in range(4)]
    for each in processes:
        each.start()
    start.set()
    said = []
    while said.count(None) < 4:
        said.append(answers.get(timeout=30))
    for each in processes:
        each.join()
    winners = dict(entry for entry in said if entry is not None)
    assert len([entry for entry in said if entry is not None]) == len(winners) == 20
    assert {i: int((tmp_path / f"lock-{i}").read_bytes()) for i in range(20)} == winners
    assert len(list(tmp_path.iterdir())) == 20  # nothing else is left


def test_one_of_many_threads_creates(tmp_path: Path) -> None:
    won: list[tuple[int, int]] = []
    failed: list[Exception] = []
    barrier = threading.Barrier(4)

    def work(number: int) -> None:
        try:
            for i in range(50):
                barrier.wait(10)
                if Folder(str(tmp_path)).create(f"lock-{i}", b"%d" % number):
                    won.append((i, number))
        except Exception as error:
            failed.append(error)
            barrier.abort()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert sorted(i for i, _ in won) == list(range(50))
    assert all((tmp_path / f"lock-{i}").read_bytes() == b"%d" % number for i, number in won)


@pytest.mark.parametrize(
    ("base", "inner"),
    [
        ("s3://bucket/path", "s3://bucket/path/a/b"),
        ("s3://bucket/path/", "s3://bucket/path/a/b"),
        ("s3://bucket?endpoint_override=http://host:9000/x", "s3://bucket/a/b?endpoint_override=http://host:9000/x"),
        ("runs", "runs/a/b"),
        ("/what?", "/what?/a/b"),
    ],
)
def test_paths_and_options(base: str, inner: str) -> None:
    folder = Folder(base) / "a" / "b"
    assert folder.uri == inner
    parent, name = folder.split()
    assert (parent, name) == (Folder(base) / "a", "b")


def test_splitting_at_the_top() -> None:
    assert Folder("w.pt").split() == (Folder("."), "w.pt")
    assert Folder("/w.pt").split() == (Folder("/"), "w.pt")


def test_a_uri_with_options_is_the_same_folder(tmp_path: Path) -> None:
    (Folder(f"file://{tmp_path}?unused=a/b") / "inner").write("x", b"1")
    assert (tmp_path / "inner" / "x").read_bytes() == b"1"
    assert (Folder(f"file://{tmp_path}?unused=a/b") / "inner").local == tmp_path / "inner"


def test_a_file_system_that_is_not_local() -> None:
    folder = Folder("s3://bucket/path?endpoint_override=http%3A%2F%2Flocalhost%3A9&region=x")
    assert folder.local is None


def test_an_unknown_kind_of_uri_is_one_line() -> None:
    with pytest.raises(UserError, match=r"ftp://host/x: not a folder that can be opened: Unrecognized") as caught:
        Folder("ftp://host/x").names()
    assert "\n" not in str(caught.value)


def test_many_files_are_read_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Folder(str(tmp_path))
    names = [f"{i}.json" for i in range(2 * READERS)]
    for name in names:
        folder.write(name, name.encode())
    together = threading.Barrier(READERS, timeout=20)  # broken unless so many are read at the same time
    read = Folder.read

    def waiting(self: Folder, name: str) -> bytes | None:
        together.wait()
        return read(self, name)

    monkeypatch.setattr(Folder, "read", waiting)
    assert folder.read_many(names) == {name: name.encode() for name in names}


def test_of_many_files_those_that_are_there_are_read(tmp_path: Path) -> None:
    folder = Folder(str(tmp_path))
    folder.write("a", b"1")
    folder.write("empty", b"")
    assert folder.read_many(["a", "absent", "empty"]) == {"a": b"1", "empty": b""}
    assert folder.read_many([]) == {}
    assert folder.size() == 1
