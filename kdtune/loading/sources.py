"""What a split is made from, as it lies on this node: a name for what is derived from it and kept in the cache."""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from kdtune import signs
from kdtune.base import Sample, SegmentationDataset, Split, UserError
from kdtune.filesystem.regular import refuse_endless

DECODING = 2  # raised whenever a file may give other pixels than before: the packs of before are made anew

# source file -> size [bytes], time of its content [ns], which a copy may set, and of its last change, which only the
# file system sets
Stamps = dict[Path, tuple[int, int, int]]


@dataclass(frozen=True)
class Sources:
    """The samples of a split, and what their files were when they were listed."""

    dataset: SegmentationDataset
    split: Split
    samples: list[Sample]
    stamps: Stamps

    @property
    def name(self) -> str:
        """Dataset, split and a hash: of the config, its ``version``, and each source file's path, size and times."""
        digest = hashlib.sha256(
            f"{self.dataset.model_dump_json()}|{self.dataset.version}|{self.split}|{DECODING}".encode()
        )
        for sample in self.samples:
            digest.update(sample.name.encode())
            for path in sample.files:
                digest.update(b"|%b|%d|%d|%d" % (os.fsencode(path), *self.stamps[path]))
        return f"{self.dataset.name}-{self.split}-{digest.hexdigest()[:16]}"

    def check_unchanged(self, lost: str) -> None:
        """Looks at the files again.

        Args:
            lost: what was not made of them, for the error.

        Raises:
            UserError: one has changed since they were listed.
        """
        now = _stamps(self.samples)
        for path, stamp in self.stamps.items():
            if now[path] != stamp:
                raise UserError(f"{path}: changed while it was read, so {lost}; try again once it is complete")


def sources(dataset: SegmentationDataset, split: Split, samples: list[Sample]) -> Sources:
    """The samples of a split, with a look at each file.

    Raises:
        UserError: a file that is listed cannot be read.
    """
    return Sources(dataset, split, samples, _stamps(samples))


def _stamps(samples: list[Sample]) -> Stamps:
    found: Stamps = {}
    for sample in samples:
        for path in sample.files:
            try:
                with signs.reading(path):
                    status = path.stat()
            except OSError as error:  # a link to nowhere is listed, too
                raise UserError(f"{path}: cannot be read: {error.strerror or error}") from error
            refuse_endless(path, status.st_mode)
            found[path] = (status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    return found
