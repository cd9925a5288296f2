"""The paper's studies, their files unchanged, on drawn sets in the layout of the real ones, teachers imported."""

import os
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision

from kdtune.api import results
from kdtune.datasets.synth import write_synthetic
from kdtune.models.pspnet import PSPNetModel
from kdtune.models.published import SEMSEG_NAMES, SKD_NAMES
from kdtune.study.file import load_study
from kdtune.training.weights import Weights
from tests.support import forked
from tests.support.launching import PLAIN, kdtune

# Sizes and steps alone. The cells of a crop of 64 are 8 x 8, and one step of training is enough to pass through all.
SETTINGS = ["recipe.crop=[64, 64]", "recipe.num_steps=1", "recipe.batch_size=2"]


def in_layout(state: Weights, names: dict[str, str]) -> Weights:
    """Our state under the authors' names, as their parallel training saved it."""
    made = {}
    for key, value in state.items():
        theirs, ours = next((theirs, ours) for theirs, ours in names.items() if key.startswith(ours))
        made[f"module.{theirs}{key.removeprefix(ours)}"] = value
    return made


def torchvision_weights(folder: Path, name: str) -> dict[str, str]:
    """Random values under the name of torchvision's file: the real loader reads them from its cache."""
    torch.manual_seed(0)
    place = folder / "torch" / "hub" / "checkpoints"
    place.mkdir(parents=True)
    url = torchvision.models.get_model_weights(name)["IMAGENET1K_V1"].url
    torch.save(torchvision.models.get_model(name, weights=None).state_dict(), place / url.rsplit("/", 1)[1])
    return {"TORCH_HOME": str(folder / "torch")}


def imported(folder: Path, layout: str, dataset: str, fields: dict[str, str], classes: int) -> Path:
    """A file for ``--teacher`` from a checkpoint with the authors' keys, through the command line."""
    torch.manual_seed(1)
    state = PSPNetModel.model_validate({"backbone": "resnet101", "stem": "deep", **fields}).build(classes).state_dict()
    names = SKD_NAMES if layout == "skd" else SEMSEG_NAMES
    if layout == "skd":  # InPlaceABN has no counters
        state = {key: value for key, value in state.items() if not key.endswith("num_batches_tracked")}
    theirs: Any = in_layout(state, names)
    torch.save(theirs if layout == "skd" else {"epoch": 3, "state_dict": theirs, "optimizer": {}}, folder / "t.pth")
    words = ["--layout", layout, "--dataset", dataset]
    done = kdtune("teacher", "import", folder / "t.pth", "-o", folder / "teacher.safetensors", *words)
    assert done.returncode == 0, done.stderr
    (folder / "t.pth").unlink()
    return folder / "teacher.safetensors"


def launched(
    folder: Path, name: str, dataset: str, layout: str, fields: dict[str, str], backbone: str, *words: str
) -> list[dict[str, Any]]:
    """The trials of a launch on a drawn set, with an imported teacher; all completed, all with that teacher's input."""
    data = folder / "data"
    write_synthetic(dataset, data / dataset, images=2, size=(64, 128))
    study = load_study(name)
    teacher = imported(folder, layout, dataset, fields, study.base.dataset.num_classes)
    settings = [word for setting in SETTINGS for word in ("--set", setting)]
    paths = ["--data-root", data, "--storage", folder / "runs", "--teacher", teacher]
    env = os.environ | PLAIN | torchvision_weights(folder, backbone)
    done = forked.run([*map(str, ["launch", name, *paths, *settings, *words])], env, 1200)
    assert done.returncode == 0, done.stderr
    assert "is made for a GPU" in done.stderr or torch.cuda.is_available()
    trials: list[dict[str, Any]] = results(name, str(folder / "runs")).table("trials").to_pylist()
    assert {row["status"] for row in trials} == {"completed"}
    assert all(len(row["per_class_iou"]) == study.base.dataset.num_classes for row in trials)
    order = "bgr" if layout == "skd" else "rgb"
    assert all(f'"order":"{order}"' in row["config"] for row in trials if row["method"] != "student")
    return trials


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_every_stage_to_the_tables(tmp_path: Path) -> None:
    """With a small teacher, since there are eighty trials; the other test has one as deep as the authors'.

    One at a time: a second worker would start anew in each of the stages, which takes as long as three trials.
    """
    name, small = "cityscapes-resnet", {"backbone": "resnet18"}
    words = ("--set", "teacher.model.backbone=resnet18", "--max-concurrent", "1", "--threads", "1")
    trials = launched(tmp_path, name, "cityscapes", "skd", small, "resnet18", *words)
    study = load_study(name)
    planned = {stage.name: len(stage.points(list(study.template_starts(stage)), 0)) for stage in study.stages}
    assert Counter(row["stage"] for row in trials) == Counter(planned | {"teacher": 1})
    assert {row["method"] for row in trials} == {"teacher", "student", "pi", "pi+pa", "pi+ho", "pi+ifv"}
    for table in ("grid", "temperature", "weights", "final", "initialization", "optimal"):
        shown = kdtune("results", name, "--storage", tmp_path / "runs", "--table", table)
        assert shown.returncode == 0, shown.stderr
        assert re.search(r"\d\.\d\d", shown.stdout)


@pytest.mark.slow
def test_another_layout_another_student_and_no_pack(tmp_path: Path) -> None:
    fields = {"variant": "semseg"}
    words = ("--stage", "distill", "--pack", "never", "--max-concurrent", "2")
    trials = launched(tmp_path, "ade20k-effnet", "ade20k", "semseg", fields, "efficientnet_b0", *words)
    assert {row["method"] for row in trials} == {"pi"}
    assert len(trials) == 12
