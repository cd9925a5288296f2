"""A launch as a Ray job: what is sent, what the shell makes of it, and a real cluster of two nodes."""

import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from kdtune.base import UserError
from kdtune.cli import main
from kdtune.cluster.jobs import Unreachable, entrypoint, package, state_of
from kdtune.records.launched import Launched, read_launch, write_launch
from kdtune.study.file import load_study
from tests.support.launching import AT_ONCE, journals, kdtune, same_as, under_way, until, write_study
from tests.support.ray_cluster import RayCluster, ray_cluster

CLOSED = "http://127.0.0.1:9"  # nothing listens on the port for discarding


def detach(*words: str | Path) -> Result:
    return CliRunner().invoke(main, ["launch", *map(str, words), "--detach"])


def one_line(done: Result) -> str:
    assert done.exit_code == 2, done.output
    (line,) = done.stderr.splitlines()
    assert done.stdout == ""
    return line


def test_no_word_of_the_user_reaches_the_shell(tmp_path: Path) -> None:
    """The entrypoint goes through a real shell; in the place of Python stands a program that notes its arguments."""
    fake = tmp_path / "bin" / "python"
    fake.parent.mkdir()
    fake.write_text(f"#!{sys.executable}\nimport json, sys\nprint(json.dumps(sys.argv[1:]))\n")
    fake.chmod(0o755)
    made = tmp_path / "made"
    evil = [f"; touch {made}", f"$(touch {made})", f"`touch {made}`", f"'; touch {made} #", f'" && touch {made} "']
    evil += [f"a\ntouch {made}", f"| touch {made}", f"\\'; touch {made}", "*", "~", ""]
    words = ["--storage", *evil]
    environment = {"PATH": f"{fake.parent}:{os.environ['PATH']}"}
    done = subprocess.run(entrypoint(words), shell=True, capture_output=True, text=True, env=environment, check=True)
    assert json.loads(done.stdout) == ["-m", "kdtune", "launch", "study.yaml", "--address", "auto", *words]
    assert not made.exists()
    assert os.system(f"true; touch {made}") == 0  # the shell that this is about does so when it is not quoted
    assert made.exists()


def test_evil_options_of_a_launch_stay_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the command line to the entrypoint: the file's name, ``--set``, storage and data root."""
    from kdtune.cluster import jobs

    made = tmp_path / "made"
    study = write_study(tmp_path).rename(tmp_path / "x; touch made; .yaml")
    sent: list[tuple[Any, list[str]]] = []

    def submit(study: Any, words: list[str], address: str, storage: str) -> jobs.Submission:
        sent.append((study, words))
        return jobs.Submission("tiny-1", address, ())

    monkeypatch.setattr(jobs, "submit", submit)
    storage, data = f"{tmp_path}/s; touch {made}; ", f"{tmp_path}/$(touch {made})"
    words = (study, "--address", CLOSED, "--storage", storage, "--data-root", data, "--stage", "student")
    assert detach(*words, "--set", f"dataset.name=; touch {made}").exit_code == 2  # no dataset of that name
    done = detach(*words, "--set", "recipe.num_steps=12", "--scheduler", "none")
    assert done.exit_code == 0, done.output
    ((spec, given),) = sent
    assert given == ["--storage", storage, "--data-root", data, "--stage", "student", "--pack", "always"]
    again = ("--again", "student-*", "--again", "x y", "--mixed", "--teacher-store", "2GB", "--log", "tensorboard")
    assert detach(*words, *again).exit_code == 0
    rest = ["--log", "tensorboard", *again[:4], "--pack", "always", "--teacher-store", "2GB", "--mixed"]
    assert sent.pop()[1] == [*given[:6], *rest]
    assert spec.base.recipe.num_steps == 12  # options that change the study go with its file
    assert {spec.scheduler_of(stage) for stage in spec.stages} == {"none"}
    assert done.stdout == "tiny-1\n"
    assert not made.exists()


def test_what_is_sent_runs_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a-secret-of-this-machine")
    study = load_study(write_study(tmp_path))
    sent = package(study, tmp_path)
    assert set(sent) == {"working_dir", "py_modules"}  # no env_vars
    (code,) = map(Path, sent["py_modules"])
    files = [path.relative_to(code) for path in code.rglob("*") if path.is_file()]
    assert {path.suffix for path in files} <= {".py", ".yaml", ".json", ".typed", ".css"}
    assert not any("test" in part or part.startswith((".", "__pycache__")) for path in files for part in path.parts)
    assert [path.name for path in Path(sent["working_dir"]).iterdir()] == ["study.yaml"]
    assert not any(b"a-secret-of-this-machine" in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    with zipfile.ZipFile(tmp_path / "sent.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for path in files:
            archive.write(code / path, path)
    assert (tmp_path / "sent.zip").stat().st_size < 700_000  # the code of 300 modules, and no data
    words = [sys.executable, "-c", "import kdtune.cli; print(kdtune.cli.__file__); kdtune.cli.main()"]
    words += ["launch", "study.yaml", "--dry-run", "--storage", str(tmp_path)]
    environment = os.environ | {"PYTHONPATH": str(code.parent)}
    done = subprocess.run(words, capture_output=True, text=True, cwd=sent["working_dir"], env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(str(code))
    assert "study tiny" in done.stdout


def test_a_study_sent_is_the_same_study(tmp_path: Path) -> None:
    """Launched from here or as a job: no difference that would make a trial run anew."""
    study = load_study(write_study(tmp_path), {"recipe.num_steps": 12})
    sent = package(study, tmp_path)
    assert load_study(Path(sent["working_dir"]) / "study.yaml") == study


def test_detach_needs_an_address(tmp_path: Path) -> None:
    line = one_line(detach(write_study(tmp_path), "--storage", tmp_path))
    assert "--address http://HOST:8265" in line
    assert "RAY_ADDRESS" in line


@pytest.mark.parametrize("address", [CLOSED, "127.0.0.1:9", "ray://127.0.0.1:10001", "no such thing"])
def test_a_cluster_that_does_not_answer(tmp_path: Path, address: str) -> None:
    line = one_line(detach(write_study(tmp_path), "--storage", tmp_path, "--address", address))
    assert f"cluster {address}: " in line
    assert not (tmp_path / "tiny" / "launch.json").exists()


def test_an_address_that_is_silent_is_given_up_soon() -> None:
    """A listener that takes connections and never says anything."""
    import socket

    with socket.create_server(("127.0.0.1", 0)) as silent:
        began = time.monotonic()
        with pytest.raises(Unreachable, match="does not answer"):
            state_of("tiny-1", f"http://127.0.0.1:{silent.getsockname()[1]}", 1.0)
        assert time.monotonic() - began < 10


def test_the_flag_beats_the_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray's own client would go where RAY_ADDRESS says."""
    monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.1:7")
    line = one_line(detach(write_study(tmp_path), "--storage", tmp_path, "--address", CLOSED))
    assert ":9" in line
    assert ":7" not in line
    assert os.environ["RAY_ADDRESS"] == "http://127.0.0.1:7"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--teacher", "weights/t.safetensors"), "teacher.checkpoint is 'weights/t.safetensors'"),
        (("--storage", "s3://KEY:hunter2@bucket/runs"), "s3://bucket/runs"),
    ],
)
def test_what_a_cluster_cannot_or_must_not_see(tmp_path: Path, words: tuple[str, ...], told: str) -> None:
    line = one_line(detach(write_study(tmp_path), "--storage", tmp_path, "--address", CLOSED, *words))
    assert told in line
    assert "hunter2" not in line


def test_own_code_that_is_missing_is_told_before_anything_is_submitted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a detached launch, a plain one and a dry run alike; the options that only a launch uses, too."""
    monkeypatch.setenv("KDTUNE_PY_MODULES", "")
    study = write_study(tmp_path)
    theirs, base = tmp_path / "theirs.yaml", study.read_text().partition("stages:")[0]
    network = "{name: pspnet, backbone: resnet18, width: 0.0625}"
    external = base.replace(network, "{name: external, builder: 'nosuchmod:build'}")
    theirs.write_text(f"{external}stages:\n  - name: student\n")
    for how in (["--detach", "--address", CLOSED], ["--dry-run"], []):

        def line(*more: str, file: Path = study, how: list[str] = how) -> str:
            words = ["launch", str(file), "--storage", str(tmp_path / "runs"), *how, *more]
            return CliRunner().invoke(main, words).stderr.splitlines()[-1].removeprefix("kdtune: ")

        assert line("--py-module", "nosuchmod").startswith("--py-module nosuchmod: no such module; install it")
        assert line("--teacher-store", "abc").startswith("--teacher-store abc: neither a size")
        assert line("--country", "XXX").startswith("--country 'XXX': codecarbon knows no such country")
        if "--detach" not in how:  # the job sees which trials there are
            assert line("--again", "nosuch*").startswith("--again nosuch*: no trial of these stages")
        assert line(file=theirs).startswith("builder nosuchmod:build: cannot import 'nosuchmod'")
        assert not how or not (tmp_path / "runs").exists()


def test_a_job_that_cannot_be_asked_is_a_note(tmp_path: Path) -> None:
    (tmp_path / "tiny").mkdir()
    launch = Launched(started_at="2026-01-02T03:04:05.000+00:00", submission_id="tiny-1", address=CLOSED)
    from kdtune.records.storage import Storage

    write_launch(Storage(str(tmp_path), "tiny").folder, launch)
    done = CliRunner().invoke(main, ["status", "tiny", "--storage", str(tmp_path)])
    assert done.exit_code == 0, done.output
    assert f"note: cluster {CLOSED}: its Jobs API does not answer" in done.stdout
    done = CliRunner().invoke(main, ["logs", "tiny", "--storage", str(tmp_path)])
    assert done.exit_code == 0
    assert "this is " in done.stderr


def test_the_error_is_one_that_users_can_mend() -> None:
    assert issubclass(Unreachable, UserError)


# a real cluster

LONGER = AT_ONCE.replace("num_steps: 6, eval_every: 2", "num_steps: 80, eval_every: 10").replace(
    "start_from: [student, weight-pi]\n    seeds: [11, 12]", "start_from: [student]\n    seeds: [11, 12]"
)
STAGES = ("--stage", "student", "--stage", "final")
OPTIONS = ("--scheduler", "none", "--threads", "1", *STAGES)


@pytest.fixture(scope="module")
def nodes() -> Iterator[RayCluster]:
    """A head and a worker, one processor each, that know of kdtune what they are sent."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # the entrypoint says `python`
    with ray_cluster(dashboard=True) as cluster:
        for _ in range(2):
            cluster.start_node(num_cpus=1, env={"PATH": path, "PYTHONPATH": ""})
        yield cluster


def submitted(nodes: RayCluster) -> list[dict[str, Any]]:
    """The submitted jobs, as the dashboard's API lists them."""
    return [job for job in nodes.fetch("/api/jobs/") if job["type"] == "SUBMISSION"]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_nobody_gets_in_without_the_token(nodes: RayCluster, tmp_path: Path) -> None:
    nobody = {"env": {"HOME": str(tmp_path)}, "without": ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN")}
    wrong = {"env": {"RAY_AUTH_TOKEN": "0" * 64}}
    words = ("launch", write_study(tmp_path), "--storage", tmp_path, "--detach", "--address")
    asked = [(nodes.dashboard, nobody, "asks for its token"), (nodes.dashboard, wrong, "refuses this token")]
    asked += [(nodes.address, nobody, "token"), (nodes.address, wrong, "token")]
    for address, given, told in asked:
        done = nodes.kdtune(*words, address, **given)  # type: ignore[arg-type]
        assert done.returncode == 2, done.stderr
        assert done.stdout == ""
        (line,) = [line for line in done.stderr.splitlines() if line.startswith("kdtune: ")]
        assert told in line
        assert "RAY_AUTH_TOKEN_PATH" in line
        assert "Traceback" not in done.stderr
    assert submitted(nodes) == []


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_submitted_watched_stopped_and_continued(nodes: RayCluster, tmp_path: Path) -> None:
    """Three submissions: one is stopped in order, one by Ray since it does not react, the last one finishes."""
    storage, alone = tmp_path / "storage", tmp_path / "alone"
    study = write_study(tmp_path, LONGER)
    from kdtune.records.storage import Storage

    folder = Storage(str(storage), "tiny").folder
    own = tmp_path / "own.py"
    own.write_text("")  # a module of the user's own travels with the job
    options = (*OPTIONS, "--py-module", own)
    words = ("launch", study, "--storage", storage, *options, "--address", nodes.dashboard, "--detach")

    def status() -> dict[str, Any]:
        done = nodes.kdtune("status", "tiny", "--storage", storage, "--format", "json")
        assert done.returncode == 0, done.stderr
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    began = time.monotonic()
    done = nodes.kdtune(*words, without=("RAY_AUTH_MODE",))  # kdtune sees that there is a token
    print(f"submitted in {time.monotonic() - began:.1f} s")
    assert done.returncode == 0, done.stderr
    job = done.stdout.strip()
    assert job.startswith("tiny-")
    assert f"{storage} is a folder, and a cluster of 2 nodes runs the study" in done.stderr
    assert f"kdtune status tiny --storage {storage}" in done.stderr
    launch = read_launch(folder)
    assert launch is not None
    assert launch.submission_id == job

    again = nodes.kdtune(*words)  # it is not even up yet, but it is known
    assert again.returncode == 2, again.stderr
    assert "is being launched by" in again.stderr

    following = nodes.start("logs", "tiny", "--storage", storage, "-f")
    try:
        found: dict[str, Any] = {}

        def shown() -> bool:
            (job,) = submitted(nodes)
            assert job["status"] in ("PENDING", "RUNNING"), job["message"]
            found.update(job)
            return bool(job["metadata"]["stage"])

        until(shown, 300, every=1.0)
        assert found["submission_id"] == job
        assert found["metadata"]["job_name"] == "tiny"
        assert found["metadata"]["stage"] in ("student", "final")
        assert "/4 done, " in found["metadata"]["progress"]
        now = status()
        assert now["state"] == "running"
        assert now["job"]["status"] == "RUNNING"
        assert now["launch"]["pid"] is not None

        until(lambda: bool(under_way(storage)), 300, every=0.1)
        done = nodes.kdtune("stop", "tiny", "--storage", storage, "--timeout", "120")
        assert done.returncode == 0, done.stderr
        assert "stopped; nothing finished is lost; continue with: kdtune launch " in done.stderr
        assert under_way(storage)  # to go on from
        log, _ = following.communicate(timeout=60)  # ends with the job
    finally:
        following.kill()
    assert "student: 4 trials" in log
    assert "stopped on request; nothing finished is lost" in log
    now = status()
    assert (now["state"], now["job"]["status"]) == ("ended", "FAILED")  # Ray has no other word for status 130
    assert "stopped on request" in now["told"]
    assert not folder.exists("stop.json")
    assert not folder.exists("lock.json")

    assert nodes.kdtune(*words).returncode == 0

    def driver() -> int | None:
        found = read_launch(folder)
        return found.pid if found and found.submission_id != job and folder.exists("lock.json") else None

    until(lambda: driver() is not None, 300, every=0.2)
    os.kill(driver() or 0, signal.SIGSTOP)  # it will not look for requests
    done = nodes.kdtune("stop", "tiny", "--storage", storage, "--timeout", "1")
    assert done.returncode == 0, done.stderr
    assert "was stopped; continue with: kdtune launch " in done.stderr
    assert status()["job"]["status"] == "STOPPED"

    finished = {n: e["row"]["finished_at"] for n, e in journals(storage).items() if e["row"]["finished_at"]}
    assert nodes.kdtune(*words).returncode == 0
    until(lambda: (found := read_launch(folder)) is not None and found.outcome == "finished", 900, every=0.5)
    assert status()["stages"][1]["completed"] == 4
    assert all(journals(storage)[name]["row"]["finished_at"] == at for name, at in finished.items())  # not run again
    done = kdtune("results", "tiny", "--storage", storage)
    assert done.returncode == 0, done.stderr
    done = kdtune("launch", study, "--storage", alone, *OPTIONS, "--max-concurrent", "1")
    assert done.returncode == 0, done.stderr
    same_as(alone, storage)
