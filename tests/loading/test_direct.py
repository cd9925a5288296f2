"""Reading without a pack: the same batches, bit for bit, and when it is done."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from kdtune.base import Sample, SegmentationDataset, Split, UserError
from kdtune.datasets.camvid import CamVid
from kdtune.datasets.demo import Demo
from kdtune.datasets.synth import write_synthetic
from kdtune.loading.batches import train_batches, validation_batches
from kdtune.loading.images import DECODED, Direct, read_directly
from kdtune.loading.pack import NotPacked, Packed, PackMode, open_images, open_split
from kdtune.training.site import Site, load_splits
from kdtune.training.trial import run
from tests.support.tiny import config

CPU = torch.device("cpu")
DEMO = Demo(name="demo", size=(32, 48), num_train=8, num_val=4)


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """A data root with a CamVid of two sizes."""
    root = tmp_path / "data" / "camvid"
    write_synthetic("camvid", root, 3, size=(24, 32))
    for folder, name in (("train", "0001TP_000001.jpg"), ("trainannot", "0001TP_000001.png")):
        Image.fromarray(np.full((17, 40), 3, np.uint8)).save(root / folder / name)
    return tmp_path / "data"


def both(dataset: SegmentationDataset, split: Split, data_root: Path | None) -> tuple[Direct, Packed]:
    root = data_root / dataset.name if data_root else None
    return read_directly(dataset, split, root), open_split(dataset, split, str(data_root) if data_root else None)


def test_direct_equals_packed_bit_for_bit(mixed: Path) -> None:
    recipe = config({"recipe.batch_size": 3, "recipe.crop": [20, 24], "recipe.num_steps": 8}).recipe
    for dataset, root in ((DEMO, None), (CamVid(name="camvid"), mixed)):
        direct, packed = both(dataset, "train", root)
        assert direct.names == packed.names
        np.testing.assert_array_equal(direct.sizes, packed.sizes)
        pairs = zip(*(train_batches(split, recipe, 5, 0, CPU) for split in (direct, packed)), strict=True)
        for one, other in pairs:
            assert torch.equal(one.pixels, other.pixels)
            assert torch.equal(one.target, other.target)
        for left, right in zip(*(validation_batches(split, 2, CPU) for split in (direct, packed)), strict=True):
            assert torch.equal(left[0], right[0])
            assert torch.equal(left[1], right[1])


def test_sizes_come_from_headers_and_a_few_images_are_kept(mixed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reads, original = [], CamVid.read

    def counted(self: CamVid, split: Split, sample: Sample) -> tuple[np.ndarray, np.ndarray]:
        reads.append(sample.name)
        return original(self, split, sample)

    monkeypatch.setattr(CamVid, "read", counted)
    direct = read_directly(CamVid(name="camvid"), "train", mixed / "camvid")
    assert sorted(map(tuple, direct.sizes.tolist())) == [(17, 40), (24, 32), (24, 32), (24, 32)]
    assert not reads
    for _ in range(3):
        direct.image(0), direct.label(0)
    assert len(reads) == 1
    assert len(direct) <= DECODED


def test_a_damaged_image_is_named(mixed: Path) -> None:
    path = mixed / "camvid" / "train" / "0001TP_000001.jpg"
    path.write_bytes(b"no image")
    with pytest.raises(UserError, match=f"{path}: cannot be read"):
        read_directly(CamVid(name="camvid"), "train", mixed / "camvid")


def test_a_resized_dataset_has_its_size(mixed: Path) -> None:
    direct, packed = both(CamVid(name="camvid", size=(12, 16)), "train", mixed)
    assert direct.sizes.tolist() == packed.sizes.tolist() == [[12, 16]] * 4
    np.testing.assert_array_equal(direct.image(2), packed.image(2))


@pytest.fixture
def full(monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk without a byte left."""
    usage = shutil.disk_usage("/")._replace(free=0)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)


@pytest.mark.usefixtures("full")
def test_no_room_is_an_error_or_a_note() -> None:
    notes: list[str] = []
    with pytest.raises(NotPacked, match=r"No space left on device \(0\.0 MB needed, 0\.0 MB free\); free some space"):
        open_images(DEMO, "val", None, "always", notes.append)
    assert notes == []
    found = open_images(DEMO, "val", None, "fallback", notes.append)
    (note,) = notes
    assert isinstance(found, Direct)
    assert "No space left on device" in note
    assert "decoded each time" in note
    assert "\n" not in note


def test_never_writes_nothing(cache: Path) -> None:
    assert isinstance(open_images(DEMO, "val", None, "never", pytest.fail), Direct)
    assert not cache.exists()
    assert isinstance(open_images(DEMO, "val", None, "fallback", pytest.fail), Packed)


def test_a_trial_runs_without_a_pack_and_is_the_same(cache: Path) -> None:
    tiny = config({"recipe.num_steps": 2, "recipe.eval_every": 1, "dataset.num_train": 7})
    told: dict[PackMode, list[tuple[float | None, float | None]]] = {}
    for mode in ("never", "always"):
        told[mode] = [(each.miou, each.loss) for each, _ in run(tiny, Site(pack=mode))]
        assert cache.exists() == (mode == "always")
    assert told["never"] == told["always"]
    assert isinstance(load_splits(tiny, Site(pack="never"))[0], Direct)


def test_fallback_of_a_process_that_may_write_little(tmp_path: Path) -> None:
    """A real limit on the size of files; the note goes to standard error."""
    program = (
        "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))\n"
        "from kdtune.study.trial_config import TrialConfig\n"
        "from kdtune.training.site import Site, load_splits\n"
        "import sys\n"
        "config = TrialConfig.model_validate_json(sys.argv[1])\n"
        "print([type(split).__name__ for split in load_splits(config, Site(pack='fallback'))])"
    )
    command = [sys.executable, "-c", program, config().model_dump_json()]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "['Direct', 'Direct']\n"
    assert done.stderr.count("File too large") == 2
    assert done.stderr.count("\n") == 2
