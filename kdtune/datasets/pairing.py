"""Which mask belongs to which image, and which images a list names: by their names, and by their folders."""

import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from kdtune.datasets.files import IMAGES, BadFile, Found, bare
from kdtune.datasets.patterns import fixed_part, stood_for

EXACT = 1_000_000  # more than any path has parts


@dataclass(frozen=True)
class Named:
    """An image or a mask by what its path says. The parts are compared, so they are in one form of Unicode (NFC)."""

    path: Path
    name: str  # without ending and suffix, as it is on the disk
    below: str  # the same with its folders below the pattern's fixed part
    key: tuple[str, ...]  # the folders that the pattern's signs stand for, and the name
    whole: tuple[str, ...]  # all folders below the root, and the name
    free: int  # how many of those are before the pattern's first sign

    @property
    def stem(self) -> str:
        """The name alone."""
        return self.key[-1]


def named(paths: Sequence[Path], base: Path, pattern: str, ending: str, found: Found) -> list[Named]:
    """The files that a pattern found; of two with one name in one folder the first, and a fault."""
    fixed, seen = fixed_part(pattern), dict[tuple[str, ...], Named]()
    for path in paths:
        place = PurePosixPath(path.relative_to(base).as_posix())
        name = path.stem.removesuffix(ending)
        stem = one_form(path.stem).removesuffix(one_form(ending))
        key = (*map(one_form, stood_for(pattern, place)), stem)
        whole = (*map(one_form, place.parent.parts), stem)
        below = (place.parent.relative_to(fixed) / name).as_posix()
        if key in seen:
            found.faults.append(BadFile(path, f"has the same name as {seen[key].path}: remove one of them"))
        else:
            seen[key] = Named(path, name, below, key, whole, len(fixed.parts))
    return list(seen.values())


def ending_in(paths: Iterable[Path], ending: str) -> list[Path]:
    """Those whose names have an ending, before the suffix."""
    return [path for path in paths if one_form(path.stem).endswith(one_form(ending))]


def differ(files: Sequence[Named]) -> bool:
    """Whether no name is there twice, in whatever folders."""
    return len({each.stem for each in files}) == len(files)


def masks_of(
    images: Sequence[Named], masks: Sequence[Named], wanted: tuple[str, str], found: Found
) -> dict[Path, Path]:
    """The mask of each image: that of its name, and where names repeat, that in the same folder, too.

    Args:
        images: of a split.
        masks: those that may be theirs.
        wanted: endings of images and masks, for the faults.
        found: gets a fault for each image with none or several.
    """
    alone = differ(images) and differ(masks)
    known = {each.key[-1:] if alone else each.key: each.path for each in masks}
    of_stem: dict[str, list[Path]] = defaultdict(list)
    for each in masks:
        of_stem[each.stem].append(each.path)
    fits: dict[Path, Path] = {}
    for image in images:
        mask, like = known.get(image.key[-1:] if alone else image.key), of_stem[image.stem]
        if mask is not None:
            fits[image.path] = mask
            continue
        name = f"{image.path.stem.removesuffix(wanted[0])}{wanted[1]}.png"
        if len(like) > 1:
            fault = f"has more than one mask, {like[0]} and {like[1]}: narrow the pattern of the masks"
        elif like:
            fault = f"has no mask {name} in such a folder, only {like[0]}: add the mask or narrow the pattern of masks"
        else:
            fault = f"has no mask {name}: add the mask or remove the image"
        found.faults.append(BadFile(image.path, fault))
    return fits


def lonely(
    masks: Sequence[Named], images: Sequence[Named], others: Sequence[Named], fits: Mapping[Path, Path]
) -> list[BadFile]:
    """A fault for each mask without an image.

    Args:
        masks: those that are there.
        images: of a split.
        others: images of the other split that may have these masks.
        fits: the masks of images; an image without one may lack just a mask of its name, which is told with the image.
    """
    taken = set(fits.values())
    of_some = {each.stem for each in others} | {each.stem for each in images if each.path not in fits}
    without = [each.path for each in masks if each.path not in taken and each.stem not in of_some]
    return [BadFile(path, "is a mask without an image: remove it") for path in without]


def taken_twice(fits: Mapping[Path, Path], fits_there: Mapping[Path, Path]) -> list[BadFile]:
    """A fault, if there are images of both splits that have the same masks."""
    owners = {mask: image for image, mask in fits_there.items()}
    twice = [(mask, image) for image, mask in fits.items() if owners.get(mask, image) != image]
    if not twice:
        return []
    mask, image = twice[0]
    first, second = sorted((image, owners[mask]))
    more = f", and {len(twice) - 1} more are such" if len(twice) > 1 else ""
    return [
        BadFile(mask, f"would be the mask of {first} and of {second}{more}: write a pattern of masks for each split")
    ]


def in_both(base: Path, chosen: Sequence[Named], others: Sequence[Named]) -> list[BadFile]:
    """A fault, if images are in both splits."""
    there = {each.path for each in others}
    both = sorted(each.path.relative_to(base).as_posix() for each in chosen if each.path in there)
    if not both:
        return []
    many = f"{len(both)} images are" if len(both) > 1 else "1 image is"
    fault = f"{many} in training and in validation, the first is {both[0]}: correct `split` or the patterns"
    return [BadFile(base, fault)]


def chosen_of(listed: Path, lines: Sequence[str], images: Sequence[Named], ending: str, found: Found) -> list[Named]:
    """The images that a list names, each once, in the order of the images; a fault for each line that names no one.

    A line fits the image with which the most last parts of the path agree. It may have other folders before those that
    the pattern's signs stand for, and need not have any.
    """
    of_stem: dict[str, list[Named]] = defaultdict(list)
    for image in images:
        of_stem[image.stem].append(image)
    chosen = set()
    for line in filter(None, map(str.strip, lines)):
        fits = next(filter(None, (_fitting(word, of_stem, ending) for word in _words(line))), [])
        if len(fits) == 1:
            chosen.add(fits[0].path)
        elif fits:
            both = " and ".join("/".join(each.whole) for each in fits[:2])
            found.faults.append(BadFile(listed, f"names '{line}', which fits {both}: write the folder, too"))
        else:
            found.faults.append(BadFile(listed, f"names '{line}', but no such image is there"))
    return [image for image in images if image.path in chosen]


def _words(line: str) -> list[str]:
    """What may be the image in a line: all of it, for names have blanks, or its first word, if the mask comes next."""
    first = line.split()[0]
    return [first, line] if first.lower().endswith(IMAGES) else [line, first]


def _fitting(word: str, of_stem: Mapping[str, Sequence[Named]], ending: str) -> list[Named]:
    """The images that fit a word best."""
    parts = tuple(
        part for part in one_form(bare(word)).removesuffix(one_form(ending)).split("/") if part not in ("", ".")
    )
    scores = [(_agreeing(parts, each), each) for each in of_stem.get(parts[-1], ())] if parts else []
    best = max((score for score, _ in scores), default=0)
    return [each for score, each in scores if score == best > 0]


def _agreeing(parts: tuple[str, ...], image: Named) -> int:
    """How many last parts agree; 0: others contradict."""
    if parts in (image.whole, image.whole[image.free :], image.key):
        return EXACT
    by_path, by_key = _tail(parts, image.whole), _tail(parts, image.key)
    if by_path == len(parts) or by_path >= len(image.whole) - image.free:
        return by_path
    return by_key if by_key in (len(parts), len(image.key)) else 0


def _tail(one: Sequence[str], other: Sequence[str]) -> int:
    """How many last parts are equal."""
    pairs = list(zip(reversed(one), reversed(other), strict=False))
    return next((i for i, (a, b) in enumerate(pairs) if a != b), len(pairs))


def one_form(text: str) -> str:
    """In one form of Unicode: file systems keep an ü as one character or as two."""
    return unicodedata.normalize("NFC", text)
