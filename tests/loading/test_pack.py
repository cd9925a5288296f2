"""Packs: equal to what was read, made once, never half."""

import multiprocessing
import os
import resource
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from kdtune.base import Sample, SegmentationDataset, Split, UserError
from kdtune.datasets import bar
from kdtune.datasets.camvid import CamVid
from kdtune.datasets.demo import Demo
from kdtune.datasets.synth import write_synthetic
from kdtune.loading.content import content_key
from kdtune.loading.pack import Packed, open_split, pack_lines, pack_samples

DEMO = Demo(name="demo", size=(32, 48), num_train=8, num_val=4)
FORK = multiprocessing.get_context("fork")  # torch is imported once, not once per process


@pytest.fixture
def camvid(tmp_path: Path) -> Path:
    """A data root with a small CamVid."""
    write_synthetic("camvid", tmp_path / "data" / "camvid", 2, size=(24, 32))
    return tmp_path / "data"


class SlowDemo(Demo):
    """The same pixels, slowly; says so whenever it reads."""

    def read(self, split: Split, sample: Sample) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        time.sleep(0.1)
        READS.put(sample.name)
        return super().read(split, sample)


READS = FORK.Queue()
SLOW = SlowDemo(**DEMO.model_dump())


class Nothing(Demo):
    """A dataset without images."""

    def samples(self, split: Split, root: Path | None) -> list[Sample]:
        return []


def packs(cache: Path) -> list[str]:
    return sorted(path.name for path in cache.iterdir() if path.is_dir())


def assert_equal(packed: Packed, dataset: SegmentationDataset, split: Split, root: Path | None = None) -> None:
    samples = dataset.samples(split, root)
    assert packed.names == tuple(sample.name for sample in samples)
    for i, sample in enumerate(samples):
        image, label = dataset.read(split, sample)
        np.testing.assert_array_equal(packed.image(i), image)
        np.testing.assert_array_equal(packed.label(i), label)


def test_packed_equals_read(camvid: Path) -> None:
    for split in ("train", "val"):
        assert_equal(open_split(DEMO, split, None), DEMO, split)
        dataset = CamVid(name="camvid")
        assert_equal(open_split(dataset, split, str(camvid)), dataset, split, camvid / "camvid")


def test_images_of_different_sizes(tmp_path: Path) -> None:
    root = tmp_path / "camvid"
    write_synthetic("camvid", root, 1, size=(24, 32))
    for folder, name in (("train", "0001TP_000001.jpg"), ("trainannot", "0001TP_000001.png")):
        Image.fromarray(np.full((17, 9), 3, np.uint8)).save(root / folder / name)
    packed = open_split(CamVid(name="camvid"), "train", str(tmp_path))
    assert sorted(map(tuple, packed.sizes.tolist())) == [(17, 9), (24, 32)]
    assert_equal(packed, CamVid(name="camvid"), "train", root)


def test_a_second_opening_reads_nothing() -> None:
    open_split(SLOW, "val", None)
    for _ in range(4):
        READS.get(timeout=5)
    open_split(SLOW, "val", None)
    assert READS.empty()


def test_processes_at_once_make_one_pack(cache: Path) -> None:
    answers = FORK.Queue()

    def work() -> None:
        answers.put(int(open_split(SLOW, "train", None).images.sum()))

    workers = [FORK.Process(target=work) for _ in range(3)]
    for worker in workers:
        worker.start()
    sums = [answers.get(timeout=30) for _ in workers]
    for worker in workers:
        worker.join()
    assert sorted(READS.get(timeout=5) for _ in range(8)) == [sample.name for sample in DEMO.samples("train", None)]
    assert READS.empty()
    assert len(set(sums)) == 1
    assert len(packs(cache)) == 1


def test_a_process_killed_while_packing_leaves_no_pack(cache: Path) -> None:
    worker = FORK.Process(target=open_split, args=(SLOW, "train", None))
    worker.start()
    for _ in range(3):
        READS.get(timeout=30)
    worker.kill()
    worker.join()
    while not READS.empty():
        READS.get()
    (half,) = packs(cache)
    assert half.startswith(".")
    assert_equal(open_split(DEMO, "train", None), DEMO, "train")
    (whole,) = packs(cache)  # what was left half-written is gone, too
    assert not whole.startswith(".")


@pytest.mark.parametrize("kind", ["size", "time", "neither"])
def test_a_changed_source_is_packed_anew(camvid: Path, cache: Path, kind: str) -> None:
    dataset = CamVid(name="camvid")
    path = next((camvid / "camvid" / "valannot").iterdir())
    label = np.array(Image.open(path))
    Image.fromarray(label).save(path, compress_level=0)  # its size does not depend on its pixels
    before = path.stat()
    key = content_key(dataset, "val", camvid / "camvid")
    open_split(dataset, "val", str(camvid))
    label[:5] = (label[:5] + 1) % 11
    Image.fromarray(label).save(path, compress_level=9 if kind == "size" else 0)
    assert (path.stat().st_size == before.st_size) == (kind != "size")
    later = 1 if kind == "time" else 0
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + later))
    assert_equal(open_split(dataset, "val", str(camvid)), dataset, "val", camvid / "camvid")
    assert len(packs(cache)) == 2
    assert content_key(dataset, "val", camvid / "camvid") != key


class Touched(CamVid):
    """A dataset whose last file is written while its first is read."""

    def read(self, split: Split, sample: Sample) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        path = sample.files[1].parent / TOUCHED
        os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))
        return super().read(split, sample)


TOUCHED = "0001TP_000000.png"


def test_a_source_that_changes_meanwhile_is_named_and_nothing_is_packed(camvid: Path, cache: Path) -> None:
    dataset = Touched(name="camvid")
    path = next(path for path in (camvid / "camvid" / "trainannot").iterdir())
    global TOUCHED
    TOUCHED = path.name
    with pytest.raises(UserError, match=f"{path}: changed while it was read, so nothing was packed; try again"):
        open_split(dataset, "train", str(camvid))
    assert packs(cache) == []


def test_threads_write_the_same_bytes_as_one(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = []
    for workers in ({0}, set(range(8))):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _, workers=workers: workers)
        open_split(DEMO, "train", None)
        (name,) = packs(cache)
        written.append({path.name: path.read_bytes() for path in (cache / name).iterdir()})
        shutil.rmtree(cache / name)
    assert written[0] == written[1]


def test_progress_is_told_after_each_image(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bar, "EVERY_SECONDS", 0.0)
    for _ in range(2):  # the second finds the pack
        pack_samples(DEMO, "val", DEMO.samples("val", None))
    told = [f"packing demo, val: {done} images of 4 images" for done in (1, 2, 3, 4)]
    assert capsys.readouterr().err.splitlines() == told


def test_other_users_may_read_and_lock(cache: Path) -> None:
    before = os.umask(0o022)
    try:
        open_split(DEMO, "val", None)
    finally:
        os.umask(before)
    (name,) = packs(cache)
    modes = {path.name: path.stat().st_mode & 0o777 for path in (cache / name, *(cache / name).iterdir())}
    assert modes == {name: 0o755, "images.bin": 0o644, "labels.bin": 0o644, "index.npy": 0o644}
    lock = cache / f"{name}.lock"
    assert not lock.exists() or lock.stat().st_mode & 0o777 == 0o666


def test_room_is_looked_at_before_anything_is_decoded(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage("/")._replace(free=20_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    dataset = SLOW.model_copy(update={"size": (100, 100)})
    with pytest.raises(UserError, match=r"No space left on device \(0\.3 MB needed, 0\.0 MB free\); free some space"):
        open_split(dataset, "train", None)
    assert READS.empty()
    assert packs(cache) == []


def test_reading_makes_no_copy() -> None:
    """The pages of a pack are the page cache's: what a process owns does not grow with what it reads."""
    dataset = Demo(name="demo", size=(256, 512), num_train=2, num_val=60)
    packed = open_split(dataset, "val", None)

    def touch() -> int:
        return sum(int(packed.image(i).sum()) + int(packed.label(i).sum()) for i in range(len(packed)))

    def anonymous() -> int:
        maps = Path("/proc/self/smaps_rollup").read_text()
        return int(next(line.split()[1] for line in maps.splitlines() if line.startswith("Anonymous"))) * 1024

    packed.image(0).sum()
    before = anonymous()
    touch()
    assert anonymous() - before < 4 * 2**20 < packed.images.nbytes  # 23 MB were read


def test_the_lines_of_data_pack(camvid: Path, cache: Path) -> None:
    dataset = CamVid(name="camvid")
    lines = list(pack_lines(dataset, str(camvid / "camvid")))
    train, val = (next(name for name in packs(cache) if split in name) for split in ("train", "val"))
    assert [line.split(": ")[0] for line in lines] == ["train", "val"]
    assert lines[0].endswith(f"MB in {cache / train}")
    assert lines[1].endswith(f"MB in {cache / val}")
    open_split(dataset, "train", str(camvid))  # a launch finds the same
    assert len(packs(cache)) == 2


def test_settings_of_the_dataset_are_part_of_the_packs_name(cache: Path) -> None:
    for seed in (0, 1):
        dataset = DEMO.model_copy(update={"seed": seed})
        assert_equal(open_split(dataset, "val", None), dataset, "val")
    assert len(packs(cache)) == 2


def error_of(dataset: SegmentationDataset, answers: Any, limit: int | None) -> None:
    if limit is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    try:
        open_split(dataset, "train", None)
        answers.put("packed")
    except UserError as error:
        answers.put(str(error))
    except BaseException as error:
        answers.put(repr(error))


def packed_elsewhere(dataset: SegmentationDataset, limit: int | None = None) -> str:
    answers = FORK.Queue()
    worker = FORK.Process(target=error_of, args=(dataset, answers, limit))
    worker.start()
    answer = str(answers.get(timeout=30))
    worker.join()
    return answer


def test_no_room_is_one_line_and_leaves_nothing(cache: Path) -> None:
    answer = packed_elsewhere(DEMO, limit=20_000)
    assert answer.startswith(str(cache))
    assert "cannot write the packed images: File too large; point KDTUNE_CACHE at" in answer
    assert "\n" not in answer
    assert packs(cache) == []


def test_a_full_disk_is_one_line(cache: Path) -> None:
    cache.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", "size=32k", "none", str(cache)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("may not mount a small disk")
    try:
        answer = packed_elsewhere(DEMO)
        assert "cannot write the packed images: No space left on device (0.0 MB needed, 0.0 MB free); free" in answer
        assert packs(cache) == []
    finally:
        subprocess.run(["umount", str(cache)], check=True)


def test_a_cache_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file stands where the folder should be")
    with pytest.raises(UserError, match=r"cannot write the packed images.*KDTUNE_CACHE"):
        open_split(DEMO, "val", None)


def test_a_missing_data_root_says_what_to_give(tmp_path: Path) -> None:
    dataset = CamVid(name="camvid")
    with pytest.raises(UserError, match=r"dataset 'camvid' needs --data-root DIR \(or KDTUNE_DATA_ROOT\).*DIR/camvid"):
        open_split(dataset, "train", None)
    with pytest.raises(UserError, match=f"camvid: no folder {tmp_path / 'camvid'}"):
        open_split(dataset, "train", str(tmp_path))


def test_a_link_to_nowhere_is_named(camvid: Path) -> None:
    path = next((camvid / "camvid" / "train").iterdir())
    path.unlink()
    path.symlink_to(camvid / "gone.jpg")
    with pytest.raises(UserError, match=f"{path}: cannot be read: No such file"):
        open_split(CamVid(name="camvid"), "train", str(camvid))


def test_a_split_without_images_is_empty() -> None:
    dataset = Nothing(**DEMO.model_dump())
    for _ in range(2):  # packed, then opened
        assert len(open_split(dataset, "train", None)) == 0
