"""Networks of other packages through Ray, each as a student and as a teacher of one that has another stride."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from kdtune.api import results
from kdtune.models.external import ExternalModel
from kdtune.training.weights import weights_bytes
from tests.models.test_external import LRASPP, TIMM, UNET
from tests.models.test_transformers import SEGFORMER, UPERNET
from tests.support.launching import kdtune

TORCHVISION = {
    "arguments": {"weights": None, "weights_backbone": None},
    "taps": {"psp": "classifier.3"},
    "output": "out",
}
KINDS: dict[str, dict[str, Any]] = {
    "segformer": SEGFORMER,
    "upernet": UPERNET,
    "lraspp": LRASPP,
    "deeplabv3": {"builder": "torchvision.models.segmentation:deeplabv3_mobilenet_v3_large", **TORCHVISION},
    "fcn": {"builder": "torchvision.models.segmentation:fcn_resnet50", **TORCHVISION},
    "unet": UNET,
    "timm": TIMM,
}
CLASSES = 12


def study(folder: Path) -> dict[str, Any]:
    """The student varies, then the teacher; the weights of all teachers are random."""
    teachers = {}
    for name, fields in KINDS.items():
        torch.manual_seed(1)
        network = ExternalModel.model_validate(fields).build(CLASSES)
        (folder / f"{name}.safetensors").write_bytes(weights_bytes(network))
        model = {"name": "external", **fields}
        teachers[name] = {"model": model, "checkpoint": str(folder / f"{name}.safetensors")}
    models = {name: teacher["model"] for name, teacher in teachers.items()}
    terms: dict[str, Any] = {"losses.pi": {"weight": 1.0}, "losses.ifv": {"weight": 1.0}}
    on_features, on_logits = ({"losses.cwd": {"weight": 1.0, "tap": tap}} for tap in ("psp", "logits"))
    return {
        "name": "others",
        "max_concurrent": 1,
        "threads": 1,
        "scheduler": "none",
        "base": {
            "dataset": {"name": "demo", "size": [64, 64], "num_train": 2, "num_val": 2},
            "student": models["lraspp"],
            "losses": {"ce": {"weight": 1.0}},
            "recipe": {"lr": 1e-3, "weight_decay": 0.0, "crop": [64, 64], "batch_size": 2, "num_steps": 2},
        },
        "stages": [
            {
                "name": "students",
                "set": {"teacher": teachers["segformer"], **terms, **on_features},
                "grid": {"student": [*models.values()]},
            },
            {"name": "teachers", "set": {**terms, **on_logits}, "grid": {"teacher": [*teachers.values()]}},
        ],
    }


@pytest.mark.slow
def test_each_kind_learns_and_teaches(tmp_path: Path) -> None:
    (tmp_path / "others.yaml").write_text(yaml.safe_dump(study(tmp_path), sort_keys=False))
    done = kdtune("launch", tmp_path / "others.yaml", "--storage", tmp_path)
    assert done.returncode == 0, done.stderr
    rows = results("others", str(tmp_path)).table("trials").to_pylist()
    found = Counter((row["stage"], row["status"]) for row in rows)
    given = ("teacher", "completed")  # the one of the first stage, which is evaluated first
    assert found == {given: 1} | {(stage, "completed"): len(KINDS) for stage in ("students", "teachers")}, done.stderr
    history = results("others", str(tmp_path)).table("history").to_pylist()
    ended = [row for row in history if row["step"] == 2]
    assert len(ended) == 2 * len(KINDS)
    assert all(row[f"loss_{term}"] > 0 for row in ended for term in ("pi", "ifv", "cwd"))
