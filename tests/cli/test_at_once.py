"""What a user gets wrong is told at once: without torch, before the work, and all that is missing in one go."""

import os
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from kdtune.cli import main
from tests.support.imported import Ended, after

UNKNOWN = [
    ["launch", "nosuch"],
    ["train", "nosuch"],
    ["teacher", "train", "nosuch"],
    ["teacher", "entropy", "nosuch"],
    ["teacher", "import", "nofile", "-o", "x.safetensors", "--layout", "skd"],
    ["models", "check", "nosuch"],
    ["evaluate", "nofile", "--data", "camvid"],
    ["predict", "nofile.safetensors", "image.png", "-o", "out"],
    ["export", "nofile.safetensors", "-o", "x.onnx"],
    ["best", "nosuch", "-o", "x.safetensors"],
    ["report", "nosuch"],
    ["report", "demo", "-o", "none/report.html"],
    ["results", "nosuch"],
    ["status", "nosuch"],
    ["logs", "nosuch"],
    ["stop", "nosuch"],
]


def test_what_is_not_there_is_told_without_torch_and_ray(tmp_path: Path) -> None:
    found = after(UNKNOWN, tmp_path, os.environ | {"KDTUNE_STORAGE": "runs"})
    assert found == [Ended(2, 1, [])] * len(UNKNOWN)
    assert list(tmp_path.iterdir()) == []


def test_a_launch_names_all_that_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["launch", "cityscapes-resnet", "--storage", "runs", "--data-root", "data"]
    done = CliRunner().invoke(main, words, catch_exceptions=False)
    assert done.exit_code == 2
    data, *gpu, teacher = [line.removeprefix("kdtune: ") for line in done.stderr.splitlines()]
    assert data.startswith("cityscapes: no folder")
    assert "register at https://www.cityscapes-dataset.com" in data
    assert teacher.startswith("teacher.checkpoint: 'published/skd-cityscapes' does not come with kdtune: get")
    if not torch.cuda.is_available():
        assert gpu
        assert gpu[0].startswith("study 'cityscapes-resnet' is made for a GPU, and there is none here")


@pytest.mark.parametrize("group", [[], ["studies"], ["teacher"], ["data"], ["losses"], ["bench"], ["models"]])
def test_the_help_of_a_group_says_whole_sentences(group: list[str]) -> None:
    done = CliRunner().invoke(main, [*group, "--help"], terminal_width=80)
    commands = done.output.split("\nCommands:\n")[1].split("\n\n")[0]
    assert "..." not in commands
    assert max(map(len, commands.splitlines())) <= 80


def test_what_was_there_under_the_name_of_an_output_stays(tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    words = ["report", "nosuch", "--storage", str(tmp_path / "runs"), "-o", str(page)]
    assert CliRunner().invoke(main, words).exit_code == 2
    assert not page.exists()
    page.write_text("the last one")
    assert CliRunner().invoke(main, words).exit_code == 2
    assert page.read_text() == "the last one"
