"""What Ray's dashboard and its Metrics endpoints show while a study runs."""

import json
import re
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from tests.support.launching import STUDY, end, journals, running, start, under_way, until, workers, write_study

pytestmark = pytest.mark.slow
LONG = STUDY.replace("num_steps: 6, eval_every: 2", "num_steps: 3000, eval_every: 50")


def fetch(url: str) -> str:
    token = Path("~/.ray/auth_token").expanduser().read_text()
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        text: str = answer.read().decode()
        return text


def test_the_job_the_trials_and_their_metrics_are_there_while_it_runs(tmp_path: Path) -> None:
    words = ("launch", write_study(tmp_path, LONG), "--storage", tmp_path, "--stage", "student", "--threads", "1")
    process = start(*words, env={"KDTUNE_DASHBOARD": "1"})
    try:
        until(lambda: bool(under_way(tmp_path)))
        assert process.stderr is not None
        told = ""
        while "Ray dashboard" not in told:
            told = process.stderr.readline()
        (dashboard,) = re.findall(r"http://\S+", told)
        assert "~/.ray/auth_token" in told  # it asks for that, and does not say where it is
        jobs = json.loads(fetch(f"{dashboard}/api/jobs/"))
        assert [job["metadata"]["job_name"] for job in jobs if job["status"] == "RUNNING"] == ["tiny"]
        targets = json.loads(fetch(f"{dashboard}/api/prometheus/sd"))
        found: list[dict[str, str]] = []

        def shown() -> bool:
            lines = [line for group in targets for host in group["targets"] for line in _metrics(host)]
            found[:] = [dict(re.findall(r'(\w+)="([^"]*)"', line)) for line in lines if "kdtune_miou_percent{" in line]
            return {labels["trial"] for labels in found} >= set(running(tmp_path)) != set()

        until(shown, every=1.0)
        assert {labels["study"] for labels in found} == {"tiny"}
        assert {labels["stage"] for labels in found} == {"student"}
        assert {(labels["lr"], labels["weight_decay"]) for labels in found} <= {
            (lr, decay) for lr in ("0.1", "0.01") for decay in ("0.0005", "5e-06")
        }
        assert {labels["temperature"] for labels in found} == {""}
        wanted = {"miou_percent", "step", "images_per_second", "peak_memory_mb", "energy_kwh", "watts"}

        def measured() -> set[str]:
            lines = [line for group in targets for host in group["targets"] for line in _metrics(host)]
            return set(re.findall(r"kdtune_(\w+){", "\n".join(lines)))

        until(lambda: measured() >= wanted, every=1.0)  # power from a trial's second evaluation on
        (first,) = _actors(dashboard)
        title = r"tiny/student lr=(0\.1|1e-2) wd=(5e-4|5e-6) s0"
        assert re.fullmatch(rf"{title} \.\.\. #1", first["name"])
        assert f"{first['repr_name']} #1" == first["name"]
        # its worker is kept for the next trial: the same actor, which is not shown as dead, and says what it runs now
        begun = set(running(tmp_path))
        until(lambda: set(under_way(tmp_path)) - begun != set(), every=0.5)
        (kept,) = _actors(dashboard)
        assert (kept["state"], kept["actor_id"], kept["name"]) == ("ALIVE", first["actor_id"], first["name"])
        (now,) = {_title(trial_id, tmp_path) for trial_id in running(tmp_path)}
        assert now not in first["name"]
        assert [process.cmdline()[0] for process in workers(process.pid)] == [f"ray::{now}"]
        until(
            lambda: (now, "RUNNING") in {(task["name"], task["state"]) for task in _listed(dashboard, "tasks")},
            every=0.5,
        )
    finally:
        end(process)


def _listed(dashboard: str, what: str) -> list[dict[str, str]]:
    """What Ray's State API, which the dashboard shows, says of actors or tasks."""
    answer = json.loads(fetch(f"{dashboard}/api/v0/{what}?detail=1"))
    found: list[dict[str, str]] = answer["data"]["result"]["result"]
    return found


def _actors(dashboard: str) -> list[dict[str, str]]:
    """Those that run trials."""
    return [actor for actor in _listed(dashboard, "actors") if "tiny/" in (actor["name"] or "")]


def _title(trial_id: str, storage: Path) -> str:
    row = journals(storage)[trial_id]["row"]
    rate = {0.1: "0.1", 0.01: "1e-2"}[row["lr"]]
    decay = {5e-4: "5e-4", 5e-6: "5e-6"}[row["weight_decay"]]
    return f"tiny/student lr={rate} wd={decay} s0"


def _metrics(host: str) -> list[str]:
    try:
        return fetch(f"http://{host}/metrics").splitlines()
    except urllib.error.URLError:  # Ray names the autoscaler's port, too, where there is none
        return []
