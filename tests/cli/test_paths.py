"""Paths that are not what a command needs: one line and exit status 2, before the work; a bug keeps its traceback."""

import errno
from pathlib import Path

import pytest
from click.testing import CliRunner

from kdtune.cli import main
from kdtune.cli.paths import told

LONG = ["statistics", "--tables", "1000"]  # minutes, if it began


def refused(*words: str | Path) -> str:
    done = CliRunner().invoke(main, [*map(str, words)], prog_name="kdtune")
    assert done.exit_code == 2, done.output
    (line,) = done.stderr.splitlines()
    return line.removeprefix("kdtune: ")


@pytest.mark.parametrize(
    "words",
    [
        ["data", "synth", "camvid", "--root", "/proc/x"],
        ["data", "fetch", "voc", "--root", "/proc/x"],
        ["pull", "storage", "/proc/x"],
        ["bench", *LONG, "-o", "/proc/x"],
        ["bench", "gpu", "/proc/x"],
        ["train", "demo", "-o", "/proc/x"],
        ["teacher", "train", "demo", "-o", "/proc/x"],
        ["teacher", "import", "w.pth", "-o", "/proc/x", "--layout", "skd"],
        ["evaluate", "w.safetensors", "--data", "demo", "-o", "/proc/x"],
        ["predict", "w.safetensors", "x.png", "-o", "/proc/x"],
        ["export", "w.safetensors", "-o", "/proc/x"],
        ["best", "demo", "-o", "/proc/x"],
        ["results", "demo", "-o", "/proc/x"],
        ["report", "demo", "-o", "/proc/x"],
        ["data", "init", "photos", "-o", "/proc/x"],
    ],
)
def test_an_output_that_cannot_be_written_is_found_out_first(words: list[str]) -> None:
    assert refused(*words) == "/proc/x: cannot be written: No such file or directory"


@pytest.mark.parametrize("words", [["best", "demo"], ["results", "demo"], ["data", "init", "x"], ["bench", *LONG]])
def test_no_folder_is_made_for_an_output(tmp_path: Path, words: list[str]) -> None:
    file = tmp_path / "nodir/x.yaml"
    assert refused(*words, "-o", file) == f"{file}: cannot be written: No such file or directory"
    assert list(tmp_path.iterdir()) == []


def test_a_cache_that_cannot_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a library of the system makes the folder: not foreseen by the command."""
    monkeypatch.setenv("KDTUNE_CACHE", "/proc/x")
    (tmp_path / "session_latest").mkdir()
    (tmp_path / "prom_metrics_service_discovery.json").write_text("[]")
    words = ["cluster", "metrics", "--files", "--session", tmp_path / "session_latest"]
    assert refused(*words) == "/proc/x: No such file or directory"


@pytest.mark.parametrize(
    "words", [["results", "demo"], ["status", "demo"], ["logs", "demo"], ["studies", "list"], ["best", "demo"]]
)
def test_a_file_in_the_place_of_a_storage(tmp_path: Path, words: list[str]) -> None:
    file = tmp_path / "study.yaml"
    file.write_text("no folder")
    more = ["-o", tmp_path / "x.safetensors"] if words[0] == "best" else []
    assert refused(*words, "--storage", file, *more) == f"{file}: is a file, not a folder"


@pytest.mark.parametrize("words", [["pull", "storage"], ["data", "synth", "camvid", "--root"]])
def test_a_file_in_the_place_of_a_folder_to_write(tmp_path: Path, words: list[str]) -> None:
    file = tmp_path / "text.txt"
    file.write_text("no folder")
    assert refused(*words, file) == f"{file}: cannot be written: a file is there, not a folder"


def test_a_bug_keeps_its_traceback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that is not there is the user's where the path, or what it lies in, was given; what a disk refuses is."""
    monkeypatch.chdir(tmp_path)

    def line(number: int, path: Path | str | None, *words: str) -> str | None:
        return told(OSError(number, "why", path and str(path)), ["status", "demo", *words])

    gone, there = tmp_path / "gone", tmp_path / "there"
    there.mkdir()
    assert line(errno.ENOENT, gone / "study.yaml") is None
    assert line(errno.ENOENT, there / "study.yaml", "--storage", str(there)) is None, "a file of kdtune's own"
    assert line(errno.ENOENT, gone / "study.yaml", "--storage", str(gone)) == f"{gone}/study.yaml: why"
    assert line(errno.ENOENT, gone, "--storage=gone/below") == f"{gone}: why"
    assert line(errno.ENOENT, gone / "data", "--set", f"dataset.root={gone}") == f"{gone}/data: why"
    assert line(errno.ENOENT, None) is None
    assert line(errno.EBADF, there, str(there)) is None
    assert line(errno.ENOSPC, None) == "why"
    assert line(errno.EROFS, there / "x") == f"{there}/x: why"
    monkeypatch.setenv("KDTUNE_CACHE", str(gone))
    assert line(errno.ENOENT, gone / "packs") == f"{gone}/packs: why"
