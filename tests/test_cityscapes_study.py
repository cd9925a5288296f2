"""``kdtune launch cityscapes-resnet``, its file unchanged, on a drawn set in the exact layout of Cityscapes."""

import re
from collections import Counter
from pathlib import Path

import pytest
import torch
from PIL import Image

from kdtune.api import results
from kdtune.models.pspnet import PSPNetModel
from kdtune.study_file import load_study
from tests.launching import kdtune

# Sizes and steps alone. The cells of a crop of 64 are 8 x 8, and one step of training is enough to pass through all.
SETTINGS = ["dataset.size=[64, 128]", "recipe.crop=[64, 64]", "recipe.num_steps=1", "recipe.batch_size=2"]


@pytest.fixture
def torchvision_weights(tmp_path: Path) -> dict[str, str]:
    """Random values under the name of torchvision's ResNet-18 file: the real loader reads them from its cache."""
    import torchvision

    torch.manual_seed(0)
    folder = tmp_path / "torch" / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    url = torchvision.models.ResNet18_Weights.IMAGENET1K_V1.url
    torch.save(torchvision.models.resnet18(weights=None).state_dict(), folder / url.rsplit("/", 1)[1])
    return {"TORCH_HOME": str(tmp_path / "torch")}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_stage_to_the_tables(tmp_path: Path, torchvision_weights: dict[str, str]) -> None:
    data = tmp_path / "data"
    assert kdtune("data", "synth", "cityscapes", "--root", data / "cityscapes", "--images", "2").returncode == 0
    image = next((data / "cityscapes" / "leftImg8bit" / "train").rglob("*_leftImg8bit.png"))
    assert Image.open(image).size == (2048, 1024)

    study = load_study("cityscapes-resnet")
    model = study.templates()["distill"].teacher.model
    assert isinstance(model, PSPNetModel)
    assert model.backbone == "resnet101"
    torch.manual_seed(1)
    torch.save(model.build(19).state_dict(), tmp_path / "teacher.pt")

    settings = [word for setting in SETTINGS for word in ("--set", setting)]
    paths = ["--data-root", data, "--storage", tmp_path / "runs", "--teacher", tmp_path / "teacher.pt"]
    done = kdtune("launch", "cityscapes-resnet", *paths, *settings, env=torchvision_weights)
    assert done.returncode == 0, done.stderr
    assert "is made for a GPU" in done.stderr or torch.cuda.is_available()

    found = results("cityscapes-resnet", str(tmp_path / "runs"))
    trials = found.table("trials").to_pylist()
    planned = {stage.name: len(stage.points(list(study.template_starts(stage)), 0)) for stage in study.stages}
    assert Counter(row["stage"] for row in trials) == Counter(planned | {"teacher": 1})
    assert {row["status"] for row in trials} == {"completed"}
    assert {row["method"] for row in trials} == {"student", "pi", "pi+pa", "pi+ho", "pi+ifv"}
    assert all(len(row["per_class_iou"]) == 19 for row in trials)
    for table in ("grid", "temperature", "weights", "final", "initialization", "optimal"):
        shown = kdtune("results", "cityscapes-resnet", "--storage", tmp_path / "runs", "--table", table)
        assert shown.returncode == 0, shown.stderr
        assert re.search(r"\d\.\d\d", shown.stdout)
