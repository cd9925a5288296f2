"""``kdtune cluster metrics``: Prometheus and Grafana beside a Ray, for its page Metrics and kdtune's own dashboard.

On the head, where Ray writes which endpoints there are. Both programs listen on loopback, at the ports where Ray looks
for them; their files lie in ``KDTUNE_CACHE/metrics``.
"""

import errno
import json
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

from kdtune.errors import RunError, UserError
from kdtune.loading.cache import cache_folder
from kdtune.text import printable

ENDPOINTS = "prom_metrics_service_discovery.json"  # Ray writes it anew every few seconds
LIVES = 60.0  # seconds since then, after which that Ray has ended
ENDS_WITHIN = 10.0  # seconds that a program is given to end in order
LOOPBACK = "127.0.0.1"
PORTS = {"RAY_PROMETHEUS_HOST": 9090, "RAY_GRAFANA_HOST": 3000}  # Ray's variables, and where it looks without them
HOW_TO_GET = {
    "prometheus": "apt install prometheus, or https://prometheus.io/download",
    "grafana": "https://grafana.com/grafana/download",
}


@dataclass(frozen=True)
class Program:
    """Prometheus or Grafana: its command, where it is reached, what it says."""

    name: str
    command: tuple[str, ...]
    url: str
    log: Path


def session_folder(given: str | None) -> Path:
    """The folder of a Ray that runs on this machine: the given one, else the one that has written last.

    Raises:
        UserError: there is none, or not of a Ray that runs.
    """
    if given is not None:
        folder = Path(given).expanduser().absolute()
        age = _age(folder)
        if not folder.is_dir():
            raise UserError(f"--session {folder}: no such folder; a Ray's is named session_latest beside its sessions")
        if age is None:
            raise UserError(f"--session {folder}: no {ENDPOINTS} beside it, so it is no session of a Ray on its head")
        if age >= LIVES:
            raise UserError(f"--session {folder}: that Ray has ended, for it wrote {ENDPOINTS} {age:.0f} s ago")
        return folder
    temporary = Path(os.environ.get("RAY_TMPDIR") or tempfile.gettempdir())
    known = [temporary / "ray" / "session_latest", *temporary.glob("kdt-*/r/session_latest")]
    own = (folder for folder in known if _is_own(folder.parent) and _is_own(folder.parent / ENDPOINTS))
    alive = {folder: age for folder in own if (age := _age(folder)) is not None and age < LIVES}
    if not alive:
        raise UserError(
            f"no Ray of yours or root's runs on this machine by what lies in {temporary}: start this on the head node "
            "while Ray runs, or give its folder, --session DIR/session_latest"
        )
    return min(alive, key=lambda folder: alive[folder])


def _is_own(path: Path) -> bool:
    """Whether it is this user's or root's: another's could name any machine to be asked, any dashboard to be shown."""
    try:
        return path.lstat().st_uid in (os.getuid(), 0)
    except OSError:
        return False


def _age(session: Path) -> float | None:
    """Seconds since Ray has written its endpoints; None where it has not."""
    try:
        return time.time() - (session.parent / ENDPOINTS).stat().st_mtime
    except OSError:
        return None


def port(variable: str) -> int:
    """Where Ray looks for the program: of ``RAY_PROMETHEUS_HOST`` or ``RAY_GRAFANA_HOST``, else its default.

    Raises:
        UserError: the variable names another machine, or is no address.
    """
    given = os.environ.get(variable)
    if given is None:
        return PORTS[variable]
    try:
        address = urlsplit(given)
        if address.hostname in ("localhost", LOOPBACK):
            return address.port or PORTS[variable]
    except ValueError:
        pass
    raise UserError(f"{variable}={printable(given)}: give http://localhost:PORT, for what this starts is nowhere else")


def write(session: Path, folder: Path, dashboard: Mapping[str, Any]) -> None:
    """The files of both programs: what to read, where to keep it, what to show.

    Raises:
        UserError: a variable of Ray's names another machine.
    """
    prometheus = f"http://{LOOPBACK}:{port('RAY_PROMETHEUS_HOST')}"
    files = [{"files": [str(session.parent / ENDPOINTS)]}]
    shown = {"Ray": session / "metrics" / "grafana" / "dashboards", "kdtune": folder / "dashboards"}
    _write(
        folder / "prometheus.yml",
        {"global": {"scrape_interval": "10s"}, "scrape_configs": [{"job_name": "ray", "file_sd_configs": files}]},
    )
    source = {"name": "Prometheus", "type": "prometheus", "url": prometheus, "access": "proxy", "isDefault": True}
    _write(folder / "provisioning" / "datasources" / "ray.yml", {"apiVersion": 1, "datasources": [source]})
    providers = [
        {"name": name, "folder": name, "type": "file", "options": {"path": str(path)}} for name, path in shown.items()
    ]
    _write(folder / "provisioning" / "dashboards" / "all.yml", {"apiVersion": 1, "providers": providers})
    _write(folder / "dashboards" / "kdtune.json", dashboard)
    # Ray's page shows Grafana's panels in frames, to whoever can open that page.
    settings: dict[str, dict[str, Any]] = {
        "server": {"http_addr": LOOPBACK, "http_port": port("RAY_GRAFANA_HOST")},
        "security": {"allow_embedding": "true", "disable_initial_admin_creation": "true"},
        "auth.anonymous": {"enabled": "true", "org_role": "Viewer"},
        "analytics": {"reporting_enabled": "false", "check_for_updates": "false"},
        "paths": {"provisioning": folder / "provisioning", "data": folder / "grafana", "logs": folder / "grafana"},
    }
    lines = [
        f"[{section}]\n" + "".join(f"{key} = {value}\n" for key, value in keys.items())
        for section, keys in settings.items()
    ]
    _write(folder / "grafana.ini", "\n".join(lines))


def _write(file: Path, content: Any) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    as_json = file.suffix == ".json"
    text = content if isinstance(content, str) else json.dumps(content) if as_json else yaml.safe_dump(content)
    file.write_text(text, encoding="utf-8")


def programs(folder: Path) -> list[Program]:
    """Those that are on this machine."""
    found = []
    if (prometheus := shutil.which("prometheus")) is not None:
        at = f"{LOOPBACK}:{port('RAY_PROMETHEUS_HOST')}"
        places = (f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'prometheus'}")
        command = (prometheus, *places, f"--web.listen-address={at}")
        found.append(Program("prometheus", command, f"http://{at}", folder / "prometheus.log"))
    if (grafana := shutil.which("grafana") or shutil.which("grafana-server")) is not None:
        own = Path(grafana).resolve().parent.parent  # of an unpacked archive; a package has its files elsewhere
        home = own if (own / "conf").is_dir() else Path("/usr/share/grafana")
        server = ("server",) if Path(grafana).name == "grafana" else ()
        command = (grafana, *server, "--homepath", str(home), "--config", str(folder / "grafana.ini"))
        url = f"http://{LOOPBACK}:{port('RAY_GRAFANA_HOST')}"
        found.append(Program("grafana", command, url, folder / "grafana.log"))
    return found


def missing(found: Sequence[Program]) -> list[str]:
    """A line for each program that is not here."""
    here = {program.name for program in found}
    lines = [f"{name} is not on this machine: {how}" for name, how in HOW_TO_GET.items() if name not in here]
    return [f"{lines[0]}; Ray's page Metrics needs both" if here else lines[0], *lines[1:]] if lines else []


def refuse_taken(found: Sequence[Program]) -> None:
    """Looks at the ports before the files are written, which may be those of programs that run.

    Raises:
        UserError: one of them is taken.
    """
    variables = dict(zip(HOW_TO_GET, PORTS, strict=True))
    for program in found:
        variable = variables[program.name]
        try:
            socket.create_server((LOOPBACK, port(variable))).close()
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise UserError(
                    f"{program.url}: the port of {program.name} is taken: end what listens there, or give another "
                    f"with {variable}=http://localhost:PORT, to Ray as well"
                ) from None


def run(found: Sequence[Program], session: Path) -> None:
    """Until that Ray has ended, or this process is told to end; ends them whatever happens.

    Raises:
        RunError: one of them has ended by itself.
    """
    started: list[subprocess.Popen[bytes]] = []
    try:
        for program in found:
            with program.log.open("wb") as log:
                started.append(subprocess.Popen(program.command, stdout=log, stderr=log, stdin=subprocess.DEVNULL))
        while all(process.poll() is None for process in started):
            age = _age(session)
            if age is None or age >= LIVES:
                return
            time.sleep(0.2)
        ended = next(i for i, process in enumerate(started) if process.poll() is not None)
        raise RunError(f"{found[ended].name} ended, status {started[ended].returncode}: {_last_line(found[ended].log)}")
    finally:
        _end(started)


def _end(started: Sequence[subprocess.Popen[bytes]]) -> None:
    """In order if they do so in time; at once if the user asks a second time."""
    try:
        for process in started:
            process.terminate()
        end = time.monotonic() + ENDS_WITHIN
        while any(process.poll() is None for process in started) and time.monotonic() < end:
            time.sleep(0.05)
    finally:
        for process in started:
            process.kill()
            process.wait()


def _last_line(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").split("\n")
    last = next((line for line in reversed(lines) if line.strip()), "nothing")
    return f"{printable(last.strip()[:300])} ({log})"


def folder() -> Path:
    """Where the files of both lie."""
    return cache_folder() / "metrics"
