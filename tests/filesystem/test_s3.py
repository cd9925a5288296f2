"""Folders on S3, against a real server on loopback."""

import hashlib
import logging
import multiprocessing
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from pyarrow import fs

from kdtune.base import UserError
from kdtune.filesystem.folder import Folder, absolute
from kdtune.filesystem.patience import FIRST, StorageError, waiting
from kdtune.records.storage import Storage
from tests.support.launching import kdtune
from tests.support.s3 import KEY_ID, SECRET, Proxy, Server, environment, proxied, serving, use

SPAWN = multiprocessing.get_context("spawn")  # a fork would share the library's threads


@pytest.fixture
def proxy(server: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """A proxy, and an environment that names it as the endpoint."""
    with proxied(server) as proxy:
        use(monkeypatch, proxy.address)
        yield proxy


@pytest.fixture
def folder(proxy: Proxy, request: pytest.FixtureRequest) -> Folder:
    """One that no other test uses; as for every test, its first request opens the file system anew."""
    name = hashlib.sha256(request.node.name.encode()).hexdigest()[:12]
    return Folder(f"s3://bucket/{name}?endpoint_override={proxy.address}&scheme=http") / "a"


def test_write_read_names_remove(folder: Folder) -> None:
    assert folder.local is None
    assert folder.read("one.json") is None
    assert (folder.names(), folder.folders()) == ([], [])
    folder.write("two.json", b"2")
    folder.write("one.json", b"1")
    folder.write("empty", b"")
    (folder / "inner").write("three", b"3")
    folder.write("half.4711-1.partial", b"no name of ours")
    assert folder.names() == ["empty", "one.json", "two.json"]
    assert folder.folders() == ["inner"]
    assert folder.read("one.json") == b"1"
    assert folder.read("empty") == b""
    assert folder.read("inner") is None
    folder.write("one.json", b"again")
    assert folder.read("one.json") == b"again"
    assert folder.create("one.json", b"no") is False
    assert folder.create("four", b"4") is True
    assert folder.read("four") == b"4"
    for name in ("one.json", "one.json", "four", "empty", "two.json", "half.4711-1.partial"):
        folder.remove(name)
    (folder / "inner").remove("three")
    assert folder.names() == (folder / "inner").names() == []


def test_large_objects(folder: Folder) -> None:
    """Of several parts: such a one's tag is no checksum of its content."""
    content = bytes(range(256)) * 100_000
    folder.write("weights", content)
    assert folder.read("weights") == content


def test_the_environment_names_the_endpoint(proxy: Proxy) -> None:
    Folder("s3://bucket/by-environment").write("x", b"1")
    inner = Folder(f"s3://bucket/by-environment?endpoint_override=http://{proxy.address}&region=us-east-1")
    assert inner.read("x") == b"1"
    assert inner.names() == ["x"]
    assert Folder("s3://bucket/by environment%21").read("x") is None


def test_another_endpoint_is_another_store(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Though bucket and URI are the same."""
    with serving() as second:
        second.make_bucket("bucket")
        for address, content in ((server.address, b"first"), (second.address, b"second")):
            use(monkeypatch, address)
            assert Folder("s3://bucket/endpoints").read("x") is None
            Folder("s3://bucket/endpoints").write("x", content)


@pytest.mark.slow
def test_over_a_thousand_names(folder: Folder) -> None:
    names = [f"{i:04}.json" for i in range(1100)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda name: folder.write(name, b"1"), names))
    assert folder.names() == names


def test_requests_of_each_method(folder: Folder, proxy: Proxy) -> None:
    """What a study costs; opening the file system is paid once."""

    def requests() -> list[str]:
        seen = [request.split()[0] for request in proxy.requests]
        proxy.requests.clear()
        return seen

    folder.write("x", b"1")
    assert requests() == ["PUT"]
    for inner in (folder, folder / "b" / "c"):
        inner.write("x", b"12")
        assert requests() == ["PUT"]
        inner.read("x")
        assert requests() == ["HEAD", "GET"]
        inner.names()
        assert requests() == ["GET"]
        inner.remove("x")
        assert requests() == ["HEAD", "DELETE", "PUT"]  # the last one is pyarrow's, see Folder.remove


def test_an_object_that_is_replaced_while_it_is_read(folder: Folder, proxy: Proxy, server: Server) -> None:
    """Between the request for its size and the one for its content: it comes whole, the old or the new."""
    direct = Folder(folder.uri.replace(proxy.address, server.address))
    with ThreadPoolExecutor(1) as pool:
        for content in (b"longer" * 100, b"shorter", b"", bytes(20_000_000)):
            direct.write("table", b"old" * 50)
            fault = proxy.fault("^GET /bucket/.*table", "hang", 60)
            reading = pool.submit(folder.read, "table")
            while fault.began is None:
                time.sleep(0.01)
            direct.write("table", content)
            fault.seconds = 0
            assert reading.result() == content


INTERRUPTED = """
import signal, sys, random
from kdtune.filesystem.folder import Folder
folder, dice, interrupted = Folder(sys.argv[1]), random.Random(0), 0
folder.write("table", b"x" * 1000)
for _ in range(60):
    try:
        signal.setitimer(signal.ITIMER_REAL, dice.uniform(1e-4, 8e-3))
        for _ in range(5):
            folder.write("table", b"x" * 1000)
        signal.setitimer(signal.ITIMER_REAL, 0)
    except KeyboardInterrupt:
        interrupted += 1
    content = folder.read("table")
    assert content == b"x" * 1000, len(content)
print(interrupted)
"""


@pytest.mark.slow
def test_ctrl_c_leaves_no_half_object(folder: Folder) -> None:
    program = "import signal; signal.signal(signal.SIGALRM, signal.default_int_handler)\n" + INTERRUPTED
    done = subprocess.run([sys.executable, "-c", program, folder.uri], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 20


def test_a_part_that_fails_leaves_the_old_object(folder: Folder, proxy: Proxy) -> None:
    folder.write("weights", b"old")
    proxy.fault("partNumber=2", "refuse", 3)
    with waiting(0), pytest.raises(StorageError, match="does not answer"):
        folder.write("weights", b"x" * 25_000_000)
    assert folder.read("weights") == b"old"  # as soon as the storage is back


@pytest.mark.parametrize("kind", ["refuse", pytest.param("hang", marks=pytest.mark.slow)])
def test_storage_that_is_away_is_waited_for(
    folder: Folder, proxy: Proxy, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Every method; said once when it goes, and once when it is back."""
    folder.write("x", b"1")
    uses = {
        "write": lambda: folder.write("y", b"2"),
        "read": lambda: folder.read("x"),
        "names": lambda: folder.names(),
        "remove": lambda: folder.remove("z"),
    }
    caplog.set_level(logging.WARNING, "kdtune")
    proxy.fault("", kind, 4 if kind == "refuse" else 14)  # longer than the time-out, so that it is noticed
    began = time.monotonic()
    with ThreadPoolExecutor(len(uses)) as pool:
        done = {name: pool.submit(use) for name, use in uses.items()}
        answers = {name: future.result() for name, future in done.items()}
    assert time.monotonic() - began < (12 if kind == "refuse" else 28)
    assert (answers["read"], set(answers["names"]) - {"y"}) == (b"1", {"x"})
    assert folder.read("y") == b"2"
    said = [record.getMessage() for record in caplog.records if record.name == "kdtune"]
    assert len(said) == 2
    assert said[0].startswith("storage is away, trying again: s3://bucket/")
    assert "storage is back after" in said[1]


def test_patience_ends(folder: Folder, proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.write("x", b"1")
    monkeypatch.setenv("KDTUNE_STORAGE_PATIENCE", "1.5")
    proxy.fault("", "refuse", 600)
    began = time.monotonic()
    with pytest.raises(StorageError, match=r"s3://bucket/\w+/a: does not answer: .*; see that it can be reached"):
        folder.read("x")
    assert 1.5 <= time.monotonic() - began < 5
    monkeypatch.setenv("KDTUNE_STORAGE_PATIENCE", "long")
    with pytest.raises(UserError, match="KDTUNE_STORAGE_PATIENCE=long: give a number of seconds"):
        folder.read("x")


@pytest.mark.slow
def test_a_storage_never_reached_is_given_up_soon(folder: Folder, proxy: Proxy) -> None:
    """Unless another process has reached it."""
    proxy.fault("", "refuse", 14)
    began = time.monotonic()
    with pytest.raises(StorageError, match="does not answer"):
        folder.read("x")
    assert time.monotonic() - began < 13
    folder.expected()
    assert folder.read("x") is None
    assert 14 <= time.monotonic() - began


@pytest.fixture
def skewed() -> Iterator[tuple[str, list[str]]]:
    """A server whose clock is an hour ahead: it refuses what is signed with another hour."""
    seen: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            now = time.gmtime(time.time() + 3600)
            seen.append(f"{self.command} {self.headers['x-amz-date'][:11]}")
            self.send_response_only(404 if seen[-1].endswith(time.strftime("%Y%m%dT%H", now)) else 403)
            self.send_header("Date", time.strftime("%a, %d %b %Y %H:%M:%S GMT", now))
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *args: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"127.0.0.1:{server.server_port}", seen
    server.shutdown()
    thread.join()
    server.server_close()


def test_clocks_apart_by_an_hour(skewed: tuple[str, list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    """S3 refuses a signature of another hour; the next try is made by the server's clock."""
    address, seen = skewed
    use(monkeypatch, address)
    assert Folder(f"s3://bucket/skewed?endpoint_override={address}&scheme=http").read("x") is None
    assert len(seen) == 2


REFUSED = [
    f"s3://{KEY_ID}:{SECRET}@bucket/path",
    f"s3://{SECRET.replace('/', '')}@bucket/path",
    f"s3://bucket/path?access_key={KEY_ID}&secret_key={SECRET}",
    f"s3://bucket/path?X-Amz-Signature={SECRET}",
    f"s3://bucket/path?region=x&session_token={SECRET}",
    f"s3://bucket/path?endpoint_override=http://{KEY_ID}:made-up@host:9000",
    f"gs://bucket/path?access_token={SECRET}",
    f"abfss://container:{SECRET}@account/path",
]


@pytest.mark.parametrize("uri", REFUSED, ids=range(len(REFUSED)))
def test_credentials_in_a_uri_are_refused(uri: str) -> None:
    for make in (Folder, absolute):
        with pytest.raises(UserError, match=r"its URI is given with credentials in it; leave them out") as caught:
            make(uri)
        line = str(caught.value)
        assert "\n" not in line
        assert not any(secret in line for secret in (SECRET, SECRET.replace("/", ""), KEY_ID, "made-up"))
    if uri.startswith("s3"):
        assert "bucket/path: " in line
        assert "AWS_SECRET_ACCESS_KEY" in line


def test_what_is_no_credential_is_no_credential() -> None:
    for uri in ("gs://anonymous@bucket/x?scheme=http", "s3://bucket/a@b:c?region=x", "abfss://container@account/x"):
        Folder(uri)


def test_a_folder_is_sent_without_credentials(folder: Folder) -> None:
    folder.write("x", b"1")
    sent = pickle.dumps(folder)
    assert len(sent) < 300
    assert SECRET.encode() not in sent
    assert pickle.loads(sent).read("x") == b"1"


def one_line(done: subprocess.CompletedProcess[str]) -> str:
    """What a user sees of an error that is theirs."""
    assert done.returncode == 2, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert SECRET not in done.stdout + done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("kdtune: ")]
    return line


def test_a_missing_bucket(server: Server) -> None:
    done = kdtune("launch", "demo", "--storage", "s3://missing/runs", env=environment(server.address))
    assert "s3://missing/runs/demo: no such bucket; make it first" in one_line(done)


def test_an_endpoint_that_nobody_answers_at() -> None:
    done = kdtune("results", "demo", "--storage", "s3://bucket/runs", env=environment("127.0.0.1:9"))
    assert "s3://bucket/runs/demo: does not answer: " in one_line(done)


def test_wrong_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that asks for them, after the bucket was made: said at once, whatever is asked of it."""
    monkeypatch.setenv("INITIAL_NO_AUTH_ACTION_COUNT", "1")
    with serving() as strict:
        strict.make_bucket("bucket")
        use(monkeypatch, strict.address)
        storage = Storage(f"s3://bucket/runs?endpoint_override={strict.address}&scheme=http", "demo")
        began = time.monotonic()
        for action in (storage.check_writable, storage.records, storage.read_study):
            with pytest.raises(UserError, match=r"s3://bucket/runs/demo(/journal)?: access denied: ") as caught:
                action()
            assert "credentials are taken from AWS_ACCESS_KEY_ID" in str(caught.value)
            assert SECRET not in str(caught.value)
        assert time.monotonic() - began < FIRST


def test_pyarrow_is_still_asked_which_options_there_are(server: Server) -> None:
    with pytest.raises(UserError, match="not a folder that can be opened: Unexpected query parameter"):
        Folder("s3://bucket/x?regoin=eu-west-1").names()


def test_what_pyarrow_itself_does(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Why ``object_stores`` is as it is: an interrupted stream becomes an object. If this fails, it can be simpler."""
    use(monkeypatch, server.address)
    system, path = fs.FileSystem.from_uri("s3://bucket/half")

    def interrupted() -> None:
        with system.open_output_stream(path) as stream:
            stream.write(b"ha")
            signal.raise_signal(signal.SIGINT)
            stream.write(b"lf")

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    with system.open_input_stream(path) as stream:
        assert stream.read() == b"ha"
