"""Teachers from files: imports against the authors' outputs, refusals, and a study fitted to its file's record."""

import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import torchvision
from click.testing import CliRunner
from torch import Tensor, nn

from kdtune.base import Preprocessing, SegOutput, UserError
from kdtune.cli import main
from kdtune.models.external import ExternalModel
from kdtune.models.pspnet import PSPNetModel
from kdtune.models.published import SKD_NAMES, layout_of
from kdtune.search.options import Options, adjusted
from kdtune.study.file import load_study
from kdtune.study.spec import StudySpec
from kdtune.study.trial_config import Teacher
from kdtune.training.teacher_import import CAFFE
from kdtune.training.teachers import network_words
from kdtune.training.trial import frozen_teacher
from kdtune.training.weights import WeightsRecord, read_record, weights_bytes
from tests.models.test_pspnet import case_of, golden, state_by_recipe
from tests.search.test_imported_teachers import in_layout
from tests.support.launching import command
from tests.support.small_study import write

CPU = torch.device("cpu")


def kdtune(*words: str | Path) -> str:
    """Runs a command in this process; its output."""
    result = CliRunner().invoke(main, list(map(str, words)), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def refused(*words: str | Path) -> str:
    """The one line of a command that ends with status 2."""
    result = CliRunner().invoke(main, list(map(str, words)), catch_exceptions=False)
    assert result.exit_code == 2, result.output
    (line,) = result.output.splitlines()
    return line.removeprefix("kdtune: ")


def through_kdtune(file: Path, *words: str) -> tuple[WeightsRecord, Callable[..., SegOutput]]:
    """The record of an imported file, and its network as a trial loads it."""
    out = file.with_suffix(".safetensors")
    kdtune("teacher", "import", file, "-o", out, *words)
    record = read_record(str(out))
    assert record is not None
    teacher = Teacher.model_validate({"model": record.model, "checkpoint": "given"})
    return record, frozen_teacher(teacher, str(out), record.num_classes, CPU)


@golden
@pytest.mark.parametrize(
    ("case_id", "words"),
    [
        ("skd_r18_129x129_v1", ["--plain-bn"]),
        ("skd_r18_96x128_v2", ["--plain-bn"]),
        ("skd_r18_absgamma_v3", []),
        ("skd_r101_129x129_v1", ["--plain-bn"]),
        ("semseg_psp50_c21_v1", []),
        ("semseg_psp101_c150_v1", []),
    ],
)
def test_an_imported_checkpoint_gives_the_authors_logits(tmp_path: Path, case_id: str, words: list[str]) -> None:
    case, arrays = case_of(case_id)
    layout = case_id.split("_")[0]
    state: Any = {f"module.{k}": v.float() for k, v in state_by_recipe(case["state_by_recipe"]).items()}
    if layout == "skd":
        state = {key: value for key, value in state.items() if not key.endswith("num_batches_tracked")}
    torch.save(state if layout == "skd" else {"epoch": 3, "state_dict": state, "optimizer": {}}, tmp_path / "t.pth")
    record, network = through_kdtune(tmp_path / "t.pth", "--layout", layout, *words)
    said = Preprocessing.model_validate(record.model["preprocessing"])
    assert said == (CAFFE if layout == "skd" else Preprocessing())
    assert record.source["layout"] == layout
    with torch.no_grad():
        logits = network(torch.from_numpy(arrays["in.x"]).float()).logits
    wanted = torch.from_numpy(arrays["out.logits" if layout == "skd" else "out.logits_every8"]).float()
    assert logits.shape == wanted.shape
    assert float((logits - wanted).abs().max()) <= 1e-4 * float(wanted.abs().max())


@pytest.mark.parametrize(
    ("name", "taps"),
    [
        ("deeplabv3_resnet50", {"layer1": 256, "layer2": 512, "layer3": 1024, "layer4": 2048, "psp": 256, "aux": 21}),
        ("fcn_resnet50", {"layer1": 256, "layer2": 512, "layer3": 1024, "layer4": 2048, "psp": 512, "aux": 21}),
        ("deeplabv3_mobilenet_v3_large", {"layer1": 24, "layer2": 40, "layer3": 112, "layer4": 160, "psp": 256}),
        ("lraspp_mobilenet_v3_large", {"layer1": 24, "layer2": 40, "layer3": 112, "layer4": 160, "psp": 128}),
    ],
)
def test_an_imported_network_of_torchvision(tmp_path: Path, name: str, taps: dict[str, int]) -> None:
    torch.manual_seed(3)
    aux = {"aux_loss": True} if "aux" in taps else {}
    theirs = torchvision.models.get_model(name, weights=None, weights_backbone=None, num_classes=21, **aux).eval()
    torch.save({"model": theirs.state_dict()}, tmp_path / "t.pth")
    record, network = through_kdtune(tmp_path / "t.pth", "--layout", "torchvision", "--dataset", "voc")
    assert record.classes is not None
    assert (record.dataset, record.num_classes, record.classes[:2]) == ("voc", 21, ("background", "aeroplane"))
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        output, wanted = network(image, frozenset(taps)), theirs(image)["out"]
    torch.testing.assert_close(output.logits, wanted)
    assert {tap: value.shape[1] for tap, value in output.taps.items()} == taps


@pytest.mark.parametrize(
    "fields",
    [
        {"backbone": "resnet18", "width": 0.125},
        {"backbone": "resnet34", "stem": "deep", "width": 0.25},
        {"backbone": "resnet18", "stem": "plain", "variant": "semseg"},
        {"backbone": "efficientnet_b0"},
        {"backbone": "mobilenet_v3_large"},
    ],
)
def test_kdtunes_own_weights_tell_their_network(tmp_path: Path, fields: dict[str, Any]) -> None:
    source = PSPNetModel.model_validate(fields).build(12).eval()
    torch.save(source.state_dict(), tmp_path / "t.pt")
    record, network = through_kdtune(tmp_path / "t.pt", "--layout", "kdtune", "--dataset", "demo")
    assert record.classes is not None
    image = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(network(image).logits, source(image).logits)


def test_what_an_import_prints(tmp_path: Path) -> None:
    source = PSPNetModel(backbone="resnet18", width=0.125).build(12)
    torch.save(source.state_dict(), tmp_path / "t.pt")
    out = tmp_path / "o.safetensors"
    words = ["teacher", "import", tmp_path / "t.pt", "-o", out, "--layout", "kdtune", "--dataset", "demo"]
    assert kdtune(*words).splitlines() == [
        "model: {backbone: resnet18, dropout: 0.1, name: pspnet, stem: plain, variant: skd, width: 0.125}",
        "classes: 12, demo",
        "preprocessing: rgb with ImageNet's mean and std",
        f"weights: {out}",
        f"next: kdtune launch STUDY --teacher {out}",
    ]
    before = out.read_bytes()
    assert refused(*words) == f"{out}: is there already; --force replaces it"
    assert kdtune(*words, "--force")
    assert out.read_bytes() == before


# Refusals


@pytest.fixture(scope="module")
def skd18() -> dict[str, Tensor]:
    """A state dict in SKD's layout."""
    state = PSPNetModel(backbone="resnet18", stem="deep").build(19).state_dict()
    return in_layout({k: v for k, v in state.items() if not k.endswith("num_batches_tracked")}, SKD_NAMES)


def without(state: dict[str, Tensor], *keys: str) -> dict[str, Tensor]:
    return {key: value for key, value in state.items() if key.removeprefix("module.") not in keys}


def deeper(state: dict[str, Tensor]) -> dict[str, Tensor]:
    block = {k.replace("layer4.1.", "layer4.2."): v for k, v in state.items() if "layer4.1." in k}
    return state | block


def with_nan(state: dict[str, Tensor]) -> dict[str, Tensor]:
    bad = state["module.layer1.0.bn1.weight"].clone()
    bad[3] = torch.nan
    return state | {"module.layer1.0.bn1.weight": bad}


@pytest.mark.parametrize(
    ("change", "words", "line"),
    [
        (None, ["--layout", "semseg"], "'conv1.weight' is no key of semseg's PSPNet; it looks like SKD's Res_pspnet"),
        (None, ["--layout", "torchvision"], "it looks like SKD's Res_pspnet: --layout skd"),
        (None, ["--dataset", "voc"], "tells 19 classes apart, dataset 'voc' has 21"),
        (None, ["--dataset", "cityscape"], "--dataset cityscape: unknown (did you mean 'cityscapes'?)"),
        (None, ["--model", "{name: pspnet, backbone: resnet34, stem: deep}"], "weights of another architecture"),
        (None, ["--model", "{name: pspnet, backbone: resnet19}"], "backbone: input should be 'resnet18'"),
        (None, ["--model", "nonsense"], "needs a mapping"),
        (deeper, [], "has 2, 2, 2, 3 basic blocks in its four layers, a depth that kdtune does not have; there are: "),
        (lambda s: without(s, "layer1.0.conv1.weight"), [], "1 missing, first backbone.layer1.0.conv1.weight"),
        (lambda s: without(s, "head.weight"), [], "1 missing, first classifier.weight"),
        (lambda s: s | {"layer1.0.odd": s["module.head.bias"]}, [], "1 unknown, first backbone.layer1.0.odd"),
        (lambda s: s | {"fc.weight": s["module.head.bias"]}, [], "'fc.weight' is no key of SKD's Res_pspnet"),
        (with_nan, [], "tensor 'layer1.0.bn1.weight' holds values that are not finite"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_one_line(
    tmp_path: Path, skd18: dict[str, Tensor], change: Any, words: list[str], line: str
) -> None:
    torch.save(change(skd18) if change else skd18, tmp_path / "t.pth")
    out = tmp_path / "o.safetensors"
    assert line in refused("teacher", "import", tmp_path / "t.pth", "-o", out, "--layout", "skd", *words)
    assert not out.exists()


class Touch:
    """Unpickling this runs a command of the shell."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (f"touch {self.path}",)


def test_a_checkpoint_that_runs_code_is_not_read(tmp_path: Path, skd18: dict[str, Tensor]) -> None:
    torch.save({"state_dict": skd18, "extra": Touch(tmp_path / "touched")}, tmp_path / "t.pth")
    line = refused("teacher", "import", tmp_path / "t.pth", "-o", tmp_path / "o.safetensors", "--layout", "skd")
    assert "posix.system, which is no tensor and could run code when it is read" in line
    study = write(tmp_path)
    assert "could run code" in refused("launch", study, "--storage", tmp_path / "runs", "--teacher", tmp_path / "t.pth")
    assert not (tmp_path / "touched").exists()


@pytest.mark.parametrize("legacy", [False, True])
def test_a_checkpoint_that_is_cut_off(tmp_path: Path, skd18: dict[str, Tensor], legacy: bool) -> None:
    torch.save(skd18, tmp_path / "t.pth", _use_new_zipfile_serialization=not legacy)
    whole = (tmp_path / "t.pth").read_bytes()
    (tmp_path / "cut.pth").write_bytes(whole[: len(whole) // 2])
    words = ["-o", tmp_path / "o.safetensors", "--layout", "skd"]
    assert "cut off or damaged" in refused("teacher", "import", tmp_path / "cut.pth", *words)
    assert "no such weights file" in refused("teacher", "import", tmp_path / "none.pth", *words)
    assert kdtune("teacher", "import", tmp_path / "t.pth", *words)


def test_an_output_of_another_kind(tmp_path: Path) -> None:
    (tmp_path / "t.pth").touch()
    words = ("teacher", "import", tmp_path / "t.pth", "-o", tmp_path / "o.pth", "--layout", "skd")
    assert "safetensors" in refused(*words)


# A study and its teacher's file

WIDE = PSPNetModel(backbone="resnet18", width=0.25)


def recorded(
    folder: Path, model: PSPNetModel = WIDE, classes: int | tuple[str, ...] = 12, dataset: str | None = None
) -> str:
    """Weights with a record, in a file."""
    count, names = (classes, None) if isinstance(classes, int) else (len(classes), classes)
    fields = model.model_dump(mode="json")
    record = WeightsRecord(model=fields, num_classes=count, classes=names, dataset=dataset)
    (folder / "given.safetensors").write_bytes(weights_bytes(model.build(count), record))
    return str(folder / "given.safetensors")


@pytest.fixture
def study(tmp_path: Path) -> StudySpec:
    return load_study(write(tmp_path))


def test_preprocessing_goes_from_the_record_to_every_trial(tmp_path: Path, study: StudySpec) -> None:
    given = recorded(tmp_path, WIDE.model_copy(update={"preprocessing": CAFFE, "dropout": 0.3}))
    fitted = adjusted(study, Options(teacher=given))
    stage = fitted.stage("final")
    final = stage.config(fitted.template_starts(stage), {"start": "distill", "seed": 11})
    for config in (fitted.templates()["distill"], final):
        assert config.teacher is not None
        assert config.teacher.model.preprocessing == CAFFE
    assert fitted.templates()["student"] == study.templates()["student"]
    assert adjusted(fitted, Options()) == fitted


def test_a_file_without_a_record_is_taken_as_it_is(tmp_path: Path, study: StudySpec) -> None:
    (tmp_path / "plain.safetensors").write_bytes(weights_bytes(WIDE.build(12)))
    torch.save(WIDE.build(12).state_dict(), tmp_path / "plain.pt")
    for name in ("plain.safetensors", "plain.pt", "not-there.pt"):
        fitted = adjusted(study, Options(teacher=str(tmp_path / name)))
        assert fitted.templates()["distill"].teacher.model == study.templates()["distill"].teacher.model  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"classes": 19, "dataset": "cityscapes"}, ["tells 19 classes of cityscapes apart, dataset 'demo' has 12"]),
        ({"model": PSPNetModel(backbone="resnet34", width=0.25)}, ["backbone='resnet34'", "backbone='resnet18'"]),
        (
            {"model": PSPNetModel(backbone="resnet18", width=0.5)},
            ["width=0.5", "width=0.25", "teacher.model.width=0.5"],
        ),
    ],
)
def test_a_teacher_that_does_not_fit_its_study(
    tmp_path: Path, study: StudySpec, fields: dict[str, Any], words: list[str]
) -> None:
    with pytest.raises(UserError) as caught:
        adjusted(study, Options(settings={"teacher.checkpoint": recorded(tmp_path, **fields)}))
    assert [word for word in words if word not in str(caught.value)] == []
    assert "\n" not in str(caught.value)


def test_a_given_teacher_brings_its_network_along(tmp_path: Path, study: StudySpec) -> None:
    given = recorded(tmp_path, PSPNetModel(backbone="resnet34", width=0.5))
    taken = adjusted(study, Options(teacher=given))
    for name in ("distill", "final"):
        models = [config.teacher.model for config in taken.templates_of(taken.stage(name)) if config.teacher]
        assert [(m.backbone, m.width) for m in models if isinstance(m, PSPNetModel)] == [("resnet34", 0.5)]
    assert taken.templates()["student"] == study.templates()["student"]
    assert network_words(study, taken) == [
        f"teacher {given}: its network is pspnet-resnet34-0.5, and takes the place of the study's pspnet-resnet18-0.25"
    ]
    same = adjusted(study, Options(teacher=recorded(tmp_path)))
    assert same.templates()["distill"].teacher.model == study.templates()["distill"].teacher.model  # type: ignore[union-attr]
    assert network_words(study, same) == []
    with pytest.raises(UserError, match=r"has width=0\.5, the study's teacher\.model width=0\.125"):
        adjusted(
            study,
            Options(
                teacher=recorded(tmp_path, PSPNetModel(backbone="resnet34", width=0.5)),
                settings={"teacher.model.width": 0.125},
            ),
        )


def test_a_given_teacher_brings_no_code_along(tmp_path: Path, study: StudySpec) -> None:
    hidden = {"hidden_size": 8, "attn_implementation": "somebodys/kernel"}
    for builder, arguments in {
        "os:mkdir": {},
        "tests.models.test_external:Small": {},
        "transformers:UperNetForSemanticSegmentation": {"backbone_config": {"auto_map": {"AutoConfig": "x.y"}}},
        "transformers:SegformerForSemanticSegmentation": hidden,
        "transformers:SegformerForSemanticSegmentation.from_pretrained": {},
    }.items():
        model = {"name": "external", "builder": builder, "arguments": arguments}
        record = WeightsRecord(model=model, num_classes=12, source={"layout": "transformers"})
        (tmp_path / "theirs.safetensors").write_bytes(weights_bytes(WIDE.build(12), record))
        with pytest.raises(UserError, match="the study's teacher"):
            adjusted(study, Options(teacher=str(tmp_path / "theirs.safetensors")))


def test_classes_in_another_order(tmp_path: Path, study: StudySpec) -> None:
    names = tuple(reversed(study.base.dataset.class_names))
    with pytest.raises(UserError, match=f"has '{names[0]}' as class 0, dataset 'demo' has '{names[-1]}'"):
        adjusted(study, Options(teacher=recorded(tmp_path, classes=names)))


def test_a_study_that_says_another_preprocessing(tmp_path: Path, study: StudySpec) -> None:
    given = recorded(tmp_path, WIDE.model_copy(update={"preprocessing": CAFFE}))
    settings = {"teacher.model.preprocessing": {"mean": [1, 2, 3]}}
    with pytest.raises(UserError, match=r"was trained with bgr, mean \[104.*is rgb, mean \[1.0, 2.0, 3.0\]"):
        adjusted(study, Options(teacher=given, settings=settings))


def test_a_sweep_of_teachers_that_want_other_preprocessings(tmp_path: Path) -> None:
    other = recorded(tmp_path, WIDE.model_copy(update={"preprocessing": CAFFE}))
    torch.save(WIDE.build(12).state_dict(), tmp_path / "t.pt")
    grid = f"losses.pi.temperature: [1, 2]\n      teacher.checkpoint: [{tmp_path}/t.pt, {other}]"
    path = write(tmp_path, ("losses.pi.temperature: [1, 2]", grid))
    with pytest.raises(UserError, match="sweep `teacher` as a whole"):
        adjusted(load_study(path), Options())


@pytest.mark.parametrize(("layout", "key"), [("skd", "pspmodule.x"), ("semseg", "layer0.0.weight")])
def test_a_published_layout_without_a_record_must_be_imported(
    tmp_path: Path, study: StudySpec, layout: str, key: str
) -> None:
    for name, save in (("t.pth", torch.save), ("t.safetensors", safetensors.torch.save_file)):
        save({f"module.{key}": torch.zeros(1)}, tmp_path / name)  # type: ignore[operator]
        with pytest.raises(UserError, match=f"kdtune teacher import .*{name} -o OUT.safetensors --layout {layout}"):
            adjusted(study, Options(teacher=str(tmp_path / name)))


def test_layouts_are_told_by_their_keys() -> None:
    assert layout_of(PSPNetModel(backbone="resnet18", width=0.125).build(3).state_dict()) == "kdtune"
    assert layout_of(["backbone.conv1.weight", "classifier.4.weight"]) == "torchvision"
    assert layout_of(["conv1.weight", "fc.weight"]) is None


@pytest.mark.parametrize(("name", "layout"), [("cityscapes-resnet", "skd"), ("voc-resnet", "semseg")])
def test_the_papers_studies_say_which_checkpoint_to_get(tmp_path: Path, name: str, layout: str) -> None:
    result = CliRunner().invoke(main, ["launch", name, "--storage", str(tmp_path)], catch_exceptions=False)
    assert result.exit_code == 2, result.output
    line = result.output.splitlines()[-1]  # before it, what else is missing
    for words in ("README of github.com/", f"--layout {layout} --dataset {name.split('-')[0]}", "--teacher OUT"):
        assert words in line


# External networks in a study

LRASPP = {
    "name": "external",
    "builder": "torchvision.models.segmentation:lraspp_mobilenet_v3_large",
    "arguments": {"weights": None, "weights_backbone": None},
    "output": "out",
}


def test_a_loss_whose_tap_is_not_named(tmp_path: Path) -> None:
    changes = [
        ("losses.pi: {weight: 0.1, temperature: 1.0}", "losses.ifv: {weight: 0.1}"),
        ("losses.pi.temperature: [1, 2]", "recipe.lr: [1, 2]"),
    ]
    done = CliRunner().invoke(main, ["studies", "validate", str(_with_teacher(write(tmp_path, *changes), LRASPP))])
    assert done.exit_code == 2
    (line,) = done.stderr.splitlines()
    assert "losses.ifv reads " in line
    assert "of the teacher, but teacher.model names no 'psp'; add taps: {psp: PATH}" in line


def _with_teacher(path: Path, model: dict[str, Any]) -> Path:
    text = path.read_text()
    old = "model: {name: pspnet, backbone: resnet18, width: 0.25}"
    assert old in text
    path.write_text(text.replace(old, f"model: {model}".replace("None", "null").replace("'", '"')))
    return path


def test_a_teacher_of_another_package_is_loaded_from_its_plain_checkpoint(tmp_path: Path) -> None:
    model = ExternalModel.model_validate(LRASPP)
    theirs: nn.Module = torchvision.models.get_model(
        "lraspp_mobilenet_v3_large", weights=None, weights_backbone=None, num_classes=12
    ).eval()
    torch.save(theirs.state_dict(), tmp_path / "t.safetensors.pt")
    network = frozen_teacher(Teacher(model=model, checkpoint="x"), str(tmp_path / "t.safetensors.pt"), 12, CPU)
    image = torch.randn(1, 3, 64, 64)
    assert torch.equal(network(image).logits, theirs(image)["out"])
    study = load_study(_with_teacher(write(tmp_path), LRASPP))
    adjusted(study, Options(teacher=str(tmp_path / "t.safetensors.pt")))


# Training

STEPS = ["--set", "recipe.num_steps=4", "--set", "recipe.eval_every=2"]


def weights_of(folder: Path) -> bytes:
    (path,) = folder.rglob("student.safetensors")
    return path.read_bytes()


def test_a_trained_teacher_is_one_that_launch_takes(tmp_path: Path) -> None:
    path = write(tmp_path)
    words = ["teacher", "train", path, *STEPS, "-o", tmp_path / "whole"]
    lines = kdtune(*words).splitlines()
    assert [line.split(":")[0] for line in lines[1:3]] == ["step 2/4", "step 4/4"]
    file = lines[-2].removeprefix("weights: ")
    assert lines[-1] == f"next: kdtune launch {path} --teacher {file}"
    record = read_record(file)
    assert record is not None
    assert (record.dataset, record.num_classes, record.model["width"]) == ("demo", 12, 0.25)
    adjusted(load_study(path), Options(teacher=file))
    assert [line for line in kdtune(*words).splitlines() if line.startswith("step")] == [], "what is finished stays"


def test_a_teachers_training_that_is_killed_goes_on(tmp_path: Path) -> None:
    path = write(tmp_path)
    kdtune("teacher", "train", path, *STEPS, "-o", tmp_path / "whole")
    words = ["teacher", "train", path, *STEPS, "-o", tmp_path / "cut"]
    unbuffered = os.environ | {"PYTHONUNBUFFERED": "1"}
    running = subprocess.Popen(command(*words), stdout=subprocess.PIPE, text=True, env=unbuffered)
    assert running.stdout is not None
    deadline = time.monotonic() + 120
    while "step 2/4" not in running.stdout.readline():
        assert time.monotonic() < deadline
    running.kill()
    running.wait()
    assert not list((tmp_path / "cut").rglob("student.safetensors"))
    again = kdtune(*words)
    assert "step 2/4" not in again
    assert "step 4/4" in again
    assert weights_of(tmp_path / "cut") == weights_of(tmp_path / "whole")


def test_a_study_without_a_teacher(tmp_path: Path) -> None:
    path = tmp_path / "alone.yaml"
    path.write_text(write(tmp_path).read_text().split("  - name: distill")[0])
    assert refused("teacher", "train", path) == "study 'small' has no teacher: none of its stages uses one"
