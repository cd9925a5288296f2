"""``best``, ``predict`` and ``export``: from a study's tables to masks and to files that other programs run."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from safetensors import safe_open

from kdtune.analysis import given
from kdtune.analysis.evaluation import evaluate
from kdtune.analysis.prediction import outputs
from kdtune.base import UserError
from kdtune.cli import main
from kdtune.datasets.demo import Demo
from kdtune.loading.images import read_directly
from kdtune.records.storage import Storage
from kdtune.training.site import Site
from kdtune.training.weights import WeightsRecord, read_record, weights_bytes
from tests.support import report_study
from tests.support.tiny import config
from tests.test_documents import DOCUMENTS, fences

SIZE = (48, 66)
DATA = {"dataset.size": list(SIZE), "dataset.num_val": 5}


def run(*words: str | Path, status: int = 0) -> str:
    """What a command prints."""
    done = CliRunner().invoke(main, [*map(str, words)])
    assert done.exit_code == status, done.output
    return done.stdout if status == 0 else done.stderr


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Storage:
    """The demo with its tables, and the weights of its last comparison."""
    where = Storage(str(tmp_path_factory.mktemp("storage")), "demo")
    for record in report_study.write(where, report_study.demo()):
        if record["row"]["stage"] in ("final", "student"):
            report_study.weights(where, record)
    return where


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network of random weights that says what it is."""
    torch.manual_seed(3)
    network = config().student.build(12)
    record = WeightsRecord(
        model=config().student.model_dump(mode="json"),
        num_classes=12,
        dataset="demo",
        classes=tuple(Demo.class_names),
    )
    file = tmp_path_factory.mktemp("weights") / "student.safetensors"
    file.write_bytes(weights_bytes(network, record))
    return file


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The validation images of a small demo as PNG, and their labels beside."""
    folder = tmp_path_factory.mktemp("photographs")
    split = read_directly(Demo(name="demo", size=SIZE, num_val=5), "val", None)
    (folder / "truth").mkdir()
    for i, name in enumerate(split.names):
        Image.fromarray(split.image(i)).save(folder / f"{name}.png")
        Image.fromarray(split.label(i)).save(folder / "truth" / f"{name}.png")
    return folder


# -- best


def test_best_hands_out_the_run_of_the_highest_miou_with_its_record(storage: Storage, tmp_path: Path) -> None:
    file = tmp_path / "student.safetensors"
    told = run("best", "demo", "--storage", storage.root, "--method", "pi+ho", "-o", file)
    rows = [row for row in storage.table("trials").to_pylist() if row["stage"] == "final"]
    winner = max((row for row in rows if row["method"] == "pi+ho"), key=lambda row: row["miou"])
    assert f"stage final, method pi+ho, trial {winner['trial_id']}" in told
    with safe_open(file, "pt") as ours, safe_open(storage.checkpoint_uri(winner["trial_id"]), "pt") as theirs:
        names = list(theirs.keys())
        assert list(ours.keys()) == names
        assert all(torch.equal(ours.get_tensor(name), theirs.get_tensor(name)) for name in names)
    record = read_record(str(file))
    assert record is not None
    assert record.model == json.loads(winner["config"])["student"]
    assert (record.dataset, record.classes) == ("demo", tuple(Demo.class_names))
    assert list(record.size or ()) == json.loads(winner["config"])["dataset"]["size"]
    assert record.source == {"study": "demo", "trial": winner["trial_id"]}
    assert record.result["miou"] == winner["miou"]
    assert record.result["miou_mean"] == pytest.approx(
        np.mean([row["miou"] for row in rows if row["method"] == "pi+ho"])
    )


def test_the_card_says_data_recipe_score_and_licences(storage: Storage, tmp_path: Path) -> None:
    run("best", "demo", "--storage", storage.root, "-o", tmp_path / "student.safetensors")
    card = (tmp_path / "student.md").read_text()
    for heading in ("Score", "Network", "Data", "Recipe", "Licences"):
        assert f"\n## {heading}\n" in card
    (table,) = [row for row in storage.table("final").to_pylist() if row["best"]]
    assert f"{table['miou_mean']:.2f} ± {table['miou_std']:.2f} %; the mean lies in" in card
    assert "against the tuned student alone: +" in card
    assert "one of 4 comparisons" in card
    assert "num_steps: 60" in card
    assert "drawn by kdtune" in card
    assert all(f"| {name} |" in card for name in Demo.class_names)


def test_before_the_comparison_the_best_of_all_stages_that_choose(tmp_path: Path) -> None:
    where = Storage(str(tmp_path / "storage"), "demo")
    records = report_study.write(where, report_study.demo(), stages=3)
    for record in records:
        report_study.weights(where, record)
    optimal = max(where.table("optimal").to_pylist(), key=lambda row: row["miou"])
    told = run("best", "demo", "--storage", where.root, "-o", tmp_path / "student.safetensors")
    assert optimal["trial_id"] in told
    assert "one seed: how much of this is luck is not known" in (tmp_path / "student.md").read_text()
    told = run("best", "demo", "--storage", where.root, "--stage", "teacher", "-o", tmp_path / "t.safetensors")
    assert "method teacher" in told


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--stage", "finall"], "no trial of a stage 'finall' (did you mean 'final'?)"),
        (["--method", "pa"], "no trial of a method 'pa'"),
        (["--stage", "weight-pi"], "student.safetensors: no such file: `kdtune pull --checkpoints`"),
        (["-o", "student.pth"], "-o student.pth: the output is a safetensors file"),
    ],
)
def test_what_best_refuses(storage: Storage, tmp_path: Path, words: list[str], says: str) -> None:
    output = [] if "-o" in words else ["-o", str(tmp_path / "x.safetensors")]
    told = run("best", "demo", "--storage", storage.root, *words, *output, status=2)
    assert says in told
    assert list(tmp_path.iterdir()) == []


def test_weights_that_are_not_the_trials_are_refused(tmp_path: Path) -> None:
    where = Storage(str(tmp_path / "storage"), "demo")
    study = report_study.demo()
    records = report_study.write(where, study, stages=3, given={"weights_sha256": "0" * 64})
    for record in records:
        report_study.weights(where, record)
    told = run("best", "demo", "--storage", where.root, "-o", tmp_path / "x.safetensors", status=2)
    assert "not the weights that the trial left; `kdtune launch demo --storage" in told


# -- predict


@pytest.mark.parametrize("window", [None, (32, 32)])
def test_masks_are_what_an_evaluation_counts(
    student: Path, photographs: Path, tmp_path: Path, window: tuple[int, int] | None
) -> None:
    tiles = ["--window", ",".join(map(str, window))] if window else []
    told = run("predict", student, photographs, "-o", tmp_path, *tiles)
    settings: dict[str, Any] = DATA | ({"recipe.eval_window": list(window)} if window else {})
    measured = evaluate(str(student), "demo", Site(), settings)
    truth, found = (
        np.concatenate([np.asarray(Image.open(path)).ravel() for path in sorted(folder.iterdir())])
        for folder in (photographs / "truth", tmp_path / "labels")
    )
    assert len(list((tmp_path / "labels").iterdir())) == 5
    found = found[truth != 255]
    truth = truth[truth != 255]
    for k, iou in enumerate(measured.per_class_iou):
        union = ((truth == k) | (found == k)).sum()
        assert (100 * ((truth == k) & (found == k)).sum() / union if union else None) == iou
    shares = [float(line.split()[-1]) for line in told.splitlines()[1:13]]
    assert sum(shares) == pytest.approx(100.0, abs=0.1)


def test_colours_and_overlay_are_the_datasets_and_of_the_images_size(
    student: Path, photographs: Path, tmp_path: Path
) -> None:
    image = sorted(photographs.glob("*.png"))[0]
    large = tmp_path / "large.jpg"
    Image.open(image).resize((133, 101)).save(large)
    run("predict", student, str(photographs / "*.png"), large, "-o", tmp_path / "out")
    for file in (image, large):
        masks, colour, overlay = (
            np.asarray(Image.open(tmp_path / "out" / kind / f"{file.stem}.png"))
            for kind in ("labels", "colour", "overlay")
        )
        pixels = np.asarray(Image.open(file).convert("RGB"))
        assert masks.dtype == np.uint8
        assert masks.shape == pixels.shape[:2]
        np.testing.assert_array_equal(colour, np.array(Demo.palette, np.uint8)[masks])
        np.testing.assert_array_equal(overlay, (0.5 * pixels + 0.5 * colour).round().astype(np.uint8))


def test_an_image_is_seen_at_the_size_that_the_dataset_had_and_answered_at_its_own(
    student: Path, photographs: Path, tmp_path: Path
) -> None:
    record = read_record(str(student))
    assert record is not None
    small = tmp_path / "small.safetensors"
    network = config().student.build(12)
    small.write_bytes(weights_bytes(network, record.model_copy(update={"size": (24, 32)})))
    plain = tmp_path / "plain.safetensors"
    plain.write_bytes(weights_bytes(network, record))
    image = sorted(photographs.glob("*.png"))[0]
    shrunk = tmp_path / image.name
    Image.open(image).resize((32, 24), Image.Resampling.BILINEAR).save(shrunk)
    run("predict", small, image, "-o", tmp_path / "a")
    run("predict", plain, shrunk, "-o", tmp_path / "b")
    ours, theirs = (np.asarray(Image.open(tmp_path / each / "labels" / image.name)) for each in "ab")
    assert ours.shape == SIZE
    rows, columns = (np.linspace(0, n - 1, m).round().astype(int) for n, m in zip(SIZE, theirs.shape, strict=True))
    assert (ours[rows][:, columns] == theirs).mean() > 0.9  # of the same logits, enlarged by more


@pytest.mark.parametrize(
    ("images", "says"),
    [
        (["nothing.png"], "nothing.png: no such image or folder"),
        (["my film.MP4"], "ffmpeg -i 'my film.MP4' 'my film-frames/%06d.png'`, then predict 'my film-frames'"),
        (["empty"], "empty: no image in this folder (*.jpg, *.jpeg, *.png)"),
        (["text.txt"], "text.txt: is no JPEG or PNG by its suffix"),
        (["a.png", "a.jpg"], "a.jpg: has the same name as a.png"),
        (["wide.png"], "wide.png: cannot be read (no JPEG or PNG by its content): the file is damaged, copy it again"),
    ],
)
def test_what_predict_refuses(
    student: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, images: list[str], says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    for name in ("text.txt", "a.png", "a.jpg", "wide.png"):
        (tmp_path / name).write_text("no image")
    told = run("predict", student, *images, "-o", "out", status=2)
    assert says in told
    assert len(told.splitlines()) == 1
    (tmp_path / "junk.safetensors").write_text("no weights")
    run("predict", "junk.safetensors", "a.png", "-o", "junk", status=2)
    assert not (tmp_path / "junk").exists()


def test_a_mask_replaces_no_image(tmp_path: Path) -> None:
    (tmp_path / "labels").mkdir()
    image = tmp_path / "labels" / "a.png"
    image.touch()
    with pytest.raises(UserError, match="which its mask would replace"):
        outputs([image], tmp_path)


# -- export


def test_readme_loads_what_best_and_export_write(
    student: Path, photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both of README's blocks of Python, one after the other, and ``predict`` say the same of an image."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "student.safetensors").write_bytes(student.read_bytes())
    image = sorted(photographs.glob("*.png"))[0]
    (tmp_path / "photo.png").write_bytes(image.read_bytes())
    told = run("export", student, "-o", "student.pt2", "--compare", photographs)
    assert "on 5 images: logits differ by" in told
    exported, plain = fences(DOCUMENTS["README.md"], "python")
    names: dict[str, Any] = {}
    exec(exported, names)
    assert names["logits"].shape == (1, 12, 240, 320)
    assert names["labels"].shape == (1, 240, 320)
    exec(plain, names)
    run("predict", student, "photo.png", "-o", "out")
    mask = np.asarray(Image.open("out/labels/photo.png"))
    assert (names["labels"][0].numpy() == mask).mean() > 0.999
    with torch.no_grad():
        logits, labels = names["run"](names["image"])
    assert (labels[0].numpy() == mask).mean() > 0.999
    assert logits.dtype == torch.float32


def test_onnx_answers_as_torch_does(student: Path, photographs: Path, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime", reason="pip install 'kdtune[export]'")
    file = tmp_path / "student.onnx"
    told = run("export", student, "-o", file, "--compare", photographs)
    assert "on 5 images: logits differ by" in told
    session = onnxruntime.InferenceSession(str(file))
    (given,) = session.get_inputs()
    assert (given.name, given.type, given.shape[1]) == ("image", "tensor(uint8)", 3)
    assert [(each.name, each.type) for each in session.get_outputs()] == [
        ("logits", "tensor(float)"),
        ("labels", "tensor(int64)"),
    ]
    assert json.loads(session.get_modelmeta().custom_metadata_map["kdtune"])["classes"] == list(Demo.class_names)
    for shape in ((1, 3, 33, 47), (3, 3, 64, 64)):
        logits, labels = session.run(None, {"image": np.zeros(shape, np.uint8)})
        assert logits.shape == (shape[0], 12, *shape[2:])
        assert labels.shape == (shape[0], *shape[2:])


def test_what_export_refuses(student: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "name the file *.onnx or *.pt2" in run("export", student, "-o", tmp_path / "x.tflite", status=2)
    monkeypatch.setattr(given, "PACKAGES", ("onnxruntime_that_is_not_there",))
    told = run("export", student, "-o", tmp_path / "x.onnx", status=2)
    assert "needs onnxruntime_that_is_not_there: pip install 'kdtune[export]'" in told
    told = run("export", student, "-o", tmp_path / "x.pt2", "--size", "64", status=2)
    assert "--size 64: needs height and width in pixels, e.g. 512,1024" in told
