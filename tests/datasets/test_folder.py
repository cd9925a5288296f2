"""Dataset ``folder`` and ``kdtune data init``: any folder of images and masks, described and then used as any other."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from click.testing import CliRunner
from PIL import Image
from pydantic import ValidationError

from kdtune import results
from kdtune.base import IGNORE, UserError
from kdtune.cli import main
from kdtune.datasets.camvid import CLASSES, CamVid
from kdtune.datasets.folder import AnyFolder
from kdtune.datasets.synth import write_synthetic
from kdtune.loading.pack import dataset_root
from kdtune.study.file import dataset_named, read
from kdtune.study.trial_config import TrialConfig
from kdtune.training.site import part
from tests.support.launching import kdtune
from tests.test_documents import DOCUMENTS, fences

SIZE = (48, 64)
COLOURS = np.array([*CLASSES.values(), (0, 0, 0)], np.uint8)
DATA_ROOT = Path(os.environ.get("KDTUNE_DATA_ROOT") or Path(__file__).resolve().parents[2].parent / "shared/data")
SECTION = DOCUMENTS["kdtune/datasets/README.md"].split("\n## A folder of your own\n")[1].split("\n## ")[0]


def run(*words: str | Path, status: int = 0) -> str:
    """What a command says, on both streams."""
    done = CliRunner().invoke(main, [*map(str, words)])
    assert done.exit_code == status, done.output
    return done.output


def in_colours(camvid: Path, root: Path, most: int | None = None) -> None:
    """CamVid as mmseg has its folders, masks in the colours of its classes, black where there is none."""
    for split in ("train", "val"):
        for folder in ("img_dir", "ann_dir"):
            (root / folder / split).mkdir(parents=True)
        for image in sorted((camvid / split).iterdir())[:most]:
            (root / "img_dir" / split / image.name).write_bytes(image.read_bytes())
            mask = np.asarray(Image.open(camvid / f"{split}annot" / f"{image.stem}.png"))
            Image.fromarray(COLOURS[mask]).save(root / "ann_dir" / split / f"{image.stem}.png")


def corrected(file: Path) -> None:
    """What a person does to the file: names for the classes, black to what is ignored."""
    data = yaml.safe_load(file.read_text())
    names = {colour: name for name, colour in CLASSES.items()}
    data["colours"] = [colour for colour in data["colours"] if colour != [0, 0, 0]]
    data["classes"] = [names[tuple(colour)] for colour in data["colours"]]
    data["ignore"] = [[0, 0, 0]]
    file.write_text(yaml.safe_dump(data))


def same_as_camvid(found: AnyFolder, camvid: Path) -> None:
    """Every pixel is what CamVid's own reader says, but for the order of the classes."""
    theirs = CamVid(name="camvid")
    order = [theirs.class_names.index(name) for name in found.class_names]
    number = np.full(256, IGNORE, np.uint8)
    number[: len(order)] = order
    root = dataset_root(found, None)
    for split in ("train", "val"):
        ours, wanted = found.samples(split, root), theirs.samples(split, camvid)
        assert [each.name for each in ours] == [each.name for each in wanted]
        for one, other in list(zip(ours, wanted, strict=True))[::7]:
            (image, label), (image_there, label_there) = found.read(split, one), theirs.read(split, other)
            np.testing.assert_array_equal(image, image_there)
            np.testing.assert_array_equal(number[label], label_there)


def launched(study: Path, storage: Path, *words: str) -> Path:
    """The README's study, launched with trials of a step; the weights of one of its students."""
    small = [f"recipe.{key}" for key in ("num_steps=1", "crop=[32,32]", "batch_size=2")]
    done = kdtune("launch", study, "--storage", storage, *(w for each in small for w in ("--set", each)), *words)
    assert done.returncode == 0, done.stderr
    trials = results("mine", str(storage)).table("trials").to_pylist()
    assert {(trial["status"], trial["steps_total"]) for trial in trials} == {("completed", 1)}
    assert {trial["stage"] for trial in trials} >= {"student"}
    found = next(trial["trial_id"] for trial in trials if trial["stage"] == "student")
    return storage / "mine/checkpoints" / found / "student.safetensors"


@pytest.mark.slow
def test_from_a_folder_to_a_trained_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The way that the README shows, by its own commands and study; the names of classes are corrected in between."""
    monkeypatch.chdir(tmp_path)
    write_synthetic("camvid", tmp_path / "camvid", 6, size=SIZE)
    in_colours(tmp_path / "camvid", tmp_path / "photographs")
    study = next(block for block in fences(SECTION, "yaml") if "stages:" in block)
    assert "kdtune data init photographs -o photographs.yaml" in SECTION
    told = run("data", "init", "photographs", "-o", "photographs.yaml")
    assert "6 images for train in img_dir/train, masks in ann_dir/train" in told
    assert "masks of colours: 12 different in 12 masks; pixels 64x48 (12)" in told
    corrected(tmp_path / "photographs.yaml")
    told = run("data", "check", "photographs.yaml")
    assert "11 classes" in told
    assert "train: 6 images; pixels 64x48 (6)" in told
    run("data", "pack", "photographs.yaml")
    found = dataset_named("photographs.yaml")
    assert isinstance(found, AnyFolder)
    same_as_camvid(found, tmp_path / "camvid")
    (tmp_path / "mine.yaml").write_text(study)
    weights = launched(tmp_path / "mine.yaml", tmp_path / "runs")
    told = run("evaluate", weights, "--data", "photographs.yaml")
    assert "bicyclist" in told
    run("predict", weights, "photographs/img_dir/val", "-o", "predicted")
    shown = np.asarray(Image.open(next((tmp_path / "predicted/colour").iterdir())))
    assert {tuple(each) for each in shown.reshape(-1, 3)} <= {tuple(each) for each in COLOURS.tolist()}


def described(folder: Path, images: int) -> Path:
    """The description of so many images of CamVid, their masks in colours, in that folder."""
    in_colours(DATA_ROOT / "camvid", folder, images)
    file = folder.with_suffix(".yaml")
    run("data", "init", folder, "-o", file)
    corrected(file)
    return file


@pytest.mark.slow
@pytest.mark.data
@pytest.mark.skipif(not (DATA_ROOT / "camvid").is_dir(), reason="no camvid/ in KDTUNE_DATA_ROOT or ../shared/data")
def test_a_handful_of_camvid_is_launched(tmp_path: Path) -> None:
    described(tmp_path / "photographs", 4)
    section = DOCUMENTS["kdtune/datasets/README.md"].split("\n## A folder of your own\n")[1].split("\n## ")[0]
    (tmp_path / "mine.yaml").write_text(next(block for block in fences(section, "yaml") if "stages:" in block))
    weights = launched(
        tmp_path / "mine.yaml", tmp_path / "runs", "--stage", "student", "--set", "dataset.size=[90,120]"
    )
    assert weights.is_file()


@pytest.mark.data
@pytest.mark.skipif(not (DATA_ROOT / "camvid").is_dir(), reason="no camvid/ in KDTUNE_DATA_ROOT or ../shared/data")
def test_camvid_as_colour_masks(tmp_path: Path) -> None:
    file = described(tmp_path / "colours", 30)
    found = dataset_named(str(file))
    assert isinstance(found, AnyFolder)
    assert set(found.class_names) == set(CLASSES)
    root = dataset_root(found, None)
    theirs = CamVid(name="camvid")
    for one, other in zip(found.samples("val", root), theirs.samples("val", DATA_ROOT / "camvid"), strict=False):
        assert one.name == other.name
        label, there = found.read("val", one)[1], theirs.read("val", other)[1]
        for k, name in enumerate(found.class_names):
            np.testing.assert_array_equal(label == k, there == theirs.class_names.index(name))


# -- what init finds


def png(path: Path, values: Any, palette: list[int] | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(np.asarray(values, np.uint8))
    if palette:
        image.putpalette(palette)
    image.save(path)


def photograph(path: Path, seed: int = 0) -> None:
    png(path, np.random.default_rng(seed).integers(0, 256, (24, 32, 3)))


MASK = np.arange(24 * 32).reshape(24, 32) // 256  # 0, 1, 2


def flat(root: Path) -> dict[str, Any]:
    for i in range(5):
        photograph(root / f"images/{i}.png", i)
        png(root / f"masks/{i}.png", MASK)
    return {"images": "images/*", "masks": "masks/*", "split": {"share": 0.2, "seed": 0}}


def beside(root: Path) -> dict[str, Any]:
    for i in range(5):
        photograph(root / f"frame{i}.png", i)
        png(root / f"frame{i}_mask.png", MASK)
    return {"images": "*", "masks": "*.png", "mask_ending": "_mask", "split": {"share": 0.2, "seed": 0}}


def listed(root: Path) -> dict[str, Any]:
    for i in range(5):
        photograph(root / f"JPEGImages/{i}.png", i)
        png(root / f"Masks/{i}.png", MASK, [0, 0, 0, 128, 0, 0, 0, 128, 0])
    (root / "sets").mkdir()
    (root / "sets/train.txt").write_text("0\n1\n2\n")
    (root / "sets/val.txt").write_text("JPEGImages/3.png Masks/3.png\n4.png\n")
    (root / "classes.txt").write_text("background\ncat\ndog\n")
    return {
        "images": "JPEGImages/*",
        "masks": "Masks/*",
        "split": {"train": "sets/train.txt", "val": "sets/val.txt"},
        "classes": ["background", "cat", "dog"],
        "colours": [[0, 0, 0], [128, 0, 0], [0, 128, 0]],
    }


def cityscapes_like(root: Path) -> dict[str, Any]:
    for split in ("train", "val"):
        for i in range(3):
            photograph(root / f"images/{split}/a_{i:03}_leftImg8bit.png", i)
            png(root / f"labels/{split}/a_{i:03}_gtFine_labelIds.png", 7 + MASK)
    return {
        "images": {"train": "images/train/*", "val": "images/val/*"},
        "masks": {"train": "labels/train/*", "val": "labels/val/*"},
        "ids": [7, 8, 9],
    }


@pytest.mark.parametrize("make", [flat, beside, listed, cityscapes_like], ids=lambda make: make.__name__)
def test_init_finds_pairs_splits_and_classes(tmp_path: Path, make: Callable[[Path], dict[str, Any]]) -> None:
    expected = make(tmp_path / "data")
    run("data", "init", tmp_path / "data", "-o", tmp_path / "d.yaml")
    data = yaml.safe_load((tmp_path / "d.yaml").read_text())
    assert {key: data.get(key) for key in expected} == expected
    found = dataset_named(str(tmp_path / "d.yaml"))
    root = dataset_root(found, None)
    train, val = (found.samples(split, root) for split in ("train", "val"))
    assert train
    assert val
    assert not {each.files[0] for each in train} & {each.files[0] for each in val}
    for sample in val:
        np.testing.assert_array_equal(found.read("val", sample)[1], MASK)
    run("data", "check", tmp_path / "d.yaml")


def test_init_says_what_it_does_not_find(tmp_path: Path) -> None:
    assert "no such folder" in run("data", "init", tmp_path / "x", "-o", tmp_path / "d.yaml", status=2)
    photograph(tmp_path / "photographs/a.png")
    told = run("data", "init", tmp_path / "photographs", "-o", tmp_path / "d.yaml", status=2)
    assert "no images and masks there that belong together" in told
    assert not (tmp_path / "d.yaml").exists()
    (tmp_path / "d.yaml").touch()
    told = run("data", "init", tmp_path / "photographs", "-o", tmp_path / "d.yaml", status=2)
    assert "d.yaml: is there already; --force replaces it" in told


def test_a_folder_that_is_not_there_is_told_by_its_description(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not where to unpack published data: nobody else has it."""
    monkeypatch.delenv("KDTUNE_DATA_ROOT", raising=False)
    text = (
        'name: folder\nroot: ROOT\nimages: {train: "a/*.png", val: "b/*.png"}\n'
        'masks: {train: "c/*.png", val: "d/*.png"}\nclasses: [road, sky]\n'
    )
    gone, file = tmp_path / "gone", tmp_path / "mine.yaml"
    file.write_text(text.replace("ROOT", str(gone)))
    for command in ("check", "pack"):
        told = run("data", command, file, status=2)
        assert told == f"kdtune: {gone}: no such folder: correct `root` in {file}\n"
    told = run("data", "check", file, "--root", tmp_path / "x", status=2)
    assert told == f"kdtune: {tmp_path}/x: no such folder: --root is the dataset's own one\n"
    assert "fetched from nowhere" in run("data", "fetch", file, status=2)
    correct = "correct `root` in the study, or in the file that it names as its dataset"
    with pytest.raises(UserError) as caught:  # as a launch
        dataset_named(str(file)).samples("train", gone)
    assert str(caught.value) == f"folder: no folder {gone}: {correct}"
    file.write_text(text.replace("ROOT", "photographs"))
    told = run("data", "check", file, status=2)
    assert told == (
        f"kdtune: {file}: its `root` is relative: needs --root DIR, the dataset's own folder, or KDTUNE_DATA_ROOT, the "
        "folder in which photographs lies\n"
    )
    with pytest.raises(UserError, match=r"DIR/photographs; or give an absolute `root` where it is described\."):
        dataset_root(dataset_named(str(file)), None)
    with pytest.raises(UserError) as caught:
        dataset_named(str(file)).samples("train", gone)
    assert str(caught.value).startswith(f"folder: no folder {gone}: {correct}, or --data-root: it is photographs/ of")
    file.write_text(text.replace("ROOT", "x").replace("b/*", "a/*"))
    assert "mine.yaml:1: needs images of each split" in run("data", "check", file, status=2)


# -- what a description may say


def folder(root: str | Path, **fields: Any) -> AnyFolder:
    given = {"images": "images/*", "masks": "masks/*", "split": {"share": 0.4}, "classes": ["a", "b", "c"]}
    return AnyFolder.model_validate({"name": "folder", "root": str(root), **given, **fields})


def test_masks_of_values(tmp_path: Path) -> None:
    flat(tmp_path)

    def label(**fields: Any) -> Any:
        found = folder(tmp_path, **fields)
        return found.read("val", found.samples("val", tmp_path)[0])[1]

    np.testing.assert_array_equal(label(), MASK)
    np.testing.assert_array_equal(label(ids=[2, 1, 0]), 2 - MASK)
    merged = label(classes=["ab", "c"], ids=[[0, 1], 2])
    np.testing.assert_array_equal(merged, (MASK == 2).astype(np.uint8))
    zero = label(classes=["b", "c"], reduce_zero_label=True, ignore=[0])
    np.testing.assert_array_equal(zero, np.where(MASK == 0, IGNORE, MASK - 1))
    rest = label(classes=["b", "c"], ids=[1, 2], ignore_rest=True)
    np.testing.assert_array_equal(rest, np.where(MASK == 0, IGNORE, MASK - 1))
    with pytest.raises(UserError, match=r"label value 2 at 256 pixel\(s\), but allowed are 0 to 1, and 255 for no"):
        label(classes=["a", "b"])


def test_masks_of_colours(tmp_path: Path) -> None:
    colours = np.array([[10, 20, 30], [0, 0, 0], [255, 0, 1]], np.uint8)
    for i in range(2):
        photograph(tmp_path / f"images/{i}.png", i)
        png(tmp_path / f"masks/{i}.png", colours[MASK])

    def label(**fields: Any) -> Any:
        found = folder(tmp_path, masks_are="colours", **fields)
        assert found.palette[0] == (10, 20, 30)
        return found.read("val", found.samples("val", tmp_path)[0])[1]

    np.testing.assert_array_equal(label(colours=colours.tolist()), MASK)
    merged = label(classes=["a", "c"], colours=[[[10, 20, 30], [0, 0, 0]], [255, 0, 1]])
    np.testing.assert_array_equal(merged, MASK == 2)
    void = label(classes=["a", "c"], colours=[[10, 20, 30], [255, 0, 1]], ignore=[[0, 0, 0]])
    np.testing.assert_array_equal(void == IGNORE, MASK == 1)
    with pytest.raises(UserError, match=r"colour \(0, 0, 0\) at 256 pixel\(s\) is of no class"):
        label(classes=["a", "c"], colours=[[10, 20, 30], [255, 0, 1]])


def test_names_that_repeat_are_told_apart_by_their_folders(tmp_path: Path) -> None:
    for recording in ("one", "two"):
        for i in range(2):
            photograph(tmp_path / f"images/{recording}/{i}.png", i)
            png(tmp_path / f"masks/{recording}/{i}.png", MASK if recording == "one" else 2 - MASK)
    found = folder(tmp_path, images="images/**/*.png", masks="masks/**/*.png")
    samples = [each for split in ("train", "val") for each in found.samples(split, tmp_path)]
    assert sorted(each.name for each in samples) == ["one/0", "one/1", "two/0", "two/1"]
    for each in samples:
        np.testing.assert_array_equal(found.read("val", each)[1], MASK if each.name.startswith("one") else 2 - MASK)


def test_what_does_not_belong_together_is_a_fault(tmp_path: Path) -> None:
    flat(tmp_path)
    (tmp_path / "masks/3.png").rename(tmp_path / "masks/7.png")
    told = [str(fault) for fault in folder(tmp_path).find("train", tmp_path).faults]
    assert any("images/3.png: has no mask 3.png" in line for line in told)
    assert any("masks/7.png: is a mask without an image" in line for line in told)
    (tmp_path / "val.txt").write_text("1\n9\n")
    split = {"train": "val.txt", "val": "val.txt"}
    told = [str(fault) for fault in folder(tmp_path, split=split).find("val", tmp_path).faults]
    assert any("val.txt: names '9', but no such image is there" in line for line in told)


# -- what leads out, what contradicts itself


@pytest.mark.parametrize(
    "fields",
    [
        {"images": "../*"},
        {"images": "/etc/*"},
        {"masks": "a/../../*"},
        {"images": "~/x/*"},
        {"root": "../x"},
        {"root": ""},
        {"split": {"train": "../t.txt", "val": "v.txt"}},
        {"split": {"share": 0.5, "train": "t.txt", "val": "v.txt"}},
        {"split": None},
        {"images": "a**b"},
        {"classes": ["a", "a", "b"]},
        {"classes": ["a"]},
        {"ids": [0, 1]},
        {"ids": [0, 1, 1]},
        {"ids": [0, 1, 255]},
        {"ids": [0, 1, 256]},
        {"ids": [0, 1, 2], "reduce_zero_label": True},
        {"ignore": [[0, 0, 0]]},
        {"masks_are": "colours"},
        {"masks_are": "colours", "colours": [[0, 0, 0], [1, 1, 1], [2, 2, 2]], "ignore": [3]},
    ],
    ids=str,
)
def test_what_is_refused(tmp_path: Path, fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        folder(fields.pop("root", tmp_path), **fields)


def test_links_lead_out_only_where_that_is_asked_for(tmp_path: Path) -> None:
    flat(tmp_path / "data")
    (tmp_path / "secret.png").write_bytes((tmp_path / "data/images/0.png").read_bytes())
    (tmp_path / "data/images/0.png").unlink()
    (tmp_path / "data/images/0.png").symlink_to(tmp_path / "secret.png")
    root = tmp_path / "data"
    with pytest.raises(UserError, match=r"is a link to .*secret\.png, outside of the dataset's root"):
        folder(root).samples("train", root)
    assert folder(root, follow_links=True).samples("train", root)


def test_a_study_takes_its_datasets_file_from_beside_it_alone(tmp_path: Path) -> None:
    flat(tmp_path / "data")
    inner = tmp_path / "studies"
    inner.mkdir()
    run("data", "init", tmp_path / "data", "-o", inner / "d.yaml")
    text = (
        "name: own\nbase:\n  dataset: d.yaml\n  student: {name: pspnet, backbone: resnet18}\n"
        "  losses: {ce: {weight: 1.0}}\n  recipe: {lr: 1e-2, weight_decay: 5e-4, num_steps: 2}\nstages: [{name: a}]\n"
    )
    (inner / "s.yaml").write_text(text)
    faults, spec = read(inner / "s.yaml")
    assert faults == []
    assert spec is not None
    assert spec.base.dataset.num_classes == 3
    (tmp_path / "d.yaml").write_bytes((inner / "d.yaml").read_bytes())
    (inner / "link.yaml").symlink_to(tmp_path / "d.yaml")
    for elsewhere in ("../d.yaml", str(tmp_path / "d.yaml"), "link.yaml"):
        (inner / "s.yaml").write_text(text.replace("d.yaml", elsewhere))
        (line,) = read(inner / "s.yaml")[0]
        assert line.endswith(
            f"s.yaml:3: base.dataset: '{elsewhere}' is not below the study's own folder: put the dataset's file there"
        )
    (inner / "d.yaml").write_text("name: folder\nroot: /x\nimagse: a/*\n")
    (inner / "s.yaml").write_text(text)
    (line,) = read(inner / "s.yaml")[0]
    assert "d.yaml:3: imagse: unknown key (did you mean 'images'?)" in line


def test_where_it_lies_is_no_part_of_what_a_trial_is(tmp_path: Path) -> None:
    recipe = {"lr": 0.1, "weight_decay": 0.0, "num_steps": 1}
    network = {"name": "pspnet", "backbone": "resnet18"}

    def trial(root: str, **fields: Any) -> TrialConfig:
        data = folder(tmp_path, **fields).model_dump(mode="json") | {"root": root}
        losses = {"ce": {"weight": 1.0}}
        return TrialConfig.model_validate({"dataset": data, "student": network, "losses": losses, "recipe": recipe})

    here, there, other = trial("/a"), trial("b"), trial("/a", size=[8, 8])
    assert here.trial_id("x") == there.trial_id("x") != other.trial_id("x")
    assert part(here.dataset, "val") == part(there.dataset, "val") != part(other.dataset, "val")
    assert dataset_root(here.dataset, None) == Path("/a")
    assert dataset_root(there.dataset, "/data") == Path("/data/b")
    with pytest.raises(UserError, match="needs --data-root DIR"):
        dataset_root(there.dataset, None)
