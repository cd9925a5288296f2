"""An S3 server in a process of its own, and a proxy before it that passes requests on, hangs or refuses on command."""

import re
import select
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest

from kdtune.filesystem import object_stores

KEY_ID, SECRET = "AKIAMADEUPFORTESTS01", "made/up+secret0for1tests2only3of4the5suite"
# ends with its standard input, so with the tests, however they end
SERVER = """
import sys, os
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
print(server.get_host_and_port()[1], flush=True)
sys.stdin.read()
os._exit(0)
"""
REQUEST = re.compile(rb"^(GET|HEAD|PUT|POST|DELETE) (\S+) HTTP/1\.[01]\r\n")


@dataclass
class Server:
    """Moto's S3 server."""

    port: int

    @property
    def address(self) -> str:
        """``host:port``."""
        return f"127.0.0.1:{self.port}"

    def make_bucket(self, name: str) -> None:
        """An empty bucket."""
        self.put(name, b"")

    def put(self, path: str, content: bytes) -> None:
        """An object under any key (``bucket/key``, quoted as in a URL), of names that pyarrow would not write too."""
        request = urllib.request.Request(f"http://{self.address}/{path}", data=content or None, method="PUT")
        urllib.request.urlopen(request, timeout=30).close()


@contextmanager
def serving() -> Iterator[Server]:
    """The server, for as long as the block runs."""
    process = subprocess.Popen(
        [sys.executable, "-c", SERVER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,  # it logs every request
        text=True,
    )
    assert process.stdout is not None
    try:
        yield Server(int(process.stdout.readline()))
    finally:
        process.communicate(timeout=30)


def use(patch: pytest.MonkeyPatch, address: str) -> None:
    """Credentials and endpoint where everyone looks for them: in the environment, as of this test."""
    for name, value in environment(address).items():
        patch.setenv(name, value)
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_DEFAULT_REGION", "KDTUNE_STORAGE_PATIENCE"):
        patch.delenv(name, raising=False)
    object_stores._object_store.cache_clear()  # what another test opened by the same name speaks to another server


def environment(address: str) -> dict[str, str]:
    """See ``use``."""
    return {
        "AWS_ACCESS_KEY_ID": KEY_ID,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://{address}",
        "AWS_EC2_METADATA_DISABLED": "true",
    }


@dataclass
class Fault:
    """From the first request that fits: ``hang`` (nothing goes through) or ``refuse`` (closed at once), for seconds."""

    request: str  # a regular expression for "PUT /bucket/key"
    kind: str
    seconds: float
    began: float | None = None  # on the monotonic clock
    alone: bool = False  # only requests that fit are hit, not all that come meanwhile

    @property
    def on(self) -> bool:
        """Whether it is under way."""
        return self.began is not None and time.monotonic() < self.began + self.seconds


@dataclass
class Proxy:
    """Passes connections on to a server, and requests only as its faults allow."""

    server: int
    faults: list[Fault] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)  # all that were seen, "PUT /bucket/key?..."
    _listener: socket.socket = field(default_factory=lambda: socket.create_server(("127.0.0.1", 0)))

    @property
    def address(self) -> str:
        """``host:port``."""
        return f"127.0.0.1:{self._listener.getsockname()[1]}"

    def kind(self, request: str = "") -> str | None:
        """What happens now to a request."""
        hit = (fault for fault in self.faults if fault.on and (not fault.alone or re.search(fault.request, request)))
        return next((fault.kind for fault in hit), None)

    def fault(self, request: str, kind: str, seconds: float, alone: bool = False) -> Fault:
        """A fault that begins with the next request that fits; one at once fits all: ``""``."""
        new = Fault(request, kind, seconds, time.monotonic() if not request else None, alone)
        self.faults.append(new)
        return new

    def serve(self) -> None:
        """Accepts connections until the listener is closed."""
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._connection, args=(client,), daemon=True).start()

    def close(self) -> None:
        """No more connections."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _connection(self, client: socket.socket) -> None:
        with client:
            try:
                with socket.create_connection(("127.0.0.1", self.server)) as server:
                    self._pass(client, server)
            except OSError:
                pass  # one of the two has gone

    def _pass(self, client: socket.socket, server: socket.socket) -> None:
        request = ""
        while True:
            ready, _, _ = select.select([client, server], [], [], 0.05)
            for one, other in ((client, server), (server, client)):
                if one in ready:
                    data = one.recv(1 << 16)
                    if one is client:
                        request = self._look(data) or request
                    while self.kind(request) == "hang":
                        time.sleep(0.05)
                        if one is client and _gone(client):
                            return  # given up by its client, and never seen by the server
                    if not data or self.kind(request) == "refuse":
                        return
                    other.sendall(data)

    def _look(self, data: bytes) -> str | None:
        """The request that begins here, if one does."""
        found = REQUEST.match(data)
        if found is None:
            return None
        request = f"{found[1].decode()} {found[2].decode()}"
        self.requests.append(request)
        for fault in self.faults:
            if fault.began is None and self.kind() is None and re.search(fault.request, request):
                fault.began = time.monotonic()
        return request


def _gone(client: socket.socket) -> bool:
    readable, _, _ = select.select([client], [], [], 0)
    return bool(readable) and not client.recv(1, socket.MSG_PEEK)


@contextmanager
def proxied(server: Server) -> Iterator[Proxy]:
    """A proxy before the server, for as long as the block runs."""
    proxy = Proxy(server.port)
    thread = threading.Thread(target=proxy.serve, daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        proxy.close()
        thread.join(10)
