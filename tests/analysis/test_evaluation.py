"""``kdtune evaluate``: the same number as the trial's own, and what it refuses."""

import subprocess
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from click.testing import CliRunner

from kdtune.analysis.comparison import compare
from kdtune.analysis.evaluation import evaluate
from kdtune.base import UserError
from kdtune.cli import main
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
    with pytest.raises(UserError, match=r"nothing: no such file, nor the folder of a trial"):
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


def test_two_networks_on_the_same_images(trained: tuple[Path, float], tmp_path: Path) -> None:
    """The trained one and one of random weights, by the command; the difference holds on other images."""
    checkpoint, _ = trained
    yaml = "{name: pspnet, backbone: resnet18, width: 0.0625}"
    torch.manual_seed(3)
    other = tmp_path / "other.pth"
    torch.save(config().student.build(12).state_dict(), other)
    settings = [
        word for path, value in (SAME | {"dataset.num_val": 12}).items() for word in ("--set", f"{path}={value}")
    ]
    words = ["--data", "demo", *settings, "--model", yaml]
    done = CliRunner().invoke(
        main, ["evaluate", str(other), str(checkpoint), *words, "-o", str(tmp_path / "both.parquet")]
    )
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert lines[:2] == [f"A: {other}", f"B: {checkpoint}"]
    first, second = pq.read_table(tmp_path / "both.parquet").to_pylist()
    alone = evaluate(str(checkpoint), "demo", SITE, SAME | {"dataset.num_val": 12})
    assert second["miou"] == alone.miou
    assert (first["checkpoint"], first["gain"]) == (str(other), None)
    assert second["gain"] == second["miou"] - first["miou"]
    assert second["gain_low"] < second["gain"] < second["gain_high"]
    (told,) = (line for line in lines if line.startswith("on other images like these"))
    assert (
        f"{second['gain_low']:+.2f} to {second['gain_high']:+.2f} points (95 %, paired bootstrap over 12 images)"
        in told
    )
    (mean,) = (line.split() for line in lines if line.startswith("mIoU"))
    assert mean == ["mIoU", f"{first['miou']:.2f}", f"{second['miou']:.2f}", f"{second['gain']:+.2f}"]
    assert sum(line.startswith(("A: 12 images", "B: 12 images")) for line in lines) == 2


def test_a_difference_that_few_images_do_not_tell(trained: tuple[Path, float]) -> None:
    checkpoint = str(trained[0])
    few = compare([checkpoint, checkpoint], "demo", SITE, SAME)
    assert "no interval for other images: 4 images: too few" in list(few.lines())
    same = compare([checkpoint, checkpoint], "demo", SITE, SAME | {"dataset.num_val": 12})
    assert same.gain == 0.0
    assert "no interval for other images: 12 images: all networks answer alike on them" in list(same.lines())


@pytest.mark.parametrize("words", [["a", "b", "c"], ["a", "--model", "{}", "--model", "{}"]])
def test_more_than_two(words: list[str]) -> None:
    done = CliRunner().invoke(main, ["evaluate", *words, "--data", "demo"])
    assert done.exit_code == 2
    assert "evaluate takes one file of weights, or two to compare" in done.stderr
