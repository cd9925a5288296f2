"""The lowest versions that ``pyproject.toml`` allows, installed by themselves: a study runs with them."""

import json
import os
import re
import subprocess
import tomllib
from pathlib import Path

import pytest

from tests.cluster.test_session import LOOKED_AT
from tests.support.launching import write_study

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LOWEST = dict(re.findall(r"^([\w-]+)(?:\[.*\])?>=([\d.]+)", "\n".join(PROJECT["dependencies"]), re.MULTILINE))
MENDED = {"torch": "2.10", "ray": "2.52", "pillow": "13.0", "filelock": "3.20.3"}  # since then: see pyproject.toml


def test_each_dependency_has_a_lowest_version() -> None:
    assert len(LOWEST) == len(PROJECT["dependencies"])
    assert LOWEST.items() >= MENDED.items()


def run(*words: str | Path, cwd: Path) -> str:
    ours = ("PYTHON", "RAY_", "TUNE_")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    pipes = {"stdin": subprocess.DEVNULL, "capture_output": True, "text": True}
    done = subprocess.run(list(map(str, words)), cwd=cwd, env=environment, check=False, **pipes)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.bounds
@pytest.mark.timeout(3600)
def test_the_lowest_versions_launch_a_study_that_nobody_else_reaches(tmp_path: Path) -> None:
    run("python3", "-m", "venv", "venv", cwd=tmp_path)
    python = tmp_path / "venv" / "bin" / "python"
    (tmp_path / "lowest.txt").write_text("".join(f"{name}=={version}\n" for name, version in LOWEST.items()))
    run(python, "-m", "pip", "install", "--quiet", "--no-cache-dir", "-c", "lowest.txt", ROOT, cwd=tmp_path)
    listed = json.loads(run(python, "-m", "pip", "list", "--format", "json", cwd=tmp_path))
    installed = {each["name"].lower(): each["version"].split("+")[0] for each in listed}
    for name, version in LOWEST.items():
        assert re.fullmatch(rf"{re.escape(version)}(\.0)*", installed[name.lower()]), name
    study = write_study(tmp_path)
    launch = ("launch", study, "--storage", "runs", "--stage", "teacher", "--stage", "student")
    run(python, "-m", "kdtune", *launch, cwd=tmp_path)
    assert "student" in run(python, "-m", "kdtune", "results", "tiny", "--storage", "runs", cwd=tmp_path)
    ports, _, node = json.loads(run(python, "-c", LOOKED_AT, cwd=tmp_path))
    assert {address.removeprefix("::ffff:") for _, address, _ in ports} == {"127.0.0.1"}
    assert node["NodeManagerAddress"] == "127.0.0.1"
