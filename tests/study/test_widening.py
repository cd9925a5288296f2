"""What lies beyond the border of an axis, and the stages that cannot be widened."""

from pathlib import Path
from typing import Any

import pytest

from kdtune.study.file import read
from kdtune.study.widening import all_beyond, axis, beyond
from tests.support.small_study import write

POINTS = [{"w": 0.1}, {"w": 1}, {"w": 10}]
PAIRS = [{"a": 8.0, "b": 0.5}, {"a": 80.0, "b": 5.0}]


@pytest.mark.parametrize(
    ("points", "best", "expected"),
    [
        (POINTS, {"w": 10}, {"w": 100}),
        (POINTS, {"w": 0.1}, {"w": 0.01}),
        (POINTS, {"w": 1}, None),
        ([{"w": 50}, {"w": 0}, {"w": 25}], {"w": 50}, {"w": 100}),  # whatever the ratio and the order of the file
        ([{"w": 0}, {"w": 1}], {"w": 0}, None),  # nothing lies beyond 0
        ([{"w": 0}, {"w": 1}], {"w": 1}, None),  # and 1 is not so many times 0
        (PAIRS, {"a": 8.0, "b": 0.5}, {"a": 0.8, "b": 0.05}),
        ([{"w": "x"}, {"w": "y"}], {"w": "y"}, None),
    ],
)
def test_a_point_lies_as_far_beyond_the_border_as_its_neighbour_before_it(
    points: list[dict[str, Any]], best: dict[str, Any], expected: dict[str, Any] | None
) -> None:
    assert beyond(points, best) == expected


def test_all_that_may_be_tried() -> None:
    assert [*all_beyond(POINTS, 2)] == [{"w": 0.01}, {"w": 0.001}, {"w": 100}, {"w": 1000}]
    assert [*all_beyond(POINTS, 0)] == [*all_beyond([], 2)] == []


def test_the_axis_is_the_one_that_has_several_values() -> None:
    assert axis({"t": [4], "w": [1, 2]}, ()) == [{"w": 1}, {"w": 2}]
    assert axis({"t": [4]}, PAIRS) == PAIRS
    assert axis({"t": [4, 5], "w": [1, 2]}, ()) == axis({"t": [4]}, ()) == axis({}, PAIRS[:1]) == []


GRID = "      recipe.lr: [1e-1, 1e-2]\n"


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        (f"{GRID}      recipe.weight_decay: [1e-1, 1e-2]\n", "extend widens a grid of one axis, of two values or more"),
        ("      recipe.lr: [1e-1]\n", "extend widens a grid of one axis, of two values or more"),
        ("      student.dropout: [0.1, 0.5]\n", "stages[student].extend: student.dropout: "),  # 2.5 drops too much
    ],
)
def test_a_stage_that_cannot_be_widened_is_refused(tmp_path: Path, grid: str, message: str) -> None:
    (fault,), spec = read(write(tmp_path, (GRID, f"{grid}    extend: 1\n")))
    assert spec is None
    assert message in fault
