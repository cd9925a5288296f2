"""A network of another package in a file that says nothing of it: used as it is, and made a study's teacher."""

import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from kdtune.cli import main
from kdtune.models.builders import VOUCHED
from kdtune.resize import enlarged
from tests.models.test_external import Small
from tests.support.small_study import write

MODEL = "{name: external, builder: 'tests.models.test_external:Small', output: main}"
NAMED = "model: {name: pspnet, backbone: resnet18, width: 0.25}"  # the small study's teacher


def run(*words: str | Path, status: int = 0) -> str:
    """What a command prints; the one line where it is refused."""
    done = CliRunner().invoke(main, [*map(str, words)], catch_exceptions=False)
    assert done.exit_code == status, done.output
    return done.stderr.splitlines()[-1] if status else done.stdout


@pytest.fixture
def network(tmp_path: Path) -> Small:
    """Its plain weights lie in small.pth."""
    torch.manual_seed(1)
    made = Small(num_classes=12).eval()
    torch.save(made.state_dict(), tmp_path / "small.pth")
    return made


def test_predict_and_export_need_its_network_alone(network: Small, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (32, 48, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    shares = run("predict", tmp_path / "small.pth", tmp_path / "a.png", "--model", MODEL, "-o", tmp_path / "out")
    mean, std = (torch.tensor(each).view(3, 1, 1) for each in ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375)))
    with torch.no_grad():
        logits = network(((torch.from_numpy(pixels).permute(2, 0, 1) - mean) / std)[None])["main"]
    wanted = enlarged(logits, (32, 48)).argmax(dim=1)[0].numpy()
    assert (np.asarray(Image.open(tmp_path / "out" / "labels" / "a.png")) == wanted).mean() > 0.999
    assert [line.split()[1:3] for line in shares.splitlines()[1:13]] == [["class", str(i)] for i in range(12)]
    told = run("export", tmp_path / "small.pth", "-o", tmp_path / "small.pt2", "--model", MODEL)
    assert "logits float32 N x 12 x H x W" in told


def test_the_hints_of_an_import_lead_to_a_teacher(network: Small, tmp_path: Path) -> None:
    out = tmp_path / "small.safetensors"
    words = ("teacher", "import", tmp_path / "small.pth", "-o", out, "--layout", "kdtune", "--dataset", "demo")
    assert "it looks like none that is known: say its network as a study does, with --model" in run(*words, status=2)
    *_, last = run(*words, "--model", MODEL).splitlines()
    before, command = last.split(" in the study, then ")
    written = before.removeprefix("next: write `teacher.").removesuffix("`")
    assert command == f"kdtune launch STUDY --teacher {out}"

    study = write(tmp_path)
    dry: list[str | Path] = ["launch", study, "--dry-run", "--storage", tmp_path / "runs", *shlex.split(command)[3:]]
    line = run(*dry, status=2)
    assert f"`teacher.{written}`" in line
    assert "holds a network of another package (tests.models.test_external:Small)" in line
    text = study.read_text()
    assert NAMED in text
    study.write_text(text.replace(NAMED, written))
    run(*dry)


def test_an_import_repeats_the_module_that_it_was_given(
    network: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VOUCHED, "")
    words = ("teacher", "import", tmp_path / "small.pth", "-o", tmp_path / "small.safetensors", "--layout", "kdtune")
    *_, last = run(*words, "--model", MODEL, "--py-module", "tests.models.test_external").splitlines()
    assert last.endswith(" --py-module tests.models.test_external")


def test_a_teacher_of_kdtunes_own_where_the_study_names_another_package(tmp_path: Path) -> None:
    run("teacher", "train", write(tmp_path), "--set", "recipe.num_steps=1", "-o", tmp_path / "made")
    (file,) = tmp_path.rglob("student.safetensors")
    study = write(tmp_path)
    study.write_text(study.read_text().replace(NAMED, f"model: {MODEL}"))
    line = run("launch", study, "--dry-run", "--storage", tmp_path, "--set", f"teacher.checkpoint={file}", status=2)
    assert f"teacher {file} holds a network of name 'pspnet', the study's teacher is Small: give the right file" in line
