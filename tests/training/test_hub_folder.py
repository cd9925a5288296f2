"""A folder as transformers writes it, given as the teacher: network, classes, preprocessing, weights."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from kdtune.base import Preprocessing, UserError
from kdtune.cli import main
from kdtune.models.external import ExternalModel
from kdtune.search.options import Options, adjusted
from kdtune.study.file import load_study
from kdtune.study.spec import StudySpec
from kdtune.training.hub_folder import folder_fields, weights_of
from kdtune.training.trial import frozen_teacher
from kdtune.training.weights import read_record
from tests.models.test_transformers import SEGFORMER, UPERNET
from tests.support.small_study import write

PROCESSOR = {"image_mean": [0.5, 0.25, 0.75], "image_std": [0.5, 0.5, 0.5], "do_resize": True}


@pytest.fixture
def study(tmp_path: Path) -> StudySpec:
    return load_study(write(tmp_path))


def saved(folder: Path, study: StudySpec, fields: dict[str, Any] = SEGFORMER, **processor: Any) -> Any:
    """A network of random weights in such a folder; the classes are those of the study's dataset."""
    torch.manual_seed(0)
    names = study.base.dataset.class_names
    network: Any = ExternalModel.model_validate(fields).build(len(names)).network
    network.config.id2label = {i: name.replace(" ", "_").title() for i, name in enumerate(names)}
    network.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(PROCESSOR | processor))
    return network.eval()


@pytest.mark.parametrize("fields", [SEGFORMER, UPERNET], ids=["segformer", "upernet"])
def test_it_brings_network_classes_preprocessing_and_weights(
    tmp_path: Path, study: StudySpec, fields: dict[str, Any]
) -> None:
    theirs = saved(tmp_path / "hub", study, fields, size={"height": 64, "width": 96})
    taken = adjusted(study, Options(teacher=str(tmp_path / "hub")))
    teacher = taken.templates()["distill"].teacher
    assert teacher is not None
    assert teacher.checkpoint == str(tmp_path / "hub" / "model.safetensors")
    assert teacher.model.preprocessing == Preprocessing(mean=(127.5, 63.75, 191.25), std=(127.5, 127.5, 127.5))
    record = read_record(teacher.checkpoint)
    assert record is not None
    assert (record.num_classes, record.size) == (12, (64, 96))
    network = frozen_teacher(teacher, teacher.checkpoint, 12, torch.device("cpu"))
    image = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        made = network(image, frozenset({"psp"}))
        assert torch.equal(made.logits, theirs(image).logits)
    assert made.taps["psp"].shape[1] == 16


def test_other_classes_are_a_line_that_shows_both_lists(tmp_path: Path, study: StudySpec) -> None:
    network = saved(tmp_path, study, do_reduce_labels=True)
    names = [*reversed(study.base.dataset.class_names)]
    network.config.id2label = dict(enumerate(names))
    network.save_pretrained(tmp_path)
    with pytest.raises(UserError) as caught:
        adjusted(study, Options(teacher=str(tmp_path)))
    line = str(caught.value)
    assert f"has '{names[0]}' as class 0, dataset 'demo' has '{names[-1]}'" in line
    assert f"(the file's, of labels that it reduces by one: {', '.join(names)}; the dataset's: " in line
    assert line.endswith(f"{', '.join(reversed(names))})")


def test_it_is_evaluated_and_predicts_without_more_being_said(tmp_path: Path, study: StudySpec) -> None:
    saved(tmp_path / "hub", study)
    sizes = [f"dataset.{key}={value}" for key, value in {"size": "[32, 48]", "num_train": 2, "num_val": 2}.items()]
    words = ["evaluate", str(tmp_path / "hub"), "--data", "demo", *(w for s in sizes for w in ("--set", s))]
    done = CliRunner().invoke(main, words, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert "mIoU" in done.output


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"architectures": ["SegformerForImageClassification"]}, "not a class ...ForSemanticSegmentation"),
        ({"architectures": ["a.b:MineForSemanticSegmentation"]}, "not a class ...ForSemanticSegmentation"),
        ({"backbone": "somebody/network"}, "which another package would fetch"),
    ],
)
def test_folders_that_are_not_taken(tmp_path: Path, study: StudySpec, change: dict[str, Any], words: str) -> None:
    saved(tmp_path, study)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(UserError, match=words):
        adjusted(study, Options(teacher=str(tmp_path)))


@pytest.mark.parametrize(
    ("file", "change"),
    [
        ("config.json", {"architectures": {"a": 1}}),
        ("config.json", {"id2label": None, "num_labels": "many"}),
        ("preprocessor_config.json", {"rescale_factor": "a lot"}),
        ("preprocessor_config.json", {"rescale_factor": 0}),
        ("preprocessor_config.json", {"image_mean": 0.5}),
        ("preprocessor_config.json", {"size": {"height": [], "width": 8}}),
    ],
)
def test_values_of_no_kind_that_is_known(tmp_path: Path, file: str, change: dict[str, Any]) -> None:
    whole = {"model_type": "segformer", "architectures": ["SegformerForSemanticSegmentation"]}
    for name, content in (("config.json", whole), ("preprocessor_config.json", PROCESSOR)):
        (tmp_path / name).write_text(json.dumps(content | (change if name == file else {})))
    with pytest.raises(UserError, match=r"holds what transformers does not write there \(.+\); get the folder again"):
        folder_fields(str(tmp_path / "model.safetensors"))


def test_what_names_code_is_left_out(tmp_path: Path, study: StudySpec) -> None:
    saved(tmp_path, study, UPERNET)
    config = json.loads((tmp_path / "config.json").read_text())
    config |= {"auto_map": {"AutoModel": "theirs.Code"}, "_attn_implementation": "somebody/kernel"}
    config["backbone_config"] |= {"attn_implementation": "somebody/kernel", "auto_map": {}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    fields = folder_fields(str(tmp_path / "model.safetensors"))
    assert fields is not None
    assert "somebody" not in json.dumps(fields)
    assert "auto_map" not in json.dumps(fields)
    assert fields["model"]["arguments"]["backbone_config"]["model_type"] == "convnext"


def test_files_that_may_run_code_and_weights_in_parts(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80")
    with pytest.raises(UserError, match=r"no model\.safetensors; other files of weights may run code and are not read"):
        weights_of(str(tmp_path))
    (tmp_path / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(UserError, match="several files: save them as one"):
        weights_of(str(tmp_path))
    assert weights_of(str(tmp_path / "elsewhere")) == str(tmp_path / "elsewhere")
    assert folder_fields(str(tmp_path / "model.safetensors")) is None
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UserError, match=r"config\.json: not a JSON object, or damaged"):
        folder_fields(str(tmp_path / "model.safetensors"))
