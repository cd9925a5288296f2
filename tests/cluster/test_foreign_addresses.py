"""A results folder may come from anybody: the address in it is not sent the cluster's token, and is no module."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from kdtune.cli import main
from kdtune.records.launched import Launched, write_launch
from kdtune.records.storage import Storage

TOKEN = "0123456789abcdef" * 4


@pytest.fixture
def elsewhere() -> Iterator[tuple[int, list[dict[str, str]]]]:
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
    yield server.server_port, asked
    server.shutdown()
    server.server_close()


def results(storage: Path, address: str | None, dashboard: str | None = None) -> None:
    started = "2026-01-02T03:04:05.000+00:00"
    launch = Launched(started, submission_id="tiny-1", address=address, dashboard=dashboard)
    write_launch(Storage(str(storage), "tiny").folder, launch)


ASK = """
import json, socket, sys
real = socket.getaddrinfo
def any_machine(host, *rest, **more):
    return real("127.0.0.1" if host in ("elsewhere", "given") else host, *rest, **more)
socket.getaddrinfo = any_machine
from click.testing import CliRunner
from kdtune.cli import main
for words in json.loads(sys.argv[1]):
    print(CliRunner().invoke(main, words).output)
"""


def ask(*commands: list[str]) -> str:
    """What they print, with a token; in a process of their own, since Ray reads its settings when it is imported."""
    environment = {**os.environ, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN}
    words = [sys.executable, "-c", ASK, json.dumps(commands)]
    return subprocess.run(words, capture_output=True, text=True, env=environment, check=True).stdout


@pytest.mark.parametrize("noted", ["http://elsewhere", "http://127.0.0.1@elsewhere", "elsewhere"])
def test_the_token_goes_where_the_user_says_and_nowhere_else(
    tmp_path: Path, elsewhere: tuple[int, list[dict[str, str]]], noted: str
) -> None:
    port, asked = elsewhere
    results(tmp_path, f"{noted}:{port}", f"http://elsewhere:{port}")
    commands = [["status"], ["logs"], ["stop", "--timeout", "0"]]
    commands = [[*command, "tiny", "--storage", str(tmp_path)] for command in commands]
    said = ask(*commands, *([*command, "--address", f"http://given:{port}"] for command in commands))
    assert said.count("give --address or RAY_ADDRESS") == 2
    assert {headers["host"] for headers in asked} == {f"given:{port}"}
    assert {headers["authorization"] for headers in asked if "authorization" in headers} == {f"Bearer {TOKEN}"}


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
