"""Standard streams that are closed, full, or that nobody reads any more."""

import os
import subprocess
import sys

import pytest

LIST = ["studies", "list"]


def kdtune(words: list[str], redirected: str = "", unbuffered: str = "") -> subprocess.CompletedProcess[str]:
    line = f'"{sys.executable}" -m kdtune {" ".join(words)} {redirected}'
    environment = os.environ | {"PYTHONUNBUFFERED": unbuffered}
    return subprocess.run(
        ["bash", "-o", "pipefail", "-c", line], capture_output=True, text=True, env=environment, check=False
    )


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_full_disk_under_the_output(unbuffered: str) -> None:
    done = kdtune(LIST, "> /dev/full", unbuffered)
    assert done.returncode == 2
    assert done.stderr == "kdtune: standard output: cannot be written: No space left on device\n"


@pytest.mark.parametrize(
    ("words", "redirected", "status"),
    [
        (LIST, ">&-", 0),
        (LIST, ">&- 2>&- <&-", 0),
        (["results", "demo", "--storage", "nowhere"], "2>&-", 2),
        (["results", "demo", "--storage", "nowhere"], "2> /dev/full", 2),
        (LIST, "| head -1", 1),
        (LIST, "2>&- | cat", 0),
    ],
)
def test_streams_that_are_closed(words: list[str], redirected: str, status: int) -> None:
    done = kdtune(words, redirected)
    assert done.returncode == status
    assert done.stderr == ""
