"""Fetching over a real connection: cut, resumed, damaged, hostile; a server on this machine."""

import hashlib
import io
import re
import socket
import stat
import tarfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest
from filelock import FileLock

from kdtune.base import RunError, UserError
from kdtune.datasets import fetch
from kdtune.datasets.ade20k import Ade20k
from kdtune.datasets.cityscapes import Cityscapes
from kdtune.datasets.files import Archive, FolderDataset
from kdtune.datasets.synth import write_synthetic
from kdtune.datasets.voc import Voc

IMAGES = 2


class Server(ThreadingHTTPServer):
    """Serves one file; remembers the range of each request and how many bytes of it went out."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content = b""
        self.ranges = True
        self.cut_after: int | None = None  # bytes of an answer, then the connection ends
        self.claims: int | None = None  # another length than the true one
        self.status: int | None = None
        self.asked: list[str | None] = []
        self.sent: list[int] = []

    def url(self, name: str) -> str:
        """Where a file of this name is."""
        return f"http://127.0.0.1:{self.server_address[1]}/{name}"


class Handler(BaseHTTPRequestHandler):
    """One answer."""

    server: Server

    def do_GET(self) -> None:
        server, given = self.server, self.headers.get("Range")
        server.asked.append(given)
        if server.status:
            self.send_error(server.status)
            return
        first = int(given.removeprefix("bytes=").rstrip("-")) if given and server.ranges else 0
        size = server.claims or len(server.content)
        if first >= size:
            self.send_error(416)
            return
        self.send_response(206 if given and server.ranges else 200)
        if given and server.ranges:
            self.send_header("Content-Range", f"bytes {first}-{size - 1}/{size}")
        self.send_header("Content-Length", str(size - first))
        self.end_headers()
        body = server.content[first:][: server.cut_after]
        server.sent.append(len(body))
        try:
            self.wfile.write(body)
        except (BrokenPipeError, ConnectionResetError):
            pass  # refused for want of room

    def log_message(self, format: str, *args: object) -> None:
        """Says nothing."""


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def tar_of(folder: Path) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for path in sorted(folder.iterdir()):
            tar.add(path, path.name)
    return packed.getvalue()


def zip_of(folder: Path) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for path in sorted(folder.rglob("*")):
            archive.write(path, path.relative_to(folder))
    return packed.getvalue()


def offered(server: Server, cls: type[FolderDataset], content: bytes) -> FolderDataset:
    """The dataset, small: its archive is ``content``, from our server."""
    kind, old = cls.archive.checksum()[0], cls.archive  # the kind of hash that the real one has
    small = Archive(
        server.url(old.name), old.folder, lambda: (kind, hashlib.new(kind, content).hexdigest()), "only for tests"
    )

    class Small(cls):  # type: ignore[misc, valid-type]
        archive: ClassVar[Archive | None] = small
        published: ClassVar = {"train": IMAGES, "val": IMAGES}

    server.content = content
    return Small(name={Voc: "voc", Ade20k: "ade20k"}[cls])


@pytest.fixture
def voc(server: Server, tmp_path: Path) -> FolderDataset:
    write_synthetic("voc", tmp_path / "original", IMAGES, size=(24, 32))
    return offered(server, Voc, tar_of(tmp_path / "original"))


def refused(call: Callable[[], object], kind: type[Exception] = UserError) -> str:
    with pytest.raises(kind) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def visible(root: Path) -> list[str]:
    return sorted(path.name for path in root.iterdir() if path.name != fetch.LOCK)


def files(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_voc(voc: FolderDataset, server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "new" / "voc"
    lines = fetch.fetch(voc, root)
    assert lines == [f"{root}/VOCdevkit: unpacked; now run: kdtune data check voc --root {root}"]
    assert "terms of use: only for tests" in capsys.readouterr().err
    assert visible(root) == ["VOCdevkit"]
    assert files(root / "VOCdevkit") == files(tmp_path / "original" / "VOCdevkit")
    assert stat.S_IMODE((root / "VOCdevkit").stat().st_mode) & 0o555 == 0o555
    assert "nothing to do" in fetch.fetch(voc, root)[0]
    assert len(server.asked) == 1


def test_ade20k_and_kept_archive(server: Server, tmp_path: Path) -> None:
    write_synthetic("ade20k", tmp_path / "original", IMAGES, size=(24, 32))
    dataset = offered(server, Ade20k, zip_of(tmp_path / "original"))
    fetch.fetch(dataset, tmp_path / "ade", keep_archive=True)
    assert visible(tmp_path / "ade") == ["ADEChallengeData2016", "ADEChallengeData2016.zip"]
    folder = "ADEChallengeData2016"
    assert files(tmp_path / "ade" / folder) == files(tmp_path / "original" / folder)


def test_a_cut_connection_is_resumed(voc: FolderDataset, server: Server, tmp_path: Path) -> None:
    root = tmp_path / "voc"
    server.cut_after = len(server.content) // 3
    line = refused(lambda: fetch.fetch(voc, root), RunError)
    assert "connection was lost" in line
    assert visible(root) == ["VOCtrainval_11-May-2012.tar.part"]  # nothing of it is unpacked
    assert next(root.glob("*.part")).read_bytes() == server.content[: server.cut_after]
    refused(lambda: fetch.fetch(voc, root), RunError)
    server.cut_after = None
    fetch.fetch(voc, root)
    third = len(server.content) // 3
    assert server.asked == [None, f"bytes={third}-", f"bytes={2 * third}-"]
    assert sum(server.sent) == len(server.content)  # no byte twice
    assert visible(root) == ["VOCdevkit"]


def test_a_server_without_ranges_starts_afresh(voc: FolderDataset, server: Server, tmp_path: Path) -> None:
    server.ranges, server.cut_after = False, 1000
    refused(lambda: fetch.fetch(voc, tmp_path / "voc"), RunError)
    server.cut_after = None
    fetch.fetch(voc, tmp_path / "voc")
    assert server.asked == [None, "bytes=1000-"]
    assert server.sent == [1000, len(server.content)]
    assert visible(tmp_path / "voc") == ["VOCdevkit"]


def test_a_part_that_is_complete_is_not_fetched_again(voc: FolderDataset, server: Server, tmp_path: Path) -> None:
    part = tmp_path / "voc" / "VOCtrainval_11-May-2012.tar.part"
    part.parent.mkdir()
    part.write_bytes(server.content)
    fetch.fetch(voc, tmp_path / "voc")
    assert server.sent == []
    assert visible(tmp_path / "voc") == ["VOCdevkit"]


def test_wrong_checksum(voc: FolderDataset, server: Server, tmp_path: Path) -> None:
    right = server.content
    server.content = right[:-1] + b"x"
    line = refused(lambda: fetch.fetch(voc, tmp_path / "voc"))
    assert f"published is {hashlib.md5(right).hexdigest()}" in line
    assert hashlib.md5(server.content).hexdigest() in line
    assert visible(tmp_path / "voc") == []


def test_an_archive_that_a_person_put_there(voc: FolderDataset, server: Server, tmp_path: Path) -> None:
    archive = tmp_path / "voc" / "VOCtrainval_11-May-2012.tar"
    archive.parent.mkdir()
    archive.write_bytes(b"something else")
    assert f"{archive}: md5 is " in refused(lambda: fetch.fetch(voc, archive.parent))
    assert archive.exists()  # not ours to remove
    archive.write_bytes(server.content)
    assert "was there before and stays" in fetch.fetch(voc, archive.parent)[1]
    assert visible(archive.parent) == ["VOCdevkit", archive.name]
    assert server.asked == []


def test_another_address(voc: FolderDataset, server: Server, tmp_path: Path) -> None:
    fetch.fetch(voc, tmp_path / "voc", url=server.url("mirror/voc2012.tar"))
    assert visible(tmp_path / "voc") == ["VOCdevkit"]
    for url in ("ftp://127.0.0.1/x.tar", "http://", "voc.tar"):
        assert url in refused(lambda url=url: fetch.fetch(voc, tmp_path / "other", url=url))  # type: ignore[misc]


@pytest.mark.parametrize(("status", "kind"), [(404, UserError), (503, RunError)])
def test_a_server_that_refuses(
    status: int, kind: type[Exception], voc: FolderDataset, server: Server, tmp_path: Path
) -> None:
    server.status = status
    assert f"the server answers {status}" in refused(lambda: fetch.fetch(voc, tmp_path / "voc"), kind)


def test_no_server(voc: FolderDataset, server: Server, tmp_path: Path) -> None:
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))  # kept, but nobody listens: no other process can take the port meanwhile
        url = f"http://127.0.0.1:{deaf.getsockname()[1]}/x.tar"
        line = refused(lambda: fetch.fetch(voc, tmp_path / "voc", url=url), RunError)
    assert line == f"{url}: the connection failed ([Errno 111] Connection refused); kept so far: 0.0 MB"


def test_no_room(voc: FolderDataset, server: Server, tmp_path: Path) -> None:
    server.claims = 1 << 60
    line = refused(lambda: fetch.fetch(voc, tmp_path / "voc"))
    assert re.search(r"need 2305843009213\.7 MB, but only [\d.]+ MB are free: make room", line)
    assert visible(tmp_path / "voc") == []


def hostile_tar(name: str) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for each in ("VOCdevkit/VOC2012/a.txt", name):
            member = tarfile.TarInfo(each)
            if name.endswith("link") and each == name:
                member.type, member.linkname = tarfile.SYMTYPE, "../../../evil"
            tar.addfile(member, io.BytesIO())
    return packed.getvalue()


# within the folder, which Python's filter lets pass; unpatched Pythons let those pass, too, that only seem to be so
WITHIN = {"symlink": tarfile.SYMTYPE, "hard link": tarfile.LNKTYPE, "pipe": tarfile.FIFOTYPE}


@pytest.mark.parametrize("kind", WITHIN)
def test_a_tar_with_anything_but_files(kind: str, server: Server, tmp_path: Path) -> None:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        tar.addfile(tarfile.TarInfo("VOCdevkit/VOC2012/a.txt"))
        member = tarfile.TarInfo("VOCdevkit/VOC2012/b.txt")
        member.type = WITHIN[kind]
        member.linkname = "a.txt" if kind == "symlink" else "VOCdevkit/VOC2012/a.txt"
        tar.addfile(member)
    dataset = offered(server, Voc, packed.getvalue())
    line = refused(lambda: fetch.fetch(dataset, tmp_path / "voc"))
    assert "its member 'VOCdevkit/VOC2012/b.txt' is no file: not the published archive, nothing was unpacked" in line
    assert visible(tmp_path / "voc") == ["VOCtrainval_11-May-2012.tar"]


def test_a_link_that_was_written_all_the_same(tmp_path: Path) -> None:
    (tmp_path / "folder" / "deep").mkdir(parents=True)
    fetch._refuse_links(tmp_path / "a.tar", tmp_path)
    (tmp_path / "folder" / "deep" / "link").symlink_to("/")
    with pytest.raises(UserError, match=r"a\.tar: holds a link \('link'\): not the published archive"):
        fetch._refuse_links(tmp_path / "a.tar", tmp_path)


def hostile_zip(name: str) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("ADEChallengeData2016/a.txt", "a")
        member = zipfile.ZipInfo(name)
        if name.endswith("link"):
            member.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(member, "../../evil")
    return packed.getvalue()


@pytest.mark.parametrize("name", ["../evil", "VOCdevkit/../../evil", "VOCdevkit/link"])
def test_a_tar_that_would_leave_the_folder(name: str, server: Server, tmp_path: Path) -> None:
    dataset = offered(server, Voc, hostile_tar(name))
    assert "nothing was unpacked" in refused(lambda: fetch.fetch(dataset, tmp_path / "voc"))
    assert visible(tmp_path / "voc") == ["VOCtrainval_11-May-2012.tar"]
    assert not list(tmp_path.rglob("evil"))


@pytest.mark.parametrize(
    "name", ["../evil", "ADEChallengeData2016/../../evil", "/evil", "c:/evil", "a\\..\\evil", "link"]
)
def test_a_zip_that_would_leave_the_folder(name: str, server: Server, tmp_path: Path) -> None:
    dataset = offered(server, Ade20k, hostile_zip(name))
    assert "nothing was unpacked" in refused(lambda: fetch.fetch(dataset, tmp_path / "ade"))
    assert visible(tmp_path / "ade") == ["ADEChallengeData2016.zip"]
    assert not list(tmp_path.rglob("evil"))


def test_an_archive_of_something_else(server: Server, tmp_path: Path) -> None:
    dataset = offered(server, Voc, b"no archive at all")
    assert "cannot be unpacked" in refused(lambda: fetch.fetch(dataset, tmp_path / "voc"))
    (tmp_path / "voc" / dataset.archive.name).unlink()  # type: ignore[union-attr]
    (tmp_path / "other" / "folder").mkdir(parents=True)
    dataset = offered(server, Voc, tar_of(tmp_path / "other"))
    assert "has no folder VOCdevkit" in refused(lambda: fetch.fetch(dataset, tmp_path / "voc"))


def test_what_is_there_is_never_touched(voc: FolderDataset, server: Server, tmp_path: Path) -> None:
    write_synthetic("voc", tmp_path / "voc", IMAGES + 1, size=(24, 32))
    before = files(tmp_path / "voc")
    assert "holds 3 and 3 images (train, val), but published are 2 and 2" in refused(
        lambda: fetch.fetch(voc, tmp_path / "voc")
    )
    missing = next((tmp_path / "voc").rglob("JPEGImages/*.jpg"))
    before.pop(str(missing.relative_to(tmp_path / "voc")))
    missing.unlink()
    line = refused(lambda: fetch.fetch(voc, tmp_path / "voc"))
    assert "is there but not complete" in line
    assert str(missing) in line
    after = files(tmp_path / "voc")
    after.pop(fetch.LOCK, None)
    assert after == before
    assert server.asked == []


def test_what_a_killed_process_left_is_removed(voc: FolderDataset, tmp_path: Path) -> None:
    (tmp_path / "voc" / f"{fetch.UNPACKING}x" / "VOCdevkit").mkdir(parents=True)
    fetch.fetch(voc, tmp_path / "voc")
    assert visible(tmp_path / "voc") == ["VOCdevkit"]


def test_two_at_once(voc: FolderDataset, server: Server, tmp_path: Path) -> None:
    (tmp_path / "voc").mkdir()
    with FileLock(tmp_path / "voc" / fetch.LOCK):
        assert "another 'kdtune data fetch'" in refused(lambda: fetch.fetch(voc, tmp_path / "voc"))
    assert server.asked == []


def test_what_has_to_be_got_by_hand(tmp_path: Path) -> None:
    line = refused(lambda: fetch.fetch(Cityscapes(name="cityscapes"), tmp_path / "city"))
    for words in ("register at https://", "gtFine_trainvaltest.zip", f"into {tmp_path}/city", "kdtune data check"):
        assert words in line
    assert not (tmp_path / "city").exists()


@pytest.mark.parametrize(("cls", "length"), [(Voc, 32), (Ade20k, 40)])
def test_the_real_archives(cls: type[FolderDataset], length: int) -> None:
    assert cls.archive is not None
    kind, digest = cls.archive.checksum()
    assert len(digest) == length == 2 * hashlib.new(kind).digest_size
    assert re.fullmatch(r"[\w.-]+\.(tar|zip)", cls.archive.name)
    assert "://" in cls.archive.terms
    assert "\n" not in cls.archive.terms
