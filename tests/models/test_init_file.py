"""``student.init``: the name of a file is a warm start of the backbone, in every way of giving it."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from pydantic import ValidationError

from kdtune.study.file import read
from kdtune.study.settings import override
from kdtune.study.trial_config import WarmStart
from kdtune.training.site import Site
from kdtune.training.trial import run
from kdtune.training.weights import weights_bytes
from tests.support.small_study import small, write
from tests.support.tiny import config

FILE = "weights/r18.pth"


@pytest.mark.parametrize("file", [FILE, "r18.pt", "r18.safetensors", "s3://bucket/r18.pth", "folder/file"])
def test_a_file_is_a_warm_start(file: str) -> None:
    which = config({"student.init": file})
    assert which == config({"warm_start": {"checkpoint": file, "part": "backbone"}})
    assert which.student.init == "random"
    assert which.warm_start == WarmStart(checkpoint=file, part="backbone")
    assert which.config_id == config({"warm_start": {"checkpoint": file}}).config_id
    assert which.initialisation == file


def test_its_content_names_it() -> None:
    resolved = config({"student.init": FILE}).resolved({FILE: "sha256:0123456789abcdef"})
    assert resolved.checkpoints() == {"warm_start.checkpoint": "sha256:0123456789abcdef"}
    assert resolved.initialisation == "sha256:0123456789ab"


@pytest.mark.parametrize("word", ["imagnet", "resnet18"])
def test_a_word_that_is_no_file_is_refused(word: str) -> None:
    with pytest.raises(ValidationError, match="'random' or 'imagenet'"):
        config({"student.init": word})


def test_a_file_and_other_weights_are_a_contradiction() -> None:
    both: dict[str, Any] = {"student.init": FILE, "warm_start": {"checkpoint": FILE}}
    assert config(both) == config({"student.init": FILE})
    for other in ({"checkpoint": "other.pt"}, {"checkpoint": FILE, "part": "all"}):
        with pytest.raises(ValidationError, match=f"names the file '{FILE}', and warm_start other weights"):
            config(both | {"warm_start": other})


def test_a_later_choice_takes_the_place_of_an_earlier_one() -> None:
    first = config({"student.init": FILE})
    assert first.replace({"student.init": "random"}).warm_start is None
    assert first.replace({"student.init": "other.pt"}) == config({"student.init": "other.pt"})
    assert first.replace({"recipe.lr": 0.5}).warm_start is not None
    kept = first.replace({"student.init": "random", "warm_start.checkpoint": "other.pt"})
    assert kept.warm_start == WarmStart(checkpoint="other.pt")


def test_in_a_study_and_its_grids(tmp_path: Path) -> None:
    student = "{name: pspnet, backbone: resnet18, width: 0.125}"
    spec = small(tmp_path, (student, f"{{name: pspnet, backbone: resnet18, width: 0.125, init: {FILE}}}"))
    assert {c.initialisation for c in spec.templates().values()} == {FILE}
    swept = small(tmp_path, ("recipe.lr: [1e-1, 1e-2]", f"student.init: [random, {FILE}, b.pt]"))
    inits = [config.initialisation for config in swept.loading(swept.stage("student"))]
    assert set(inits) == {"random", FILE, "b.pt"}
    changed = override(swept, {"student.init": FILE})
    assert changed.templates()["distill"].initialisation == FILE


def test_a_contradiction_in_a_study_names_the_line(tmp_path: Path) -> None:
    student = "{name: pspnet, backbone: resnet18, width: 0.125}"
    both = f"{{name: pspnet, backbone: resnet18, init: {FILE}}}\n  warm_start: {{checkpoint: other.pt}}"
    (fault,), spec = read(write(tmp_path, (student, both)))
    assert spec is None
    assert fault.startswith(f"{tmp_path}/small.yaml:4: base.student.init: names the file '{FILE}'")


@pytest.mark.parametrize("kind", ["classification", "kdtune"])
def test_the_backbone_starts_there(tmp_path: Path, kind: str) -> None:
    torch.manual_seed(5)
    changes = {"student.width": 1.0, "recipe.num_steps": 0}
    if kind == "classification":
        wanted = torchvision.models.resnet18(weights=None).state_dict()
        torch.save(wanted, tmp_path / "w.pth")
    else:
        source = config(changes).student.build(5)
        (tmp_path / "w.pth.safetensors").write_bytes(weights_bytes(source))
        wanted = source.backbone.state_dict()
    file = next(tmp_path.iterdir())
    ((_, state),) = run(config(changes | {"student.init": str(file)}), Site())
    assert all(torch.equal(value, wanted[key]) for key, value in state.student.backbone.state_dict().items())
