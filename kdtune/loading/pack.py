"""Decode once, then memory-map: all trials of a node read pixels from one shared page cache.

A pack is a folder of three files: ``images.bin`` (uint8 RGB, rows first), ``labels.bin`` (uint8) and ``index.npy``
(height, width, first pixel of each image). Its name holds the hash of what it was made from: the dataset's config,
its ``version``, and the name, size and time of every source file; a changed source is packed anew.
"""

import errno
import os
import shutil
import uuid
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from kdtune.base import Sample, SegmentationDataset, Split, UserError
from kdtune.datasets.bar import bar
from kdtune.datasets.files import says_its_place
from kdtune.devices import processors
from kdtune.filesystem.folder import absolute
from kdtune.filesystem.patience import NO_ROOM
from kdtune.loading.ahead import in_order
from kdtune.loading.alone import alone
from kdtune.loading.cache import cache_folder
from kdtune.loading.content import digest, keep
from kdtune.loading.images import Images, read_directly, size
from kdtune.loading.sources import Sources, sources

PackMode = Literal["always", "fallback", "never"]  # fallback: read directly where there is no room for a pack


class NotPacked(UserError):
    """The cache has no room for a pack, or cannot be written."""


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


def data_folder(given: str | None = None) -> str | None:
    """The flag, else ``KDTUNE_DATA_ROOT``, else none."""
    found = given or os.environ.get("KDTUNE_DATA_ROOT")
    return absolute(found) if found else None


def dataset_root(dataset: SegmentationDataset, data_root: str | None) -> Path | None:
    """The dataset's own folder, ``data_root/<name>`` unless it says another; none for one that the project draws.

    Raises:
        UserError: it needs files and no data root is given.
    """
    if not dataset.needs_files:
        return None
    if Path(dataset.folder).is_absolute():
        return Path(dataset.folder)
    if data_root is None:
        how = "or give an absolute `root` where it is described" if says_its_place(dataset) else dataset.obtain
        raise UserError(
            f"dataset '{dataset.name}' needs --data-root DIR (or KDTUNE_DATA_ROOT) with the folder "
            f"DIR/{dataset.folder}; {how}. The study 'demo' needs no data"
        )
    return Path(data_root).expanduser() / dataset.folder


def open_images(
    dataset: SegmentationDataset, split: Split, data_root: str | None, mode: PackMode, note: Callable[[str], None]
) -> Images:
    """The split, packed or read directly as ``mode`` says; ``note`` is told where a pack was wanted and is not.

    Raises:
        UserError: missing or unreadable data, or (``always``) no room for the pack.
    """
    root = dataset_root(dataset, data_root)
    if mode == "never":
        return read_directly(dataset, split, root)
    try:
        return open_split(dataset, split, data_root)
    except NotPacked as error:
        if mode == "always":
            raise
        note(f"{error}. Until then images are decoded each time they are needed, which is slower")
        return read_directly(dataset, split, root)


def open_split(dataset: SegmentationDataset, split: Split, data_root: str | None) -> Packed:
    """The packed split, packed now if no process of this node has done so.

    Raises:
        UserError: missing or unreadable data, or no room for the pack; the line says what to do.
    """
    samples = dataset.samples(split, dataset_root(dataset, data_root))
    folder = pack_samples(dataset, split, samples)
    try:
        return _open(folder, samples)
    except OSError as error:
        raise _not_packed(folder, error) from error


def pack_samples(dataset: SegmentationDataset, split: Split, samples: list[Sample]) -> Path:
    """The folder of these samples' pack, which is made now unless it is there; how far that is goes to standard error.

    Raises:
        UserError: unreadable data, data that changed while it was read, or no room.
    """
    source = sources(dataset, split, samples)
    folder = cache_folder() / "packs" / source.name
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        if not folder.is_dir():
            with alone(folder):
                if not folder.is_dir():
                    _pack(source, folder)
    except OSError as error:
        raise _not_packed(folder, error) from error
    return folder


def pack_lines(dataset: SegmentationDataset, root: str | None) -> Iterator[str]:
    """Packs both splits of the dataset in ``root``, unless they are; a line on each.

    Raises:
        UserError: see ``pack_samples``.
    """
    splits: tuple[Split, ...] = ("train", "val")
    for split in splits:
        samples = dataset.samples(split, Path(root) if root is not None else None)
        folder = pack_samples(dataset, split, samples)
        megabytes = sum(file.stat().st_size for file in folder.iterdir()) / 1e6
        yield f"{split}: {len(samples)} images, {megabytes:.1f} MB in {folder}"


def _not_packed(folder: Path, error: OSError) -> NotPacked:
    cure = "free some space, " if error.errno in NO_ROOM else ""
    return NotPacked(
        f"{folder}: cannot write the packed images: {error.strerror or error}; {cure}point KDTUNE_CACHE at another "
        "folder, or give --pack never"
    )


def _pack(source: Sources, folder: Path) -> None:
    """Writes beside the final name and renames, so that a half-written pack is never read.

    The content key is made on the way: each file comes from its disk once.
    """
    dataset, split, samples = source.dataset, source.split, source.samples
    for abandoned in folder.parent.glob(f".{folder.name}-*"):  # by a process that was killed: we hold the lock
        shutil.rmtree(abandoned, ignore_errors=True)
    _check_room(dataset, split, samples, folder.parent)
    partial = folder.with_name(f".{folder.name}-{uuid.uuid4().hex[:8]}")
    try:
        partial.mkdir()  # not mkdtemp's, which only its user may enter
        index, digests = [], []
        first = 0
        with (
            (partial / "images.bin").open("wb") as images,
            (partial / "labels.bin").open("wb") as labels,
            closing(_decoded(source)) as decoded,
            bar(f"packing {dataset.name}, {split}", len(samples), lambda done: f"{done} images") as watch,
        ):
            for (image, label), each in decoded:
                images.write(np.ascontiguousarray(image).data)
                labels.write(np.ascontiguousarray(label).data)
                index.append((*label.shape, first))
                digests.append(each)
                first += label.size
                watch(len(index))
        np.save(partial / "index.npy", np.array(index, dtype=np.int64).reshape(-1, 3))
        source.check_unchanged("nothing was packed")
        partial.rename(folder)
        keep(source, digests)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _decoded(source: Sources) -> Generator[tuple[tuple[np.ndarray, np.ndarray], bytes]]:
    """Images and labels with digests, in order. Decoding JPEG and PNG leaves Python free, so threads are enough."""
    workers = processors()

    def read(sample: Sample) -> tuple[tuple[np.ndarray, np.ndarray], bytes]:
        return source.dataset.read(source.split, sample), digest(source, sample)

    return in_order(read, source.samples, workers=workers, ahead=2 * workers)


def _check_room(dataset: SegmentationDataset, split: Split, samples: list[Sample], where: Path) -> None:
    """Told before an hour of decoding, not after it."""
    needed = 4 * sum(height * width for height, width in (size(dataset, split, sample) for sample in samples))
    free = shutil.disk_usage(where).free
    if needed > free:
        reason = f"{os.strerror(errno.ENOSPC)} ({needed / 1e6:.1f} MB needed, {free / 1e6:.1f} MB free)"
        raise OSError(errno.ENOSPC, reason)


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
