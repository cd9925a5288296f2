"""What the images and labels of a split are, wherever they lie: equal keys, equal pixels.

The key is a SHA-256 over the dataset's config, its ``version``, the split, and each sample's name and bytes in order.
It knows neither folders nor times of files, so it tells whether two nodes, or two launches a month apart, train on the
same data. Of a dataset that the project draws, config and ``version`` say it all.
"""

import hashlib
import json
import os
import threading
from collections.abc import Iterable
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kdtune import signs
from kdtune.base import Sample, SegmentationDataset, Split, UserError
from kdtune.datasets.bar import bar
from kdtune.devices import processors
from kdtune.filesystem import json_text
from kdtune.loading.ahead import in_order
from kdtune.loading.alone import alone
from kdtune.loading.cache import cache_folder
from kdtune.loading.sources import Sources, sources

KEPT_DIGITS = 16  # of an image's digest: enough to tell which image differs once the keys do


@dataclass(frozen=True)
class Content:
    """A split by its content."""

    key: str  # 64 hexadecimal digits
    images: tuple[tuple[str, str], ...]  # name, and the first digits of the digest ("" where it is drawn), in order

    @property
    def short(self) -> str:
        """As people read it."""
        return self.key[:12]


def content_key(dataset: SegmentationDataset, split: Split, root: Path | None) -> str:
    """The key of a split of the dataset in ``root``, see ``content``."""
    return content(dataset, split, root).key


def content(dataset: SegmentationDataset, split: Split, root: Path | None) -> Content:
    """The content of a split of the dataset in ``root``.

    Read once per node, by one process, and kept in the cache until a source file changes its size or a time; where the
    cache cannot be written, each process reads for itself.

    Raises:
        UserError: missing or unreadable data, or data that changed while it was read.
    """
    samples = dataset.samples(split, root)
    if not dataset.needs_files:
        return summed(Sources(dataset, split, samples, {}), [b""] * len(samples))
    source = sources(dataset, split, samples)
    found = _kept(source)
    if found is None:
        path = _path(source)
        with ExitStack() as stack:
            with suppress(OSError):
                path.parent.mkdir(parents=True, exist_ok=True)
                stack.enter_context(alone(path))
            found = _kept(source) or _read(source)
    return found


def _read(source: Sources) -> Content:
    name, count, workers = source.dataset.name, len(source.samples), processors()
    digests = []
    with (
        closing(in_order(lambda s: digest(source, s), source.samples, workers=workers, ahead=4 * workers)) as found,
        bar(f"reading {name}, {source.split}", count, lambda done: f"{done} images") as watch,
    ):
        for each in found:
            digests.append(each)
            watch(len(digests))
    source.check_unchanged("its content is not known")
    return keep(source, digests)


def digest(source: Sources, sample: Sample) -> bytes:
    """SHA-256 over the digests of a sample's files; of its pixels, if it has none; nothing where it is drawn.

    hashlib leaves Python free meanwhile, so threads are enough.

    Raises:
        UserError: a file cannot be read.
    """
    if not source.dataset.needs_files:
        return b""
    whole = hashlib.sha256()
    for path in sample.files:
        try:
            with signs.reading(path), path.open("rb") as file:
                whole.update(hashlib.file_digest(file, "sha256").digest())
        except OSError as error:
            raise UserError(f"{path}: cannot be read: {error.strerror or error}") from error
    if not sample.files:
        for array in source.dataset.read(source.split, sample):
            whole.update(f"{array.shape}".encode())
            whole.update(np.ascontiguousarray(array).data)
    return whole.digest()


def summed(source: Sources, digests: Iterable[bytes]) -> Content:
    """The content of a split from the digests of its samples."""
    head = ["content", source.dataset.settings, source.dataset.version, source.split]
    whole = hashlib.sha256(json.dumps(head).encode())
    images = []
    for sample, each in zip(source.samples, digests, strict=True):
        if source.dataset.needs_files:
            whole.update(json.dumps(sample.name).encode() + each)
        images.append((sample.name, each.hex()[:KEPT_DIGITS]))
    return Content(whole.hexdigest(), tuple(images))


def keep(source: Sources, digests: Iterable[bytes]) -> Content:
    """``summed``, and writes it down for the other processes of this node, if the cache can be written."""
    found = summed(source, digests)
    if source.dataset.needs_files:
        path = _path(source)
        partial = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}")
        with suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                partial.write_text(json.dumps({"key": found.key, "images": found.images}))
                partial.rename(path)
            finally:
                partial.unlink(missing_ok=True)
    return found


def _kept(source: Sources) -> Content | None:
    try:
        told = json_text.parsed(_path(source).read_bytes())
        return Content(told["key"], tuple((name, each) for name, each in told["images"]))
    except (OSError, ValueError, KeyError, TypeError):  # not there, or damaged by a crash: read again
        return None


def _path(source: Sources) -> Path:
    return cache_folder() / "contents" / f"{source.name}.json"


def difference(one: Content, other: Content) -> str:
    """The first image, in order of names, in which ``one`` departs from ``other``; how many there are besides."""
    mine, theirs = dict(one.images), dict(other.images)
    told = [
        f"image '{name}' is missing"
        if name not in mine
        else f"image '{name}' is one too many"
        if name not in theirs
        else f"image '{name}' or its label differs"
        for name in sorted({*mine, *theirs})
        if mine.get(name) != theirs.get(name)
    ]
    if not told:
        return "the order of its images differs"
    return told[0] + (f" (and {len(told) - 1} more)" if len(told) > 1 else "")
