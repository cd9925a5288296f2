"""Decode once, then memory-map: all trials of a node read pixels from one shared page cache.

A pack is a folder of three files: ``images.bin`` (uint8 RGB, rows first), ``labels.bin`` (uint8) and ``index.npy``
(height, width, first pixel of each image). Its name holds the hash of what it was made from: the dataset's config,
its ``version``, and the name, size and time of every source file; a changed source is packed anew.
"""

import hashlib
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from filelock import FileLock
from platformdirs import user_cache_path

from kdtune.base import Sample, SegmentationDataset, Split, UserError


@dataclass(frozen=True)
class Packed:
    """A split in memory-mapped form. ``sizes`` (n, 2) holds height and width, ``first`` (n,) the first pixel."""

    names: tuple[str, ...]
    images: np.ndarray  # (pixels, 3) uint8
    labels: np.ndarray  # (pixels,) uint8
    sizes: np.ndarray
    first: np.ndarray

    def __len__(self) -> int:
        return len(self.sizes)

    def image(self, i: int) -> np.ndarray:
        """(H, W, 3) uint8, a view of the mapped file."""
        height, width = self.sizes[i]
        return self.images[self.first[i] : self.first[i] + height * width].reshape(height, width, 3)

    def label(self, i: int) -> np.ndarray:
        """(H, W) uint8, a view of the mapped file."""
        height, width = self.sizes[i]
        return self.labels[self.first[i] : self.first[i] + height * width].reshape(height, width)


def cache_folder() -> Path:
    """Where packs lie: ``KDTUNE_CACHE``, else the user's cache folder."""
    given = os.environ.get("KDTUNE_CACHE")
    return Path(given).expanduser() if given else user_cache_path("kdtune")


def dataset_root(dataset: SegmentationDataset, data_root: str | None) -> Path | None:
    """The dataset's own folder, ``data_root/<name>``; none for a dataset that the project draws.

    Raises:
        UserError: it needs files and no data root is given.
    """
    if not dataset.needs_files:
        return None
    if data_root is None:
        raise UserError(
            f"dataset '{dataset.name}' needs --data-root DIR (or KDTUNE_DATA_ROOT) with the folder "
            f"DIR/{dataset.name}; {dataset.obtain}. The study 'demo' needs no data"
        )
    return Path(data_root).expanduser() / dataset.name


def open_split(dataset: SegmentationDataset, split: Split, data_root: str | None) -> Packed:
    """The packed split, packed now if no process of this node has done so.

    Raises:
        UserError: missing or unreadable data, or no room for the pack; the line says what to do.
    """
    samples = dataset.samples(split, dataset_root(dataset, data_root))
    folder = cache_folder() / "packs" / f"{dataset.name}-{split}-{_fingerprint(dataset, split, samples)}"
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        if not folder.is_dir():
            with FileLock(f"{folder}.lock"):
                if not folder.is_dir():
                    _pack(dataset, split, samples, folder)
        return _open(folder, samples)
    except OSError as error:
        raise UserError(
            f"{folder}: cannot write the packed images: {error.strerror or error}; free some space or point "
            "KDTUNE_CACHE at another folder"
        ) from error


def _fingerprint(dataset: SegmentationDataset, split: Split, samples: list[Sample]) -> str:
    digest = hashlib.sha256(f"{dataset.model_dump_json()}|{dataset.version}|{split}".encode())
    for sample in samples:
        digest.update(sample.name.encode())
        for path in sample.files:
            try:
                status = path.stat()
            except OSError as error:  # a link to nowhere is listed, too
                raise UserError(f"{path}: cannot be read: {error.strerror or error}") from error
            digest.update(f"|{path}|{status.st_size}|{status.st_mtime_ns}".encode())
    return digest.hexdigest()[:16]


def _pack(dataset: SegmentationDataset, split: Split, samples: list[Sample], folder: Path) -> None:
    """Writes beside the final name and renames, so that a half-written pack is never read."""
    for abandoned in folder.parent.glob(f".{folder.name}-*"):  # by a process that was killed: we hold the lock
        shutil.rmtree(abandoned, ignore_errors=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        index = []
        first = 0
        with (partial / "images.bin").open("wb") as images, (partial / "labels.bin").open("wb") as labels:
            for sample in samples:
                image, label = dataset.read(split, sample)
                images.write(image.tobytes())
                labels.write(label.tobytes())
                index.append((*label.shape, first))
                first += label.size
        np.save(partial / "index.npy", np.array(index, dtype=np.int64).reshape(-1, 3))
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _open(folder: Path, samples: list[Sample]) -> Packed:
    index = np.load(folder / "index.npy")
    if len(index) == 0:  # an empty file cannot be mapped
        nothing = np.zeros((0, 3), dtype=np.uint8)
        return Packed(names=(), images=nothing, labels=nothing[:, 0], sizes=index[:, :2], first=index[:, 2])
    return Packed(
        names=tuple(sample.name for sample in samples),
        images=np.memmap(folder / "images.bin", dtype=np.uint8, mode="r").reshape(-1, 3),
        labels=np.memmap(folder / "labels.bin", dtype=np.uint8, mode="r"),
        sizes=index[:, :2],
        first=index[:, 2],
    )
