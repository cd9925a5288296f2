"""The names of classes, as a list of them lies beside masks: in one of many forms, for none is a standard."""

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kdtune.base import UserError
from kdtune.datasets.files import lines_of

FILES = ("classes.txt", "labelmap.txt", "label_colors.txt", "class_dict.csv", "class_names.txt", "labels.txt")
HEADERS = {  # words of a first line that tells the columns
    *("name", "class", "classes", "class_name", "label", "labels", "category"),
    *("id", "index", "value", "class_id", "class_index", "label_id", "parts", "actions"),
    *("r", "g", "b", "red", "green", "blue", "rgb", "color", "colour", "color_rgb"),
}


@dataclass(frozen=True)
class Listed:
    """Names of classes and where they come from."""

    file: str  # empty: there is no list
    of_values: dict[int, str]
    of_colours: dict[int, str]  # a colour as one number


@dataclass(frozen=True)
class _Line:
    """What a line holds."""

    before: tuple[int, ...]  # numbers
    name: str
    behind: tuple[int, ...]
    whole: str  # the name with a number that stands before it

    @property
    def colour(self) -> int | None:
        """The last three numbers behind the name, or before it."""
        rgb = next((each[-3:] for each in (self.behind, self.before) if len(each) >= 3), None)
        return None if rgb is None or max(rgb) > 255 else rgb[0] << 16 | rgb[1] << 8 | rgb[2]


def listed_in(root: Path) -> Listed:
    """The names in the first list that lies in a folder and can be read."""
    for name in FILES:
        try:
            lines = lines_of(root / name, "") if (root / name).is_file() else []
        except UserError:
            continue
        if found := _parsed(lines):
            return Listed(
                name, _of_values(found), {code: each.name for each in found if (code := each.colour) is not None}
            )
    return Listed("", {}, {})


def _parsed(lines: Sequence[str]) -> list[_Line]:
    """``name``, ``7 name``, ``7: name``, ``name,r,g,b``, ``name:r,g,b``, ``r g b name``, ``7,name,r,g,b``."""
    shown = [re.sub(r"^(\d+)[.)]\s+", r"\1 ", line.strip()) for line in lines]
    shown = [re.sub(r"[:;\t]", ",", line) for line in shown if line and not line.startswith("#")]
    rows = [[each.strip() for each in fields if each.strip()] for fields in csv.reader(shown, skipinitialspace=True)]
    if rows and len(rows[0]) > 1 and {word.casefold() for word in rows[0]} <= HEADERS:
        del rows[0]
    return [line for row in rows if (line := _line(row))]


def _line(fields: Sequence[str]) -> _Line | None:
    """The numbers before the first word, that word, and the numbers behind it."""
    before: list[int] = []
    for i, field in enumerate(fields):
        words = field.split()
        own = len(before)
        while words and words[0].isdecimal():
            before.append(int(words.pop(0)))
        if words:
            behind = words[-3:] if len(words) > 3 and all(word.isdecimal() for word in words[-3:]) else []
            words = words[: len(words) - len(behind)]
            rest = next(
                (j for j in range(i + 1, len(fields)) if not fields[j].replace(" ", "").isdecimal()), len(fields)
            )
            behind += [number for each in fields[i + 1 : rest] for number in each.split()]
            name = " ".join(words)
            whole = " ".join([*map(str, before[own:]), name])
            return _Line(tuple(before), name, tuple(map(int, behind)), whole)
    return None


def _of_values(lines: Sequence[_Line]) -> dict[int, str]:
    """The name of each value: the number that each line begins with, or has behind the name; else its place."""
    for numbers in ([line.before for line in lines], [line.behind for line in lines]):
        values = [each[0] for each in numbers if len(each) in (1, 4)]  # 4: a colour, too
        if len(set(values)) == len(lines):
            return {value: line.name for value, line in zip(values, lines, strict=True)}
    coloured = all(line.colour is not None for line in lines)
    return {i: line.name if coloured else line.whole for i, line in enumerate(lines)}
