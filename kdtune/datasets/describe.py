"""``kdtune data init``: the description of a folder of images and masks, for its owner to correct."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import yaml

from kdtune.base import IGNORE, Split, UserError
from kdtune.datasets.class_lists import Listed, listed_in
from kdtune.datasets.colours import Colour, enough
from kdtune.datasets.files import bare, lines_of
from kdtune.datasets.grouping import Group, chosen_groups, left_out
from kdtune.datasets.pairing import ending_in, one_form
from kdtune.datasets.survey import Pairs, Seen, Surveyed, seen_in, surveyed

SHARE = 0.2  # of the images, for validation, where nothing tells the splits apart
VOID = re.compile(r"void|ignored?|unlabell?ed|unknown|unclassified", re.IGNORECASE)
LISTS: dict[Split, tuple[str, ...]] = {  # the first that is there; test stands in for validation, as of folders
    "train": ("train.txt",),
    "val": ("val.txt", "valid.txt", "validation.txt", "test.txt"),
}
ENDINGS = ("image_ending", "mask_ending")
FEW = 4  # lines of what is left out


@dataclass(frozen=True)
class Found:
    """The description as YAML, and what a person is told of it."""

    text: str
    lines: tuple[str, ...]


def described(root: Path) -> Found:
    """Looks at a folder.

    Raises:
        UserError: no such folder, nothing in it that belongs together, or masks that cannot be read.
    """
    root = root.expanduser().absolute()
    found = surveyed(root)
    chosen = chosen_groups(found)
    masks = sorted(path for group in chosen.values() for each in group.pairs for path in _masks(root, each))
    seen = seen_in(masks)
    listed = listed_in(root)
    names = listed.of_colours if seen.kind == "colours" else listed.of_values
    split = _split(root, chosen)
    lines = [*_told(chosen, split, seen), *_told_names(listed, names, seen), *_told_rest(found, chosen)]
    return Found(_written(root, chosen, split, seen, names), tuple(lines))


def _masks(root: Path, pairs: Pairs) -> Iterator[Path]:
    for path in ending_in((root / pairs.masks).iterdir(), pairs.mask_ending):
        if path.suffix.lower() == ".png" and not path.name.startswith("."):
            yield path


def _split(root: Path, chosen: Mapping[str, Group]) -> Mapping[str, object] | None:
    """How one folder is divided: by lists that are there, else by a share."""
    if "all" not in chosen:
        return None
    group = chosen["all"]
    paths = [path for each in group.pairs for path in (root / each.images).iterdir()]
    keys = {one_form(path.stem).removesuffix(group.endings[0]) for path in paths}
    lists = sorted(root.rglob("*.txt"))
    found: dict[str, str] = {}
    for split, names in LISTS.items():
        there = [path for name in names for path in lists if path.name == name and _names_of(path) & keys]
        if there:
            found[split] = there[0].relative_to(root).as_posix()
    return found if len(found) == len(LISTS) else {"share": SHARE, "seed": 0}


def _names_of(path: Path) -> set[str]:
    try:
        return {bare(Path(one_form(line).split()[0]).name) for line in lines_of(path, "") if line.split()}
    except UserError:
        return set()


def _written(
    root: Path, chosen: Mapping[str, Group], split: Mapping[str, object] | None, seen: Seen, names: Mapping[int, str]
) -> str:
    """The YAML, each class on a line of its own with what is known of it."""
    first = next(iter(chosen.values()))
    lines = [
        "# Written by `kdtune data init`. Correct it, above all the names of classes; then `kdtune data check FILE`.",
        "name: folder",
        f"root: {_plain(str(root))}  # or a path below --data-root, for other machines",
        f"images: {_patterns(chosen, 'images')}",
        f"masks: {_patterns(chosen, 'masks')}",
    ]
    lines += [f"split: {_flow(split)}"] if split is not None else []
    lines += [f"{key}: {_plain(ending)}" for key, ending in zip(ENDINGS, first.endings, strict=True) if ending]
    classes, void = _classes(seen, names)
    if len(classes) < 2:
        raise UserError(f"{root}: its masks hold {len(classes)} value besides {IGNORE}: two classes are the least")
    total = seen.pixels.total()
    lines += [f"classes:  # in {seen.masks} masks: share of the pixels, masks that have it"]
    for number, value in enumerate(classes):
        share, having = 100 * seen.pixels[value] / total, seen.masks_with[value]
        known = names.get(value) or f"class {number}"
        black = "; if it means no label: under ignore" if seen.kind == "colours" and value == 0 else ""
        lines.append(f"  - {_plain(known)}  # {number}: {_value(seen, value)}, {share:.3g} %, {having}{black}")
    if seen.kind == "colours":
        lines += ["masks_are: colours", "colours:", *(f"  - {list(_rgb(value))}" for value in classes)]
    else:
        palette = _palette(seen, classes)
        lines += [f"ids: {classes}"] if classes != list(range(len(classes))) else []
        lines += ["colours:  # in which the classes are shown", *(f"  - {list(each)}" for each in palette)]
    ignored = [list(_rgb(value)) if seen.kind == "colours" else value for value in void]
    if seen.kind == "indices" and IGNORE not in [*ignored, *classes]:
        ignored.append(IGNORE)
    lines += [f"ignore: {ignored}  # without a class"]
    return "\n".join(lines) + "\n"


def _classes(seen: Seen, names: Mapping[int, str]) -> tuple[list[int], list[int]]:
    """The values (or colours) of classes, and those without one; 255 is a class where there is but one other value."""
    values = sorted(seen.pixels)
    void = [value for value in values if VOID.fullmatch(names.get(value, ""))]
    classes = [value for value in values if value not in void]
    if seen.kind == "indices" and IGNORE in classes and (void or len(classes) != 2):
        return [value for value in classes if value != IGNORE], [*void, IGNORE]
    return classes, void


def _patterns(chosen: Mapping[str, Group], part: Literal["images", "masks"]) -> str:
    """The pattern of both, or of each split."""

    def pattern(group: Group) -> str:
        beside = group.images == group.masks and part == "masks"  # photographs and masks lie in one folder
        side = group.images if part == "images" else group.masks
        return side.pattern(group.sign, "*.png" if beside else "*")

    if "all" in chosen:
        return _plain(pattern(chosen["all"]))
    return _flow({split: pattern(each) for split, each in chosen.items()})


def _palette(seen: Seen, classes: Sequence[int]) -> list[Colour]:
    """Of masks with a palette its colours, else such as are easily told apart."""
    own = [tuple(seen.palette[3 * value : 3 * value + 3]) for value in classes]
    fit = all(len(each) == 3 for each in own) and len(set(own)) == len(own)
    grey = all(len(set(each)) == 1 for each in own)  # Pillow's palette of a mask that has none of its own
    return [(each[0], each[1], each[2]) for each in own] if fit and not grey else enough((), len(classes))


def _value(seen: Seen, value: int) -> str:
    return f"colour {_rgb(value)}" if seen.kind == "colours" else f"value {value}"


def _rgb(code: int) -> Colour:
    return code >> 16, code >> 8 & 255, code & 255


def _plain(word: str) -> str:
    """A word as YAML, in quotes where it needs them."""
    return yaml.safe_dump(word, width=10_000).removesuffix("\n").removesuffix("\n...")


def _flow(data: Mapping[str, object]) -> str:
    return yaml.safe_dump(dict(data), default_flow_style=True, sort_keys=False, width=10_000).strip()


def _told(chosen: Mapping[str, Group], split: Mapping[str, object] | None, seen: Seen) -> Iterator[str]:
    for name, each in chosen.items():
        of = "images" if name == "all" else f"images for {name}"
        yield f"{each.count} {of} in {each.images.shown(each.sign)}, masks in {each.masks.shown(each.sign)}"
        also = [f"masks for {pairs.images} are in {other}, too" for pairs in each.pairs for other in pairs.also]
        if also:
            yield f"{also[0]}: correct `masks` if those are meant{_more(len(also) - 1)}"
    if split is not None and "share" in split:
        yield f"nothing tells training from validation: {SHARE:.0%} are drawn for validation"
    elif split is not None:
        yield f"lists tell training from validation: {split['train']}, {split['val']}"
    sizes = [f"{width}x{height} ({count})" for (height, width), count in seen.sizes.most_common(3)]
    more = f" and {len(seen.sizes) - 3} more" if len(seen.sizes) > 3 else ""
    yield f"masks of {seen.kind}: {len(seen.pixels)} different in {seen.masks} masks; pixels {', '.join(sizes)}{more}"


def _told_names(listed: Listed, names: Mapping[int, str], seen: Seen) -> Iterator[str]:
    """Where names come from, and what has none."""
    classes, _ = _classes(seen, names)
    if IGNORE in classes and seen.kind == "indices":
        yield f"values {classes[0]} and {IGNORE} are taken for two classes"
    if names:
        unnamed = [value for value in classes if value not in names]
        yield f"names from {listed.file}" + (f": none for {len(unnamed)} of {len(classes)} classes" if unnamed else "")
    elif listed.file:
        yield f"{listed.file} tells no colours: no class has a name"


def _told_rest(found: Surveyed, chosen: Mapping[str, Group]) -> Iterator[str]:
    """What the description does not hold."""
    rest = [*left_out(found, chosen), *found.unread]
    for line in rest[:FEW]:
        yield f"left out: {line}"
    if rest[FEW:]:
        yield f"left out: {len(rest) - FEW} more such folders"


def _more(count: int) -> str:
    return f" ({count} more folders are such)" if count else ""
