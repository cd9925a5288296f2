"""A results folder may come from anybody: the address in it is not sent the cluster's token, and is no module."""

import socket
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from kdtune.cli import main
from kdtune.records.logbook import Launched, write_launch
from kdtune.records.storage import Storage

TOKEN = "0123456789abcdef" * 4


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[int, list[dict[str, str]]]]:
    """The port of a server that stands for any machine by name, and the headers of what it was asked."""
    asked: list[dict[str, str]] = []

    class Ear(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append({key.lower(): value for key, value in self.headers.items()})
            self.send_error(404)

        def do_POST(self) -> None:
            self.do_GET()

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Ear)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    real = socket.getaddrinfo
    monkeypatch.setattr(
        socket,
        "getaddrinfo",
        lambda host, *rest, **more: real("127.0.0.1" if host == "elsewhere" else host, *rest, **more),
    )
    yield server.server_port, asked
    server.shutdown()
    server.server_close()


def results(storage: Path, address: str | None, dashboard: str | None = None) -> None:
    started = "2026-01-02T03:04:05.000+00:00"
    launch = Launched(started, submission_id="tiny-1", address=address, dashboard=dashboard)
    write_launch(Storage(str(storage), "tiny").folder, launch)


@pytest.mark.parametrize("command", [["status"], ["logs"], ["stop", "--timeout", "0"]])
def test_the_token_goes_where_the_user_says_and_nowhere_else(
    tmp_path: Path,
    elsewhere: tuple[int, list[dict[str, str]]],
    command: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    port, asked = elsewhere
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", TOKEN)
    words = [*command, "tiny", "--storage", str(tmp_path)]
    address = f"http://elsewhere:{port}"
    for named in (
        (address, None),
        (None, address),
        (f"http://127.0.0.1@elsewhere:{port}", None),
        (f"elsewhere:{port}", None),
    ):
        results(tmp_path, *named)
        done = CliRunner().invoke(main, words)
        assert "Traceback" not in done.output
        assert asked == []
    assert "give --address or RAY_ADDRESS" in done.output or command[0] == "stop"
    CliRunner().invoke(main, [*words, "--address", address])
    assert TOKEN in asked[0]["authorization"]


def test_loopback_may_be_asked(tmp_path: Path, elsewhere: tuple[int, list[dict[str, str]]]) -> None:
    port, asked = elsewhere
    results(tmp_path, "head:6379", f"http://127.0.0.1:{port}")
    assert CliRunner().invoke(main, ["status", "tiny", "--storage", str(tmp_path)]).exit_code == 0
    assert asked


@pytest.mark.parametrize("command", ["status tiny", "stop tiny --timeout 0", "launch demo", "launch demo --detach"])
@pytest.mark.parametrize("given", [True, False])
def test_a_scheme_is_no_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str, given: bool) -> None:
    """Ray imports the module that an address of this form names."""
    words = command.split()
    (tmp_path / "payload.py").write_text("raise SystemExit('run')\n")
    monkeypatch.syspath_prepend(tmp_path)
    if not given and words[0] == "launch":
        monkeypatch.setenv("RAY_ADDRESS", "payload://x")
    if words[0] != "launch":
        results(tmp_path, "payload://x")
    address = ["--address", "payload://x"] if given else []
    done = CliRunner().invoke(main, [*words, "--storage", str(tmp_path), *address])
    assert "payload" not in sys.modules
    assert "run" not in str(done.exception)
    if words[0] == "launch":
        assert done.exit_code == 2, done.output
        assert "is no address" in done.stderr
