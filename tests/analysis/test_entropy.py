"""The teacher's entropy: against float64, shards, memory, the command on real data, a real cluster, what it refuses."""

import io
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from kdtune.analysis import entropy, entropy_counts
from kdtune.analysis.entropy_counts import BINS, UNITS, Asked, Counts, count, tally
from kdtune.analysis.entropy_run import measure, teacher_of
from kdtune.base import UserError
from kdtune.bench.entropy import entropy as bench
from kdtune.bench.entropy import exact
from kdtune.datasets.synth import write_synthetic
from kdtune.filesystem.folder import Folder
from kdtune.models import MODELS
from kdtune.records.storage import Storage
from kdtune.search.options import Options
from kdtune.study.trial_config import TrialConfig
from kdtune.training.site import Site
from kdtune.training.weights import weights_bytes
from tests.support.launching import STUDY, kdtune, write_study
from tests.support.ray_cluster import RayCluster, ray_cluster
from tests.support.tiny import NETWORK, config, finished, study, write_tables

TAUS = (1.0, 2.0, 4.0, 8.0, 16.0)
SMALL = Asked(images=6, crop=(24, 32))
DATA_ROOT = Path(os.environ.get("KDTUNE_DATA_ROOT") or Path(__file__).resolve().parents[2].parent / "shared/data")


def smooth(classes: int, scale: float = 5.0, size: int = 256) -> Tensor:
    """Logits (K, size, size) as a network's, enlarged from a few cells."""
    torch.manual_seed(classes)
    cells = scale * torch.randn(1, classes, 33, 33)
    return F.interpolate(cells, size=(size, size), mode="bilinear", align_corners=True)[0]


def one_hot(classes: int, height: float, hot: int = 1) -> Tensor:
    logits = torch.zeros(classes, 64, 64)
    logits[:hot] = height
    return logits


HARD = {
    "smooth": smooth(19, size=768),
    "150 classes": smooth(150),
    "two classes": smooth(2),
    "magnitude 1e3": smooth(19, 1e3),
    "magnitude 1e4": smooth(19, 1e4),
    "bf16": smooth(19).bfloat16().float(),
    "uniform": torch.full((19, 64, 64), 7.3),
    "nearly uniform": 1e-3 * smooth(19),
    "one-hot": one_hot(19, 30.0),
    "one-hot 1e4": one_hot(19, 1e4),
    "a tie among four": one_hot(4, 1e4, hot=2),
    "three values": torch.randint(-1, 2, (16, 128, 128), generator=torch.Generator().manual_seed(0)).float(),
}


@pytest.mark.parametrize("name", HARD)
def test_bins_are_those_of_float64(name: str) -> None:
    """To a share of 1e-5 of 590,000 pixels; in the smaller ones to a few pixels, which lie on an edge by chance."""
    logits = HARD[name]
    found, pixels = tally(logits, TAUS, 0.1), logits[0].numel()
    most = math.log(len(logits))
    for i, temperature in enumerate(TAUS):
        reference = exact(logits, temperature).numpy()
        assert np.abs(found.bins[i] - reference).max() <= max(4, 1e-5 * pixels)
        log_p = F.log_softmax(logits.double() / temperature, dim=0)
        values = -(log_p.exp() * log_p).sum(0)
        assert abs(found.below[i] - int((values < 0.1).sum())) <= 1
        assert found.sums[i] / UNITS / pixels == pytest.approx(float(values.mean()), abs=2e-6)
        assert found.bins[i].sum() == pixels
        assert 0 <= found.sums[i] / UNITS / pixels <= most * (1 + 1e-6)


def test_the_ends_belong_to_the_first_and_the_last_bin() -> None:
    assert tally(one_hot(19, 1e4), (1.0,), 0.1).bins[0, 0] == 64 * 64
    assert tally(torch.zeros(19, 64, 64), (1.0,), 0.1).bins[0, -1] == 64 * 64


def test_logits_that_are_not_finite_are_refused() -> None:
    logits = smooth(4)
    logits[0, 3, 3] = math.nan
    with pytest.raises(UserError, match="logits are not finite"):
        tally(logits, TAUS, 0.1)


def test_threads_give_the_same_counts_and_leave_the_number_of_threads() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        with entropy_counts.threads() as spread:
            assert spread is not map
            several = tally(HARD["150 classes"], TAUS, 0.1, spread)
            assert torch.get_num_threads() == 3
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
    same(several, tally(HARD["150 classes"], TAUS, 0.1))


def same(one: Counts, other: Counts) -> None:
    for name in ("bins", "below", "sums"):
        assert (getattr(one, name) == getattr(other, name)).all(), name
    assert (one.images, one.smaller, one.available) == (other.images, other.smaller, other.available)


def with_teacher(file: Path, dataset: dict[str, object] | None = None) -> TrialConfig:
    teacher = {"model": NETWORK, "checkpoint": str(file)}
    return config({"teacher": teacher, "losses.pi": {"weight": 1.0}} | ({"dataset": dataset} if dataset else {}))


def write_teacher(folder: Path, classes: int = 12) -> Path:
    """Random weights, except that the last layer's are large enough to prefer classes."""
    torch.manual_seed(5)
    network = MODELS.resolve("pspnet").model_validate(NETWORK).build(classes)
    with torch.no_grad():
        network.classifier.weight.mul_(20)
    file = folder / "teacher.safetensors"
    file.write_bytes(weights_bytes(network))
    return file


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_teacher(tmp_path_factory.mktemp("teacher"))


@pytest.mark.parametrize("upsampled", [True, False])
def test_shards_add_up_to_the_whole(file: Path, upsampled: bool, one_thread: None) -> None:
    asked = Asked(images=7, crop=(24, 32), upsampled=upsampled)
    trial = with_teacher(file)
    whole = count(trial, str(file), asked, Site(pack="never"))
    shards = [count(trial, str(file), asked, Site(pack="never"), (i, 3)) for i in range(3)]
    assert [shard.images for shard in shards] == [3, 2, 2]
    same(shards[2] + shards[0] + shards[1], whole)
    assert whole.pixels == 7 * (24 * 32 if upsampled else 3 * 4)
    assert whole.available == 8


def test_crops_follow_seed_and_index_alone() -> None:
    asked = Asked(images=5, crop=(24, 32))
    assert asked.chosen(8) == asked.chosen(8)
    assert len(set(asked.chosen(8))) == 5
    assert asked.chosen(3) == [0, 1, 2]
    rows, columns = asked.window(4, 96, 128)
    assert (rows.stop - rows.start, columns.stop - columns.start) == (24, 32)
    assert asked.window(4, 96, 128) == Asked(images=3, crop=(24, 32)).window(4, 96, 128)
    places = {asked.window(index, 96, 128)[0].start for index in range(40)}
    assert min(places) >= 0
    assert max(places) <= 72
    assert len(places) > 10
    assert asked.window(4, 96, 128) != Asked(crop=(24, 32), seed=1).window(4, 96, 128)
    assert asked.window(0, 20, 20) == (slice(0, 20), slice(0, 20))


def test_memory_does_not_grow_with_the_images(file: Path) -> None:
    """Enlarged logits of a crop of 192 x 192 are 1.8 MB: thirty of them kept would be seen."""
    program = (
        "import sys; from pathlib import Path\n"
        "from kdtune.bench.terms import _resident\n"
        "from kdtune.analysis.entropy_counts import Asked, count\n"
        "from kdtune.training.site import Site\n"
        "from tests.analysis.test_entropy import with_teacher\n"
        "data = {'name': 'demo', 'size': [192, 192], 'num_train': 40}\n"
        "trial = with_teacher(Path(sys.argv[1]), data)\n"
        "for images in (10, 40):\n"
        "    count(trial, sys.argv[1], Asked(images=images, crop=(192, 192)), Site(pack='never'))\n"
        "    print(_resident('VmHWM'))\n"
    )
    words = [sys.executable, "-c", program, str(file)]
    done = subprocess.run(words, capture_output=True, text=True, check=False, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    few, many = map(int, done.stdout.split())
    assert many - few < 16 * 2**20


# The command


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A study whose teacher one of its stages makes."""
    return write_study(tmp_path)


def test_the_command_with_a_file(small: Path, tmp_path: Path) -> None:
    wide = tmp_path / "wide.safetensors"
    torch.manual_seed(3)
    wide.write_bytes(weights_bytes(MODELS.resolve("pspnet").model_validate(NETWORK | {"width": 0.125}).build(12)))
    words = ["teacher", "entropy", small, "--teacher", wide, "--storage", tmp_path / "runs"]
    done = kdtune(*words, "--temperatures", "16,1", "--threshold", "0.2")
    assert done.returncode == 0, done.stderr
    folder = Folder(str(tmp_path / "runs" / "tiny"))
    assert {"entropy.parquet", "entropy.svg", "entropy.png"} <= set(folder.names())
    table = entropy.stored(folder)
    assert table is not None
    assert table.schema.equals(entropy.SCHEMA)
    assert table.num_rows == 2 * BINS
    row = table.slice(0, 1).to_pylist()[0]
    assert (row["classes"], row["images"], row["crop"], row["upsampled"]) == (12, 8, "512x512", True)
    assert row["teacher"].startswith("sha256:")
    for rows in entropy.by_temperature(table):
        assert sum(each["pixels"] for each in rows) == 8 * 32 * 48
        assert sum(each["share"] for each in rows) == pytest.approx(1)
        assert rows[0]["low"] == 0
        assert rows[-1]["high"] == pytest.approx(math.log(12))
        assert rows[0]["low"] <= rows[0]["median"] <= rows[-1]["high"]
    assert "note: demo has 8 images (train), fewer than the 800 asked for: 12,288 pixels in all" in done.stderr
    assert "note: 8 of 8 images are smaller than the crop of 512 x 512" in done.stderr
    assert [line.split()[0] for line in done.stdout.splitlines()[2:5]] == ["τ", "1", "16"]
    assert "below 0.2 nats" in done.stdout
    assert f"the maximum is ln 12 = {math.log(12):.3f}" in done.stdout
    again = kdtune(*words, "--temperatures", "16,1", "--threshold", "0.2", "-o", tmp_path / "fig1")
    assert again.returncode == 0, again.stderr
    assert (tmp_path / "fig1.svg").read_bytes() == (tmp_path / "runs" / "tiny" / "entropy.svg").read_bytes()
    assert pq.read_table(tmp_path / "fig1.parquet").equals(table)


def test_the_teacher_of_a_finished_stage(tmp_path: Path) -> None:
    """The best trial's weights, by the table alone, as after `kdtune pull --checkpoints`."""
    spec, where = study(), Storage(str(tmp_path), "tiny")
    with pytest.raises(UserError, match="'teacher', which makes the teacher, has no finished trial there: launch it"):
        teacher_of(spec, where)
    record = finished("teacher", 30.0)
    trial_id = record["row"]["trial_id"]
    write_tables(where, {"teacher": [trial_id]}, {trial_id: record})
    with pytest.raises(UserError, match=r"the weights of the teacher are not there"):
        teacher_of(spec, where)
    where.write_weights(trial_id, config().student.build(12))
    found = teacher_of(spec, where)
    assert found.identity == f"trial:{trial_id}"
    assert found.source == where.checkpoint_uri(trial_id)
    assert count(found.config, found.source, SMALL, Site(pack="never")).pixels == 6 * 24 * 32


def test_a_trial_that_did_not_complete_is_no_teacher(tmp_path: Path) -> None:
    where = Storage(str(tmp_path), "tiny")
    record = finished("teacher", None, status="diverged")
    write_tables(where, {"teacher": [record["row"]["trial_id"]]}, {record["row"]["trial_id"]: record})
    with pytest.raises(UserError, match="has no finished trial"):
        teacher_of(study(), where)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--temperatures", "1,0"], "--temperatures 1,0: each must be above 0, e.g. 1,2,4,8,16"),
        (["--temperatures", "1,nan"], "--temperatures 1,nan: each must be above 0"),
        (["--temperatures", "2,2"], "--temperatures 2,2: one stands there twice"),
        (["--temperatures", "warm"], "--temperatures warm: needs numbers separated by commas"),
        (["--images", "0"], "--images 0: leaves no image"),
        (["--crop", "512"], "--crop 512: needs 2 whole numbers separated by commas, e.g. 512,512"),
        (["--crop", "0,8"], "--crop 0,8: height and width must be 1 or more"),
        (["--threshold", "0"], "--threshold 0: must be above 0 nats"),
        (
            ["--teacher", "absent.pth"],
            "teacher.checkpoint: no such file 'absent.pth'; give a checkpoint with --teacher",
        ),
        ([], "which makes the teacher, has no finished trial there"),
    ],
)
def test_one_line_for_what_a_user_can_mend(
    words: list[str], line: str, small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from click.testing import CliRunner

    from kdtune.cli import main

    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(main, ["teacher", "entropy", str(small), "--storage", "runs", *words])
    assert result.exit_code == 2, result.output
    assert line in result.stderr
    assert result.stderr.count("\n") == 1
    assert not Path("runs").exists()


def test_a_study_without_a_teacher_and_one_whose_window_forbids_it(file: Path, tmp_path: Path) -> None:
    alone = tmp_path / "alone.yaml"
    alone.write_text(
        "name: alone\nbase:\n  dataset: {name: demo}\n  student: {name: pspnet, backbone: resnet18}\n"
        "  losses: {ce: {weight: 1.0}}\n  recipe: {lr: 0.1, weight_decay: 0, num_steps: 2}\nstages: [{name: student}]\n"
    )
    with pytest.raises(UserError, match="study 'alone' has no teacher: none of its stages uses one"):
        measure(str(alone), Asked(), Options())
    tiled = Options(teacher=str(file), settings={"recipe.eval_window": [16, 16], "teacher.model.width": 0.0625})
    with pytest.raises(UserError, match=r"--whole --no-upsample: recipe\.eval_window joins enlarged tiles"):
        measure(str(write_study(tmp_path)), Asked(crop=None, upsampled=False), tiled, storage=str(tmp_path))
    table = measure(str(write_study(tmp_path)), Asked(crop=None), tiled, storage=str(tmp_path))
    assert table["crop"][0].as_py() == "whole"


@pytest.mark.data
@pytest.mark.skipif(not (DATA_ROOT / "camvid").is_dir(), reason="no camvid/ in KDTUNE_DATA_ROOT or ../shared/data")
def test_photographs(tmp_path: Path) -> None:
    """CamVid's images are 360 x 480: the crop ends where they do, and the number of pixels is theirs."""
    file = write_teacher(tmp_path, classes=11)
    found = count(
        with_teacher(file, {"name": "camvid"}), str(file), Asked(images=2), Site(str(DATA_ROOT), pack="never")
    )
    assert (found.images, found.smaller, found.available) == (2, 2, 367)
    assert found.pixels == 2 * 360 * 480


# The figure


@pytest.fixture(scope="module")
def table(file: Path) -> pa.Table:
    trial = with_teacher(file)
    return entropy.table(count(trial, str(file), SMALL, Site(pack="never")), SMALL, trial, "tiny", "trial:x")


def test_the_figure_has_the_shares_the_maximum_and_its_units(table: pa.Table) -> None:
    made = entropy.figure(table)
    assert len(made.axes) == len(TAUS)
    for panel, rows in zip(made.axes, entropy.by_temperature(table), strict=True):
        heights, edges, _ = panel.patches[0].get_data()  # type: ignore[attr-defined]
        assert heights == pytest.approx([100 * row["share"] for row in rows])
        assert edges[-1] == pytest.approx(math.log(12))
        assert panel.lines[0].get_xdata()[0] == pytest.approx(math.log(12))  # type: ignore[index]
    svg = entropy.drawn(table, "svg")
    for word in ("[nats]", "τ = 16", "ln 12", "share of the pixels"):
        assert word in svg.decode(), word
    assert svg == entropy.drawn(table, "svg")
    picture = Image.open(io.BytesIO(entropy.drawn(table, "png")))
    assert min(picture.size) > 600


def test_the_bench(tmp_path: Path) -> None:
    def measured() -> tuple[str, dict[str, float]]:
        told = bench([3], 2, 1, str(tmp_path / "entropy.parquet"))
        (row,) = pq.read_table(tmp_path / "entropy.parquet").to_pylist()
        return told, row

    tries = [measured() for _ in range(5)]  # others may use the processor in one of them
    assert any(row["crops_per_second"] > row["enlarged_per_second"] > 0 for _, row in tries)
    told, row = tries[0]
    assert row["worst_bin"] <= 1e-5
    assert "crops_per_second" in told


# On a cluster


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[tuple[RayCluster, list[Path]]]:
    """A head without processors and two nodes with data of their own."""
    roots = [tmp_path / "one", tmp_path / "two"]
    with ray_cluster() as cluster:
        cluster.start_node(num_cpus=0)
        for root in roots:
            write_synthetic("camvid", root / "camvid", 40, size=(32, 48))
            cluster.start_node(num_cpus=1, env={"KDTUNE_DATA_ROOT": str(root), "KDTUNE_CACHE": str(root / "cache")})
        yield cluster, roots


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_nodes_count_what_one_process_counts(cluster: tuple[RayCluster, list[Path]], tmp_path: Path) -> None:
    """40 images are three tasks. Then one node has other data, and is named."""
    ray, (one, two) = cluster
    file = write_teacher(tmp_path, classes=11)
    text = "  dataset: {name: demo, size: [32, 48], num_train: 8, num_val: 4}"
    study = write_study(tmp_path, STUDY.replace(text, "  dataset: {name: camvid}"))
    words = [
        "teacher",
        "entropy",
        study,
        "--teacher",
        file,
        "--set",
        "teacher.model.width=0.0625",
        "--crop",
        "24,32",
        "--images",
        "40",
    ]
    alone = kdtune(*words, "--data-root", one, "-o", tmp_path / "alone", env={"OMP_NUM_THREADS": "1"})
    assert alone.returncode == 0, alone.stderr
    shared = ray.kdtune(*words, "--address", ray.address, "-o", tmp_path / "shared")
    assert shared.returncode == 0, shared.stderr
    assert pq.read_table(tmp_path / "shared.parquet").equals(pq.read_table(tmp_path / "alone.parquet"))
    assert shared.stdout == alone.stdout

    victim = sorted((two / "camvid" / "train").iterdir())[0]
    victim.write_bytes(sorted((two / "camvid" / "train").iterdir())[1].read_bytes())
    refused = ray.kdtune(*words, "--address", ray.address, "--storage", tmp_path / "runs")
    assert refused.returncode == 2, refused.stderr
    assert "every node needs the same data" in refused.stderr.splitlines()[-1]
