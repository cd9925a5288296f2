"""``kdtune data init``: the description of a folder of images and masks, for its owner to correct."""

import csv
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from kdtune.base import IGNORE, Split, UserError
from kdtune.datasets.colours import Colour, enough
from kdtune.datasets.files import bare, lines_of
from kdtune.datasets.survey import Pairs, Place, Seen, pairs_in, seen_in, split_of

SHARE = 0.2  # of the images, for validation, where nothing tells the splits apart
VOID = re.compile(r"void|ignored?|unlabell?ed|unknown|unclassified", re.IGNORECASE)
LISTS: dict[Split, tuple[str, ...]] = {"train": ("train.txt",), "val": ("val.txt", "valid.txt", "validation.txt")}
CLASS_LISTS = ("classes.txt", "labelmap.txt", "label_colors.txt", "class_dict.csv", "class_names.txt", "labels.txt")


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
    pairs = pairs_in(root)
    chosen = _chosen(pairs)
    masks = sorted(path for each in chosen.values() for path in _masks(root, each))
    seen = seen_in(masks)
    names = _names(root, seen)
    split = _split(root, chosen)
    return Found(_written(root, chosen, split, seen, names), tuple(_told(chosen, split, seen)))


def _chosen(pairs: Sequence[Pairs]) -> dict[str, Pairs]:
    """The largest pair of folders for each split, or one that is to be divided (under the key ``all``)."""
    by_split: dict[str, Pairs] = {}
    for each in pairs:
        by_split.setdefault(split_of(each.images) or "all", each)
    if "val" not in by_split and "test" in by_split:
        by_split["val"] = by_split["test"]
    if "train" in by_split and "val" in by_split:
        return {split: by_split[split] for split in ("train", "val")}
    return {"all": by_split.get("all") or by_split.get("train") or pairs[0]}


def _masks(root: Path, pairs: Pairs) -> Iterator[Path]:
    for path in (root / pairs.masks).iterdir():
        if path.suffix.lower() == ".png" and path.stem.endswith(pairs.mask_ending) and not path.name.startswith("."):
            yield path


def _split(root: Path, chosen: Mapping[str, Pairs]) -> Mapping[str, object] | None:
    """How one folder is divided: by lists that are there, else by a share."""
    if "all" not in chosen:
        return None
    keys = {path.stem.removesuffix(chosen["all"].image_ending) for path in (root / chosen["all"].images).iterdir()}
    found: dict[str, str] = {}
    for split, names in LISTS.items():
        for path in sorted(root.rglob("*.txt")):
            if path.name in names and _names_of(path) & keys:
                found.setdefault(split, path.relative_to(root).as_posix())
    return dict(found) if len(found) == len(LISTS) else {"share": SHARE, "seed": 0}


def _names_of(path: Path) -> set[str]:
    try:
        return {bare(Path(line.split()[0]).name) for line in lines_of(path, "") if line.split()}
    except UserError:
        return set()


def _names(root: Path, seen: Seen) -> dict[int, str]:
    """Value (or colour as a number) -> name, from a list of classes that lies there."""
    for name in CLASS_LISTS:
        path = root / name
        if path.is_file():
            try:
                found = _class_list(path)
            except UserError:
                continue
            if seen.kind == "colours":
                return {code: word for code, word in found if code is not None}
            return {i: word for i, (_, word) in enumerate(found)}
    return {}


def _class_list(path: Path) -> list[tuple[int | None, str]]:
    """Colour, if it is told, and name of each line: ``name``, ``name:r,g,b``, ``name,r,g,b``, ``r g b name``."""
    found: list[tuple[int | None, str]] = []
    lines = [line.strip() for line in lines_of(path, "") if line.strip() and not line.startswith("#")]
    for fields in csv.reader([re.sub(r"[:\t]+| +(?=\d)|(?<=\d) +", ",", line) for line in lines]):
        words = [each.strip() for each in fields if each.strip()]
        numbers = [int(each) for each in words if each.isdecimal() and int(each) < 256]
        name = next((each for each in words if not each.isdecimal()), None)
        if name is not None and words[:4] not in (["name", "r", "g", "b"], ["label", "color_rgb", "parts", "actions"]):
            code = numbers[0] << 16 | numbers[1] << 8 | numbers[2] if len(numbers) >= 3 else None
            found.append((code, name))
    return found


def _written(
    root: Path, chosen: Mapping[str, Pairs], split: Mapping[str, object] | None, seen: Seen, names: Mapping[int, str]
) -> str:
    """The YAML, each class on a line of its own with what is known of it."""
    first = next(iter(chosen.values()))
    lines = [
        "# Written by `kdtune data init`. Correct it, above all the names of classes; then `kdtune data check FILE`.",
        "name: folder",
        f"root: {_plain(str(root))}  # or a path below --data-root, for other machines",
        f"images: {_patterns(chosen, 'images', apart=first.images == first.masks)}",
        f"masks: {_patterns(chosen, 'masks', apart=first.images == first.masks)}",
    ]
    lines += [f"split: {_flow(split)}"] if split is not None else []
    lines += [f"{key}: {_plain(ending)}" for key, ending in _endings(first) if ending]
    values = sorted(seen.pixels)
    void = [value for value in values if VOID.fullmatch(names.get(value, "")) or _is_void(seen, value)]
    classes = [value for value in values if value not in void]
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
    if seen.kind == "indices" and IGNORE not in ignored:
        ignored.append(IGNORE)
    lines += [f"ignore: {ignored}  # without a class"]
    return "\n".join(lines) + "\n"


def _is_void(seen: Seen, value: int) -> bool:
    return seen.kind == "indices" and value == IGNORE


def _patterns(chosen: Mapping[str, Pairs], part: str, apart: bool) -> str:
    """The pattern of both, or of each split; ``apart``: photographs and masks lie in one folder."""
    ending = "*.png" if part == "masks" else "*"

    def pattern(pairs: Pairs) -> str:
        place: Place = getattr(pairs, part)
        tail = ending if apart else "*"
        return tail if place == Place(".") else f"{place}/{tail}"

    if "all" in chosen:
        return _plain(pattern(chosen["all"]))
    return _flow({split: pattern(each) for split, each in chosen.items()})


def _endings(pairs: Pairs) -> list[tuple[str, str]]:
    return [("image_ending", pairs.image_ending), ("mask_ending", pairs.mask_ending)]


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


def _told(chosen: Mapping[str, Pairs], split: Mapping[str, object] | None, seen: Seen) -> Iterator[str]:
    for name, each in chosen.items():
        of = "images" if name == "all" else f"images for {name}"
        yield f"{each.count} {of} in {each.images}, masks in {each.masks}"
    if split is not None and "share" in split:
        yield f"nothing tells training from validation: {SHARE:.0%} are drawn for validation"
    sizes = [f"{width}x{height} ({count})" for (height, width), count in seen.sizes.most_common(3)]
    more = f" and {len(seen.sizes) - 3} more" if len(seen.sizes) > 3 else ""
    yield f"masks of {seen.kind}: {len(seen.pixels)} different in {seen.masks} masks; pixels {', '.join(sizes)}{more}"
