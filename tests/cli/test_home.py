"""A user id without HOME and without an entry in /etc/passwd, as containers run with."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

USER = 54321


@pytest.fixture(scope="module")
def homeless() -> list[str]:
    """The words before a command that is to run as nobody in particular."""
    words = ["unshare", "-U", f"--map-user={USER}", "env", "-u", "HOME"]
    if shutil.which("unshare") is None or subprocess.run([*words, "true"], capture_output=True, check=False).returncode:
        pytest.skip("no user namespaces here")
    return words


def kdtune(homeless: list[str], folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"TMPDIR": str(folder), "MPLCONFIGDIR": ""}
    for name in ("KDTUNE_CACHE", "KDTUNE_STORAGE"):
        environment.pop(name, None)
    command = [*homeless, sys.executable, "-m", "kdtune", *words]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


def test_nothing_is_kept_where_it_would_be_lost(homeless: list[str], tmp_path: Path) -> None:
    done = kdtune(homeless, tmp_path, "results", "demo")
    assert done.returncode == 2
    assert done.stderr == (
        "kdtune: no home folder here to keep results in: give --storage or KDTUNE_STORAGE, or set HOME\n"
    )
    assert (tmp_path / f"kdtune-{USER}").stat().st_mode & 0o777 == 0o700


def test_a_training_needs_no_home(homeless: list[str], tmp_path: Path) -> None:
    """Torch, codecarbon and the packs' cache each look for one."""
    few = [word for name in ("num_steps=2", "eval_every=2") for word in ("--set", f"recipe.{name}")]
    few += [word for name in ("num_train=4", "num_val=2") for word in ("--set", f"dataset.{name}")]
    done = kdtune(homeless, tmp_path, "train", "demo", "--stage", "pretrain", *few, "-o", str(tmp_path / "out"))
    assert done.returncode == 0, done.stderr
    assert "weights: " in done.stdout


def test_a_folder_that_somebody_else_made(homeless: list[str], tmp_path: Path) -> None:
    (tmp_path / f"kdtune-{USER}").mkdir(mode=0o777)
    (tmp_path / f"kdtune-{USER}").chmod(0o777)
    done = kdtune(homeless, tmp_path, "results", "demo")
    assert done.returncode == 2
    assert "is another user's, and there is no other home here: set HOME" in done.stderr
