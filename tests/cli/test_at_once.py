"""What a user gets wrong is told at once: without torch, before the work, and all that is missing in one go."""

import os
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from click.testing import CliRunner

from kdtune.base import UserError
from kdtune.bench.synthetic_study import fill, synthetic_study
from kdtune.cli import main
from kdtune.cli.launch import _ask_without_a_gpu
from kdtune.records.storage import Storage
from kdtune.search.missing import downloads
from kdtune.search.options import Options
from kdtune.study.file import load_study
from tests.support.imported import Ended, after

UNKNOWN = [
    ["launch", "nosuch"],
    ["launch", "demo", "--storage", "s3:/x"],
    ["launch", "demo", "--set", "recipe.lrr=1"],
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


WRONG = [  # with a file of weights, a picture and a study that are there
    "evaluate student.safetensors --data nosuch",
    "evaluate student.safetensors --data camvid --set nosuch",
    "evaluate student.safetensors --data camvid --set recipe.lrr=3",
    "evaluate student.safetensors --data camvid --set student.width=3",
    "evaluate student.safetensors --data camvid --model nosuch",
    "export student.safetensors -o x.onx",
    "export student.safetensors -o x.pt2 --size abc",
    "export student.safetensors -o x.pt2 --model nosuch",
    "export student.safetensors -o x.pt2 --compare nofile.png",
    "best growth-4 -o x.pth",
    "best growth-4 -o x.safetensors --stage nosuch",
    "best growth-4 -o x.safetensors --method nosuch",
    "predict student.safetensors picture.png -o out --window 3",
    "predict student.safetensors nofile.png -o out",
    "predict student.safetensors picture.png -o out --model nosuch",
    "teacher import student.safetensors -o x.pth --layout kdtune",
    "teacher import student.safetensors -o student.safetensors --layout kdtune",
    "teacher import student.safetensors -o x.safetensors --layout kdtune --dataset nosuch",
    "teacher import student.safetensors -o x.safetensors --layout kdtune --model nosuch",
    "train demo --stage nosuch",
    "train demo --set nosuch",
    "train demo --set nosuch=1",
    "train demo --set recipe.lr=-1",
    "teacher train demo --set nosuch=1",
    "teacher entropy demo --temperatures a,b",
    "teacher entropy demo --crop 3",
    "teacher entropy demo --set nosuch=1",
    "bench train nosuch",
    "bench train demo --set nosuch=1",
    "bench loader nosuch",
    "bench evaluation nosuch",
    "bench asha nosuch",
    "bench asha demo --stage nosuch",
    "bench orchestration --study nosuch",
    "bench teacher-store --study nosuch",
    "bench terms nosuch",
    "bench growth --trials x",
]


def test_what_is_not_there_is_told_without_torch_and_ray(tmp_path: Path) -> None:
    found = after(UNKNOWN, tmp_path, os.environ | {"KDTUNE_STORAGE": "runs"})
    assert found == [Ended(2, 1, [])] * len(UNKNOWN)
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_done_is_told_without_torch_and_ray(tmp_path: Path) -> None:
    study = synthetic_study(4)
    fill(Storage(str(tmp_path / "runs"), study.name), study)
    for name in ("student.safetensors", "picture.png"):
        (tmp_path / name).touch()
    there = sorted(tmp_path.rglob("*"))
    found = after([line.split() for line in WRONG], tmp_path, os.environ | {"KDTUNE_STORAGE": "runs"})
    assert dict(zip(WRONG, found, strict=True)) == dict.fromkeys(WRONG, Ended(2, 1, []))
    assert sorted(tmp_path.rglob("*")) == there


def test_a_launch_names_all_that_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    words = ["launch", "cityscapes-resnet", "--storage", "runs", "--data-root", "data"]
    done = CliRunner().invoke(main, words, catch_exceptions=False)
    assert done.exit_code == 2
    data, *gpu, imagenet, teacher = [line.removeprefix("kdtune: ") for line in done.stderr.splitlines()]
    assert data.startswith("cityscapes: no folder")
    assert "register at https://www.cityscapes-dataset.com" in data
    assert imagenet.startswith(f"ImageNet weights of resnet18 are not in {tmp_path}/torch/hub/checkpoints: ")
    assert teacher.startswith("teacher.checkpoint: 'published/skd-cityscapes' does not come with kdtune: get")
    if not torch.cuda.is_available():
        assert gpu
        assert gpu[0].startswith("study 'cityscapes-resnet' is made for a GPU, and there is none here")


def test_weights_that_are_there_are_not_missed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    folder = tmp_path / "hub/checkpoints"
    folder.mkdir(parents=True)
    (folder / "resnet18-f37072fd.pth").touch()
    assert list(downloads(load_study("cityscapes-resnet"), ())) == []
    assert len(list(downloads(load_study("cityscapes-effnet"), ()))) == 1


@pytest.mark.parametrize("answer", [True, False])
def test_a_study_for_a_gpu_asks_before_it_takes_months(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: bool
) -> None:
    spec = load_study("demo").model_copy(update={"needs_gpu": True})
    asked: list[str] = []
    monkeypatch.setattr("sys.stdin", SimpleNamespace(isatty=lambda: True))
    monkeypatch.setattr("kdtune.search.missing.gpu_here", lambda: False)
    monkeypatch.setattr("click.confirm", lambda question, err: bool(asked.append(question)) or answer)
    here: dict[str, str | None] = {"data_root": None, "address": None, "storage": str(tmp_path)}
    with nullcontext() if answer else pytest.raises(UserError, match=r"^not started"):
        _ask_without_a_gpu(spec, Options(), here)
    assert asked == ["study 'demo' is made for a GPU, and there is none here: it may take months. Start all the same?"]
    _ask_without_a_gpu(spec, Options(), here | {"address": "ray://head"})  # its nodes may have some
    _ask_without_a_gpu(load_study("demo"), Options(), here)
    Storage(str(tmp_path), "demo").write_study(spec, {})
    _ask_without_a_gpu(spec, Options(), here)  # it has been started
    assert len(asked) == 1


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
