"""Looks at every file of a dataset: what is wrong with it, and what is in it."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kdtune.base import IGNORE, Sample, SegmentationDataset, Split, UserError
from kdtune.datasets.bar import bar
from kdtune.datasets.files import BadFile, FolderDataset, says_its_place
from kdtune.devices import processors

SPLITS: tuple[Split, ...] = ("train", "val")
FEW = 4  # sizes that are listed one by one

Size = tuple[int, int]  # H, W [pixels]
Watch = Callable[[int], None]  # takes how many images are done


@dataclass
class Contents:
    """What is in a split. ``pixels`` (256,) counts them by class and ``IGNORE``, over the readable labels."""

    images: int = 0
    sizes: Counter[Size] = field(default_factory=Counter)
    pixels: NDArray[np.int64] = field(default_factory=lambda: np.zeros(256, np.int64))


@dataclass
class Report:
    """What a check found."""

    dataset: SegmentationDataset
    root: Path
    contents: dict[Split, Contents] = field(default_factory=lambda: {split: Contents() for split in SPLITS})
    faults: list[UserError] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def bad_files(self) -> int:
        """How many files (or folders) have a fault."""
        return len({fault.path if isinstance(fault, BadFile) else str(fault) for fault in self.faults})

    def summary(self) -> str:
        """Counts, sizes and the share of each class, as lines."""
        counts = published_counts(self.dataset)
        lines = [f"{self.dataset.name} in {self.root}: {self.dataset.num_classes} classes"]
        for split, each in self.contents.items():
            published = f", published {counts[split]}" if split in counts else ""
            lines.append(f"{split}: {each.images} image{'s' * (each.images != 1)}{published}; {_sizes(each.sizes)}")
        names = [*self.dataset.class_names, "void"]
        width = max(map(len, names))
        lines += ["", f"{'pixels [%]':{width}}" + "".join(f"  {split:>7}" for split in self.contents)]
        for index, name in zip([*range(self.dataset.num_classes), IGNORE], names, strict=True):
            shares = [100 * each.pixels[index] / max(1, each.pixels.sum()) for each in self.contents.values()]
            lines.append(f"{name:{width}}" + "".join(f"  {share:7.3f}" for share in shares))
        for split, each in self.contents.items():
            absent = [name for name, count in zip(self.dataset.class_names, each.pixels, strict=False) if not count]
            lines += [f"in no label of {split}: {', '.join(absent)}"] if absent else []
        return "\n".join(lines)


def published_counts(dataset: SegmentationDataset) -> Mapping[Split, int]:
    """Images per split as published; nothing for a dataset (of another package) that does not say."""
    counts: Mapping[Split, int] = getattr(dataset, "published_counts", {})
    return counts


def check(dataset: SegmentationDataset, root: Path, *, strict: bool = False) -> Report:
    """Lists and reads both splits completely; goes on after a fault.

    Args:
        dataset: one that needs files.
        root: the dataset's own folder.
        strict: another number of images than published is a fault, not a note.

    Raises:
        UserError: there is no such folder.
    """
    if not root.is_dir():
        how = "" if says_its_place(dataset) else f"; to get the data: {dataset.obtain}"
        raise UserError(f"{root}: no such folder: --root is the dataset's own one{how}")
    report = Report(dataset, root)
    listed = {split: _list(dataset, split, root, report) for split in SPLITS}
    jobs = [(split, sample) for split, samples in listed.items() for sample in samples]
    with bar(f"checking {dataset.name}", len(jobs), lambda done: f"{done} images") as watch:
        _read(dataset, jobs, report, watch)
    for split, count in published_counts(dataset).items():
        images = len(listed[split])
        if images != count:
            advice = "unpack the dataset's archives again" if strict else "fine for a part of it; --strict refuses it"
            text = f"{images} images for {split}, but published are {count}: {advice}"
            report.faults += [BadFile(root, text)] if strict else []
            report.notes += [] if strict else [text]
    return report


def _list(dataset: SegmentationDataset, split: Split, root: Path, report: Report) -> Sequence[Sample]:
    samples: list[Sample] = []
    faults: list[UserError] = []
    try:
        if isinstance(dataset, FolderDataset):
            found = dataset.find(split, root)
            samples, faults = found.samples, [*found.faults]
        else:
            samples = dataset.samples(split, root)
    except UserError as error:
        faults = [error]
    if not samples and not faults:
        faults = [BadFile(root, f"no images for {split}: {dataset.obtain}")]
    known = {str(fault) for fault in report.faults}  # a folder that both splits miss
    report.faults += [fault for fault in faults if str(fault) not in known]
    report.contents[split].images = len(samples)
    return samples


def _read(dataset: SegmentationDataset, jobs: Sequence[tuple[Split, Sample]], report: Report, watch: Watch) -> None:
    def look(job: tuple[Split, Sample]) -> tuple[Size, NDArray[np.int64]] | UserError:
        try:
            label = dataset.read(*job)[1]
        except UserError as error:
            return error
        return (label.shape[0], label.shape[1]), np.bincount(label.ravel(), minlength=256)

    # threads: decoding leaves Python's lock alone, while each process would first import torch for seconds
    pool = ThreadPoolExecutor(processors())
    try:
        for done, ((split, _), seen) in enumerate(zip(jobs, pool.map(look, jobs), strict=True), start=1):
            if isinstance(seen, UserError):
                report.faults.append(seen)
            else:
                report.contents[split].sizes[seen[0]] += 1
                report.contents[split].pixels += seen[1]
            watch(done)
    finally:
        pool.shutdown(cancel_futures=True)  # Ctrl-C does not wait for thousands of images


def _sizes(sizes: Counter[Size]) -> str:
    """Sizes as width x height with their counts, or their range when there are many."""
    if not sizes:
        return "no readable image"
    if len(sizes) <= FEW:
        each = [f"{width}x{height} ({count})" for (height, width), count in sizes.most_common()]
        return f"pixels {', '.join(each)}"
    heights, widths = zip(*sizes, strict=True)
    return f"{len(sizes)} sizes, {min(widths)} to {max(widths)} wide, {min(heights)} to {max(heights)} high"
