"""Looks at a folder that nobody has described: which files are photographs, which masks, and what belongs together."""

import os
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Literal

import numpy as np

from kdtune.base import Split, UserError
from kdtune.datasets.bar import bar
from kdtune.datasets.decode import colour_codes, load
from kdtune.datasets.files import IMAGES, BadFile
from kdtune.datasets.pairing import one_form

LOOKED_AT = 6  # files of a folder that tell what it holds
MOST_COLOURS = 256  # of a mask; a photograph has more
MASKS = 1000  # that are read for the classes, evenly spaced
MOST_FILES = 2_000_000
NAMES: dict[Split, tuple[str, ...]] = {
    "train": ("train", "training", "tr", "train2017"),
    "val": ("val", "valid", "validation", "dev", "eval", "val2017"),
}
TEST = ("test", "testing")  # stands in for validation where there is none

Kind = Literal["photographs", "masks"]
Place = PurePosixPath  # of a folder below the one that is looked at


@dataclass(frozen=True)
class Pairs:
    """Photographs of a folder and their masks; the endings are what their names have behind the common part."""

    images: Place
    masks: Place
    image_ending: str
    mask_ending: str
    count: int
    also: tuple[Place, ...] = ()  # other folders whose masks fit as well


@dataclass
class Surveyed:
    """What a folder holds."""

    pairs: list[Pairs]  # most images first
    photographs: dict[Place, list[str]]  # by folder, names
    masks: dict[Place, list[str]]
    unread: list[str]  # what cannot be read, a line for each kind of file in a folder


@dataclass
class Seen:
    """What masks hold: values or colours (as one number each) with their pixels, and sizes."""

    kind: Literal["indices", "colours"]
    masks: int = 0  # read
    pixels: Counter[int] = field(default_factory=Counter)
    masks_with: Counter[int] = field(default_factory=Counter)
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)  # height, width
    palette: tuple[int, ...] = ()  # of masks that have one


def surveyed(root: Path) -> Surveyed:
    """What is in a folder, and what belongs together in it.

    Raises:
        UserError: no such folder, too many files, or nothing that belongs together.
    """
    if not root.is_dir():
        raise UserError(f"{root}: no such folder")
    found = Surveyed([], {}, {}, [])
    for place, names in _folders(root).items():
        kinds = _kinds(root, place, names, found.unread)
        for kind, there in (("photographs", found.photographs), ("masks", found.masks)):
            if those := [name for name in names if kinds.get(_group(name)) == kind]:
                there[place] = those
    each = (_best(place, names, found.masks) for place, names in found.photographs.items())
    found.pairs = sorted(filter(None, each), key=lambda pairs: (-pairs.count, str(pairs.images)))
    if not found.pairs:
        unread = f"; left out: {found.unread[0]}" if found.unread else ""
        raise UserError(
            f"{root}: no images and masks there that belong together: a mask is a PNG of at most {MOST_COLOURS} values "
            f"or colours, and is named as its image is, but for an ending{unread}"
        )
    return found


def split_of(place: Place) -> Split | Literal["test"] | None:
    """The split that a folder's path names."""
    for part in place.parts:
        word = part.lower()
        for split, words in NAMES.items():
            if word in words:
                return split
        if word in TEST:
            return "test"
    return None


def seen_in(masks: Sequence[Path]) -> Seen:
    """What masks hold, a sample of them if there are many.

    Raises:
        UserError: one cannot be read.
    """
    chosen = [masks[int(i)] for i in np.linspace(0, len(masks) - 1, min(len(masks), MASKS)).round()]
    first = load(chosen[0], grey=8)
    seen = Seen("indices" if first.mode in ("L", "P", "1") else "colours")
    seen.palette = tuple(first.getpalette() or ()) if first.mode == "P" else ()
    with bar("reading masks", len(chosen), lambda done: f"{done} masks") as watch:
        for done, path in enumerate(chosen, start=1):
            mask = load(path, grey=8)
            raw = np.asarray(mask, np.uint8).astype(np.int32) if seen.kind == "indices" else colour_codes(mask, path)
            if raw.ndim != 2:
                raise UserError(f"{path}: is of colours, while {chosen[0]} is of indices; make them alike")
            values, counts = np.unique(raw, return_counts=True)
            held = dict(zip(values.tolist(), counts.tolist(), strict=True))
            seen.pixels.update(held)
            seen.masks_with.update(held.keys())
            seen.sizes[mask.height, mask.width] += 1
            watch(done)
    seen.masks = len(chosen)
    return seen


def _folders(root: Path) -> dict[Place, list[str]]:
    """The images of each folder below, by name; links to folders are not followed."""
    found: dict[Place, list[str]] = {}
    count = 0
    for path, inside, names in os.walk(root):
        inside[:] = sorted(name for name in inside if not name.startswith("."))
        images = sorted(name for name in names if not name.startswith(".") and Path(name).suffix.lower() in IMAGES)
        count += len(images)
        if count > MOST_FILES:
            raise UserError(f"{root}: more than {MOST_FILES} images below it: name the dataset's own folder")
        if images:
            found[Place(Path(path).relative_to(root).as_posix())] = images
    return found


def _kinds(root: Path, place: Place, names: Sequence[str], unread: list[str]) -> Mapping[str, Kind]:
    """Suffix and ending -> what such files of a folder are, by a few of them; ``unread`` is told which cannot be."""
    groups: dict[str, list[str]] = defaultdict(list)
    for name in names:
        groups[_group(name)].append(name)
    kinds = {}
    for group, those in groups.items():
        try:
            kinds[group] = _looked_at(root / place, those)
        except BadFile as error:
            many = f"{len(those)} images" if len(those) > 1 else "1 image"
            unread.append(f"{many} in {place}: {error.path.name} {error.message}")
    return kinds


def _group(name: str) -> str:
    """What tells files of one folder apart: the suffix, and a last word behind ``_`` or ``-`` that is no number."""
    stem, suffix = Path(name).stem, Path(name).suffix.lower()
    word = next((stem[i:] for i in range(len(stem) - 1, 0, -1) if stem[i] in "_-"), "")
    return ("" if any(character.isdigit() for character in word) else word) + suffix


def _looked_at(folder: Path, names: Sequence[str]) -> Kind:
    """What files are, by a few of them that can be read.

    Raises:
        BadFile: the first, if none can.
    """
    if names[0].lower().endswith((".jpg", ".jpeg")):
        return "photographs"
    step = max(1, len(names) // LOOKED_AT)
    faults, looked = [], 0
    for name in names[::step][:LOOKED_AT]:
        try:
            image = load(folder / name)
        except BadFile as error:
            faults.append(error)
            continue
        looked += 1
        if image.mode in ("P", "1"):
            continue
        colours = image.getcolors(MOST_COLOURS)
        if colours is None or (image.mode == "L" and _is_smooth(np.asarray(image))):
            return "photographs"
    if not looked:
        raise faults[0]
    return "masks"


def _is_smooth(grey: np.ndarray) -> bool:
    """Whether most neighbours differ, as in a photograph in grey; in a mask most are equal."""
    return bool((grey[:, 1:] != grey[:, :-1]).mean() > 0.5)


def _best(place: Place, names: Sequence[str], masks: Mapping[Place, Sequence[str]]) -> Pairs | None:
    """The folder of masks of which most belong to these photographs; of equal ones that with the most alike path."""
    found = [each for other, those in masks.items() if (each := _paired(place, names, other, those))]
    ranks = [(each.count, _alike(place, each.masks)) for each in found]
    best = [each for each, rank in zip(found, ranks, strict=True) if rank == max(ranks)]
    return replace(best[0], also=tuple(each.masks for each in best[1:])) if best else None


def _alike(one: Place, other: Place) -> int:
    return len(set(one.parts) & set(other.parts)) - abs(len(one.parts) - len(other.parts))


def _paired(place: Place, names: Sequence[str], other: Place, masks: Sequence[str]) -> Pairs | None:
    stems = {one_form(Path(name).stem) for name in names}
    others = {one_form(Path(name).stem) for name in masks}
    best: tuple[int, str, str] = (0, "", "")
    for ours, theirs in _endings(sorted(stems), sorted(others)):
        keys = {stem.removesuffix(ours) for stem in stems if stem.endswith(ours)}
        count = len(keys & {stem.removesuffix(theirs) for stem in others if stem.endswith(theirs)})
        if count > best[0]:
            best = (count, ours, theirs)
    count, ours, theirs = best
    return Pairs(place, other, ours, theirs, count) if 2 * count > len(stems) else None


def _endings(stems: Sequence[str], others: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Endings that may tell image and mask apart: none, then what follows the common part of the first few names."""
    yield "", ""
    seen = set()
    for stem in stems[:LOOKED_AT]:
        like = max(others, key=lambda other: len(_common(stem, other)))
        common = _common(stem, like)
        ends = (stem[len(common) :], like[len(common) :])
        if common and ends not in seen:
            seen.add(ends)
            yield ends
            if common[-1] in "_-":  # a sign between the words is part of both
                yield common[-1] + ends[0], common[-1] + ends[1]


def _common(one: str, other: str) -> str:
    """What both begin with."""
    end = next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
    return one[:end]
