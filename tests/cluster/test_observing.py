"""``kdtune cluster metrics``: the Ray that it finds, the files that it writes, the programs that it starts and ends."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import urllib.parse
import urllib.request
from collections.abc import Iterator
from configparser import ConfigParser
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from kdtune.cli import main
from kdtune.cluster import metrics, observing
from kdtune.cluster.dashboards import FILTERS, PREFIX, dashboard
from kdtune.errors import UserError
from tests.support.launching import kdtune, until

COMMAND = [sys.executable, "-m", "kdtune", "cluster", "metrics"]


def session(temporary: Path, endpoint: str = "127.0.0.1:1", age: float = 0.0) -> Path:
    """A folder as Ray's on its head, written so many seconds ago."""
    folder = temporary / "session_latest"
    folder.mkdir(parents=True)
    endpoints = temporary / observing.ENDPOINTS
    endpoints.write_text(json.dumps([{"labels": {"job": "ray"}, "targets": [endpoint]}]))
    written = endpoints.stat().st_mtime - age
    os.utime(endpoints, (written, written))
    return folder


def test_the_ray_that_wrote_last_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    session(tmp_path / "kdt-0001" / "r", age=2 * observing.LIVES)
    with pytest.raises(UserError, match="no Ray of yours or root's runs on this machine by what lies in"):
        observing.session_folder(None)
    session(tmp_path / "ray", age=20)
    assert observing.session_folder(None) == tmp_path / "ray" / "session_latest"
    newest = session(tmp_path / "kdt-0002" / "r")
    assert observing.session_folder(None) == newest
    older = tmp_path / "ray" / "session_latest"
    assert observing.session_folder(str(older)) == older, "the one that is given"


def test_a_session_of_no_ray_that_runs_is_refused(tmp_path: Path) -> None:
    old = session(tmp_path / "old", age=2 * observing.LIVES)
    with pytest.raises(UserError, match=f"^--session {old}: that Ray has ended, for it wrote .* 120 s ago$"):
        observing.session_folder(str(old))
    with pytest.raises(UserError, match=f"^--session {tmp_path}/none: no such folder"):
        observing.session_folder(f"{tmp_path}/none")
    with pytest.raises(UserError, match=f"^--session {tmp_path}: no {observing.ENDPOINTS} beside it"):
        observing.session_folder(str(tmp_path))


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a folder away")
def test_the_folder_of_another_user_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its file could name any machine; a link to such a file as well."""
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    own = session(tmp_path / "ray", age=20)
    theirs = session(tmp_path / "kdt-0001" / "r")
    for path in (theirs.parent, theirs.parent / observing.ENDPOINTS):
        assert observing.session_folder(None) == theirs
        os.chown(path, 12345, 12345)
        assert observing.session_folder(None) == own
        os.chown(path, 0, 0)


@pytest.mark.parametrize(
    "address", ["http://metrics.example:9090", "localhost:9090", "http://[::1", "http://127.0.0.1:x"]
)
def test_an_address_elsewhere_is_refused(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_PROMETHEUS_HOST", address)
    with pytest.raises(UserError, match=r"^RAY_PROMETHEUS_HOST=.*: give http://localhost:PORT"):
        observing.port("RAY_PROMETHEUS_HOST")


def test_the_files_of_both_programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One finds Ray's endpoints, the other finds the first, Ray's dashboards and ours; both on loopback."""
    monkeypatch.setenv("RAY_PROMETHEUS_HOST", "http://localhost:9191")
    found, folder = session(tmp_path / "ray"), tmp_path / "metrics"
    observing.write(found, folder, dashboard())
    read = yaml.safe_load((folder / "prometheus.yml").read_text())
    assert read["scrape_configs"][0]["file_sd_configs"] == [{"files": [str(tmp_path / "ray" / observing.ENDPOINTS)]}]
    ini = ConfigParser()
    ini.read(folder / "grafana.ini")
    assert dict(ini["server"]) == {"http_addr": "127.0.0.1", "http_port": "3000"}
    provisioned = Path(ini["paths"]["provisioning"])
    (source,) = yaml.safe_load((provisioned / "datasources" / "ray.yml").read_text())["datasources"]
    assert (source["type"], source["url"]) == ("prometheus", "http://127.0.0.1:9191")
    providers = yaml.safe_load((provisioned / "dashboards" / "all.yml").read_text())["providers"]
    folders = [each["options"]["path"] for each in providers]
    assert folders == [str(found / "metrics" / "grafana" / "dashboards"), str(folder / "dashboards")]
    assert json.loads((folder / "dashboards" / "kdtune.json").read_text()) == dashboard()


def test_the_dashboard_shows_what_a_trial_shows() -> None:
    """Each number once, under the name that Ray's endpoint has, chosen by labels that it has; no two panels overlap."""
    panels = dashboard()["panels"]
    asked = [re.findall(r"\bray_(kdtune_\w+)", panel["targets"][0]["expr"]) for panel in panels]
    assert sorted(name for (name,) in asked) == sorted(
        [*(name for name, _ in metrics.MEASURED.values()), metrics.STALLED[0]]
    )
    assert {*FILTERS} <= {*metrics._labels()}
    assert PREFIX == "ray_"
    cells = [
        (x, y)
        for panel in panels
        for at in [panel["gridPos"]]
        for x in range(at["x"], at["x"] + at["w"])
        for y in range(at["y"], at["y"] + at["h"])
    ]
    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) < 24
    assert len({panel["id"] for panel in panels}) == len(panels)


def test_without_either_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both are named, with the way to get them; the files are there for another machine's."""
    found = session(tmp_path / "ray")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("KDTUNE_CACHE", str(tmp_path / "cache"))
    done = subprocess.run([*COMMAND, "--session", found], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    lines = done.stderr.splitlines()
    assert [line.split(":")[0] for line in lines[:2]] == [
        f"{name} is not on this machine" for name in observing.HOW_TO_GET
    ]
    assert lines[-1].startswith("kdtune: neither Prometheus nor Grafana is on this machine")
    assert (tmp_path / "cache" / "metrics" / "prometheus.yml").exists()
    assert kdtune("cluster", "metrics", "--session", found, "--files").returncode == 0


def test_a_program_that_ends_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the last line that it said; the other one ends as well."""
    for name, script in {"prometheus": "echo its port is taken >&2; exit 3", "grafana": "exec sleep 600"}.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setenv("KDTUNE_CACHE", str(tmp_path / "cache"))
    done = subprocess.run(
        [*COMMAND, "--session", session(tmp_path / "ray")], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    assert "kdtune: prometheus ended, status 3: its port is taken (" in done.stderr.splitlines()[-1]
    assert done.stdout.splitlines() == ["prometheus: http://127.0.0.1:9090", "grafana: http://127.0.0.1:3000"]


def stubborn(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the place of Prometheus what hears no SIGTERM, and of Grafana nothing; on a port that is free."""
    (folder / "prometheus").write_text("#!/bin/sh\ntrap '' TERM\necho ready\nwhile true; do sleep 0.1; done\n")
    (folder / "prometheus").chmod(0o755)
    with HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as free:
        monkeypatch.setenv("RAY_PROMETHEUS_HOST", f"http://localhost:{free.server_port}")
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")


def test_it_ends_with_its_ray(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a line, with status 0, and kills what does not end by itself."""
    stubborn(tmp_path, monkeypatch)
    monkeypatch.setattr(observing, "ENDS_WITHIN", 0.3)
    monkeypatch.setenv("KDTUNE_CACHE", str(tmp_path / "cache"))
    found = session(tmp_path / "ray")
    started: list[subprocess.Popen[bytes]] = []
    begin = subprocess.Popen

    def noted(*words: Any, **how: Any) -> subprocess.Popen[bytes]:
        started.append(begin(*words, **how))
        until(lambda: (tmp_path / "cache/metrics/prometheus.log").read_text() == "ready\n")
        (found.parent / observing.ENDPOINTS).unlink()  # as Ray's end does
        return started[-1]

    monkeypatch.setattr(observing.subprocess, "Popen", noted)
    done = CliRunner().invoke(main, ["cluster", "metrics", "--session", str(found)])
    assert done.exit_code == 0, done.output
    assert done.stderr.splitlines()[-1] == f"the Ray of {found.parent} has ended, and with it prometheus"
    assert "grafana is not on this machine: https://grafana.com/grafana/download; Ray's page Metrics needs both" in (
        done.stderr.splitlines()
    )
    assert [process.returncode for process in started] == [-signal.SIGKILL]


def test_a_port_that_is_taken_is_seen_before_files_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stubborn(tmp_path, monkeypatch)
    monkeypatch.setenv("KDTUNE_CACHE", str(tmp_path / "cache"))
    words = ["cluster", "metrics", "--session", str(session(tmp_path / "ray"))]
    with HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as taken:
        monkeypatch.setenv("RAY_PROMETHEUS_HOST", f"http://localhost:{taken.server_port}")
        done = CliRunner().invoke(main, words)
    assert done.exit_code == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"kdtune: http://127.0.0.1:{taken.server_port}: the port of prometheus is taken: end what")
    assert not (tmp_path / "cache").exists()


@pytest.fixture
def endpoint() -> Iterator[str]:
    """An endpoint as Ray's, with one number of one trial."""

    class Numbers(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/plain")
            self.end_headers()
            labels = 'study="s",stage="student",method="student",trial="t"'
            self.wfile.write(f"# TYPE ray_kdtune_miou_percent gauge\nray_kdtune_miou_percent{{{labels}}} 42\n".encode())

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Numbers)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.skipif(shutil.which("prometheus") is None, reason="no Prometheus is here")
def test_prometheus_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, endpoint: str) -> None:
    """It answers the dashboard's question, and ends with the command."""
    with HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as free:
        port = free.server_port
    monkeypatch.setenv("RAY_PROMETHEUS_HOST", f"http://localhost:{port}")
    monkeypatch.setenv("KDTUNE_CACHE", str(tmp_path / "cache"))
    question = dashboard()["panels"][0]["targets"][0]["expr"]
    for name in FILTERS:
        question = question.replace(f"${name}", ".*")
    url = f"http://127.0.0.1:{port}/api/v1/query?query={urllib.parse.quote(question)}"

    def answer() -> list[str]:
        try:
            with urllib.request.urlopen(url, timeout=5) as read:
                return [each["value"][1] for each in json.load(read)["data"]["result"]]
        except OSError:
            return []

    words = [*COMMAND, "--session", session(tmp_path / "ray", endpoint)]
    running = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)
    try:
        until(lambda: answer() == ["42"])
    finally:
        running.send_signal(signal.SIGTERM)
        said = running.communicate(timeout=60)[1]
    assert running.returncode == 130
    assert said.splitlines()[-1] == "kdtune: interrupted: prometheus ended"
    assert answer() == []
