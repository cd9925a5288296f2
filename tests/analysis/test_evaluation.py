"""``kdtune evaluate``: the same number as the trial's own, and what it refuses."""

import subprocess
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

from kdtune.analysis.evaluation import evaluate
from kdtune.base import UserError
from kdtune.search.in_process import train
from kdtune.training.site import Site
from kdtune.training.weights import WeightsRecord, weights_bytes
from tests.support.launching import command
from tests.support.tiny import BASE, NETWORK, config

SITE = Site()
SAME = {f"dataset.{key}": value for key, value in BASE["dataset"].items() if key != "name"}  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float]:
    """The checkpoint's folder of a trial of six steps, and its last mIoU as the trial told it."""
    folder = tmp_path_factory.mktemp("trained")
    study = folder / "tiny.yaml"
    study.write_text(
        "name: tiny\nbase:\n  dataset: {name: demo, size: [32, 48], num_train: 8, num_val: 4}\n"
        "  student: {name: pspnet, backbone: resnet18, width: 0.0625}\n  losses: {ce: {weight: 1.0}}\n"
        "  recipe: {lr: 0.05, weight_decay: 5e-4, crop: [32, 48], batch_size: 2, num_steps: 6}\n"
        "stages: [{name: student}]\n"
    )
    lines = list(train(str(study), None, {}, None, None, str(folder)))
    told = [line for line in lines if line.startswith("step 6/6: mIoU ")]
    (checkpoint,) = (folder / "tiny" / "checkpoints").iterdir()
    return checkpoint, float(told[0].split()[3].rstrip(","))


def test_the_file_says_which_network_it_is(trained: tuple[Path, float]) -> None:
    checkpoint, miou = trained
    found = evaluate(str(checkpoint), "demo", SITE, SAME)
    assert found.miou == pytest.approx(miou, abs=0.005)
    assert found.images == 4
    assert len(found.per_class_iou) == 12
    assert found.seconds > 0
    assert evaluate(str(checkpoint / "student.safetensors"), "demo", SITE, SAME).miou == found.miou


def test_absent_classes_are_named_and_left_out_or_count_as_zero(trained: tuple[Path, float]) -> None:
    few = SAME | {"dataset.num_val": 1, "dataset.size": [16, 16]}
    skipped = evaluate(str(trained[0]), "demo", SITE, few)
    absent = skipped.per_class_iou.count(None)
    assert 0 < absent < 12
    zero = evaluate(str(trained[0]), "demo", SITE, few | {"recipe.absent_classes": "zero"})
    assert zero.miou == pytest.approx(skipped.miou * (12 - absent) / 12)
    assert any(line.startswith(f"{absent} of 12 classes") for line in skipped.lines())
    assert not any(line.startswith(f"{absent} of 12 classes") for line in zero.lines())


def test_the_command(trained: tuple[Path, float], tmp_path: Path) -> None:
    checkpoint, miou = trained
    settings = [word for path, value in SAME.items() for word in ("--set", f"{path}={value}")]
    words = command("evaluate", checkpoint, "--data", "demo", *settings, "-o", tmp_path / "found.parquet")
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert f"mIoU                 {miou:6.2f} [%]".split() == done.stdout.splitlines()[12].split()
    (row,) = pq.read_table(tmp_path / "found.parquet").to_pylist()
    assert row["miou"] == pytest.approx(miou, abs=0.005)
    assert row["images_per_second"] == pytest.approx(4 / row["seconds"])


def test_what_it_refuses(trained: tuple[Path, float], tmp_path: Path) -> None:
    network = config().student.build(12)
    bare = tmp_path / "bare.pth"
    torch.save(network.state_dict(), bare)
    with pytest.raises(UserError, match=r"bare\.pth: says not which network it is: name it with --model"):
        evaluate(str(bare), "demo", SITE, SAME)
    yaml = "{name: pspnet, backbone: resnet18, width: 0.0625}"
    assert evaluate(str(bare), "demo", SITE, SAME, yaml).images == 4

    checkpoint = str(trained[0])
    with pytest.raises(UserError, match=r"12 classes of demo apart, dataset 'camvid' has 11"):
        evaluate(checkpoint, "camvid", SITE, {})
    with pytest.raises(UserError, match=r"--data dem: unknown dataset 'dem' \(did you mean 'demo'\?\)"):
        evaluate(checkpoint, "dem", SITE, {})
    with pytest.raises(UserError, match=r"--set dataset\.sise: unknown key"):
        evaluate(checkpoint, "demo", SITE, {"dataset.sise": [32, 48]})
    with pytest.raises(UserError, match=r"--set student\.width: an evaluation has only dataset\.\* and recipe\.\*"):
        evaluate(checkpoint, "demo", SITE, {"student.width": 1})
    with pytest.raises(UserError, match=r"nothing: no such weights file"):
        evaluate(str(tmp_path / "nothing"), "demo", SITE, {}, yaml)


def test_a_file_does_not_choose_what_is_imported(tmp_path: Path) -> None:
    """A record may name a function of another package; only a person may have it called."""
    model = {"name": "external", "builder": "os:mkdir", "arguments": {"path": str(tmp_path / "made")}}
    file = tmp_path / "theirs.safetensors"
    file.write_bytes(weights_bytes(config().student.build(12), WeightsRecord(model=model, num_classes=12)))
    with pytest.raises(UserError, match=r"holds a network of another package \(os:mkdir\): give its --model"):
        evaluate(str(file), "demo", SITE, SAME)
    assert not (tmp_path / "made").exists()


def test_weights_of_another_depth(tmp_path: Path) -> None:
    file = tmp_path / "r18.pth"
    torch.save(config().student.build(12).state_dict(), file)
    with pytest.raises(UserError, match=r"weights of another architecture: .*missing"):
        evaluate(str(file), "demo", SITE, SAME, str(NETWORK | {"backbone": "resnet34"}))
