"""Several folders of images and masks that lie alike, as one pattern for the images and one for the masks."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from kdtune.base import Split
from kdtune.datasets.patterns import escaped
from kdtune.datasets.survey import Pairs, Place, Surveyed, split_of

Parts = tuple[str, ...]


@dataclass(frozen=True)
class Side:
    """Where the images lie, or the masks: folders before and behind those that differ."""

    before: Parts
    behind: Parts

    def covers(self, place: Place, sign: str | None) -> bool:
        """Whether a folder is one of them."""
        between = len(place.parts) - len(self.before) - len(self.behind)
        fits = between == 0 if sign is None else between == 1 if sign == "*" else between >= 0
        whole = (place.parts[: len(self.before)], place.parts[len(place.parts) - len(self.behind) :])
        return fits and whole == (self.before, self.behind)

    def shown(self, sign: str | None) -> str:
        """As a path, with a sign for the folders that differ."""
        return str(Place(*self.before, *([sign] if sign else []), *self.behind))

    def pattern(self, sign: str | None, tail: str) -> str:
        """Of the files; what the names of folders hold stands for itself."""
        folders = (*map(escaped, self.before), *([sign] if sign else []), *map(escaped, self.behind))
        return "/".join((*folders, tail))


@dataclass(frozen=True)
class Group:
    """Pairs of folders that one pattern finds, most images first."""

    images: Side
    masks: Side
    sign: str | None  # for the folders that differ; None: there is but one pair
    pairs: tuple[Pairs, ...]

    @property
    def count(self) -> int:
        """How many images have a mask."""
        return sum(each.count for each in self.pairs)

    @property
    def endings(self) -> tuple[str, str]:
        """Of images and masks."""
        return self.pairs[0].image_ending, self.pairs[0].mask_ending


def chosen_groups(found: Surveyed) -> dict[str, Group]:
    """The largest group for each split, or one that is to be divided (under the key ``all``)."""
    by_split: dict[Split | Literal["test", "all"], list[Pairs]] = defaultdict(list)
    for each in found.pairs:
        by_split[split_of(each.images) or "all"].append(each)
    if "val" not in by_split and "test" in by_split:
        by_split["val"] = by_split["test"]
    if "train" in by_split and "val" in by_split:
        train = _largest(by_split["train"], found)
        alike = [each for each in by_split["val"] if (each.image_ending, each.mask_ending) == train.endings]
        if alike:
            return {"train": train, "val": _largest(alike, found)}
    return {"all": _largest(by_split.get("all") or by_split.get("train") or found.pairs, found)}


def left_out(found: Surveyed, chosen: Mapping[str, Group]) -> list[str]:
    """A line for each folder of images with masks that is in no group."""
    taken = {pairs.images for group in chosen.values() for pairs in group.pairs}
    return [
        f"{each.count} image{'s' * (each.count != 1)} in {each.images}, masks in {each.masks}"
        for each in found.pairs
        if each.images not in taken
    ]


def _largest(pairs: Sequence[Pairs], found: Surveyed) -> Group:
    """The group with the most images; of equal ones that with the longest fixed part."""
    ways: dict[tuple[Side, Side, str, str], dict[Pairs, int]] = defaultdict(dict)
    for each in pairs:
        for images, masks, between in _ways(each.images.parts, each.masks.parts):
            ways[images, masks, each.image_ending, each.mask_ending][each] = between
    first = pairs[0]
    best = Group(Side(first.images.parts, ()), Side(first.masks.parts, ()), None, (first,))
    for (images, masks, *_), those in ways.items():
        group = Group(images, masks, "*" if set(those.values()) == {1} else "**", tuple(those))
        longer = (group.count, len(images.before)) > (best.count, len(best.images.before))
        if len(those) > 1 and longer and _is_closed(group, found):
            best = group
    return best


def _ways(images: Parts, masks: Parts) -> Iterator[tuple[Side, Side, int]]:
    """Each way to see the same folders in both paths: what is around them, and how many they are."""
    yield Side(images, ()), Side(masks, ()), 0
    for start in range(len(images)):
        for end in range(start + 1, len(images) + 1):
            for at in range(len(masks) - (end - start) + 1):
                if masks[at : at + end - start] == images[start:end]:
                    ours, theirs = Side(images[:start], images[end:]), Side(masks[:at], masks[at + end - start :])
                    yield ours, theirs, end - start


def _is_closed(group: Group, found: Surveyed) -> bool:
    """Whether the patterns find no other folders: images without masks, those of another split, or other masks."""
    images, masks = ({getattr(each, part) for each in group.pairs} for part in ("images", "masks"))
    beside = images if images == masks else set()
    return not any(
        group.images.covers(place, group.sign) and place not in images for place in (*found.photographs, *found.masks)
    ) and not any(group.masks.covers(place, group.sign) and place not in masks | beside for place in found.masks)
