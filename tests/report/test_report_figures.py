"""The report's figures one by one: what is large, what is odd, what nobody has."""

import base64
import io
import math
import re
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from kdtune.base import IGNORE, SegmentationDataset
from kdtune.datasets.ade20k import Ade20k
from kdtune.datasets.colours import palette_of
from kdtune.report import dots, figures, per_cost
from kdtune.report.panels import VOID, _coloured, _thinned
from kdtune.report.style import THEMED
from kdtune.report.svg import drawing, inline_svg


def test_many_points_become_an_image() -> None:
    steps = list(range(1, 101))
    for count, image in ((20, False), (500, True)):
        trials = [{"trial_id": f"t{i}", "status": "completed"} for i in range(count)]
        curves = {f"t{i}": (steps, [50 + math.sin(i + step / 9) for step in steps]) for i in range(count)}
        with drawing():
            svg = inline_svg(figures.learning_curves("many", trials, curves, None), "many", "many")
        assert ("<image" in svg) is image
        assert len(svg) < 1_000_000
        if image:
            content = re.search(r'"data:image/png;base64,([^"]+)"', svg)
            assert content
            pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(re.sub(r"\s", "", content[1])))))
            assert (pixels[..., 3] > 0).mean() > 0.05  # the lines are in it


def test_a_page_of_150_classes_has_several_figures() -> None:
    names = list(Ade20k.class_names)
    table = pa.table({"class": names, "student": [float(i % 90) for i in range(150)]})
    with drawing():
        drawn = [inline_svg(each, f"c{i}", "c") for i, each in enumerate(dots.class_scores("classes", table))]
    assert len(drawn) == 4
    assert all(sum(f">{name}</text>" in svg for svg in drawn) == 1 for name in names)


def test_what_is_far_below_does_not_take_the_colours() -> None:
    colours = figures.colour_range([71.0, 70.0, 69.0, 68.0, 3.0])
    assert (colours.vmin, colours.vmax) == (65.0, 71.0)
    assert figures.colour_range([]).vmax == 1.0
    alone = figures.colour_range([40.0, 40.0])
    assert (alone.vmin, alone.vmax) == (40.0, 41.0)


@pytest.mark.parametrize(
    ("values", "scale"), [([1, 2, 4, 8, 16], "log"), ([1, 2, 3, 4, 5], "linear"), ([0, 1, 10], "linear")]
)
def test_values_are_spaced_evenly(values: list[float], scale: str) -> None:
    curve = figures.Curve("measured", values, [50.0] * len(values), [None] * len(values))
    with drawing():
        axes = figures.sweep("stage", "value", curve, None, []).axes[0]
    assert axes.get_xscale() == scale
    low, high = axes.get_ylim()
    assert high - low >= 1.0  # of values that are all the same


def reading(method: str, seconds: float, miou: float, *, front: bool = False) -> dict[str, Any]:
    ends = {"train_seconds_low": seconds - 1, "train_seconds_high": seconds + 1}
    return {"method": method, "train_seconds": seconds, "miou_mean": miou, "miou_low": None, "miou_high": None} | (
        ends | {"front": front}
    )


def test_of_many_methods_those_have_a_sign_that_none_beats_and_the_students() -> None:
    """The same sign in both figures; the others are grey, and counted."""
    rows = [reading("student", 2.0, 60.0, front=True), *(reading(f"t{i}", 3.0 + i / 9, 55.0 + i) for i in range(30))]
    rows += [reading("untuned", 40.0, 50.0), reading("pi", 41.0, 90.0, front=True)]
    looks = per_cost._looks({"seconds": rows, "kwh": rows[:3]})
    assert list(looks) == ["pi", "student", "untuned"]  # the best first
    assert len({(look["color"], look["marker"]) for look in looks.values()}) == 3
    with drawing():
        svg = inline_svg(per_cost.reached("t", "s", "train_seconds", rows, looks), "p", "words")
    assert all(f">{name}</text>" in svg for name in ("pi", "student alone", "alone, untuned", "30 others"))
    few = per_cost._looks({"seconds": rows[:8]})
    assert len({(look["color"], look["marker"]) for look in few.values()}) == len(few) == 8


def test_energy_of_many_methods_has_room() -> None:
    trials = [{"stage": "final", "energy_kwh": 1.0 + i, "miou": 50.0 + i} for i in range(30)]
    rows = [row | {"trial_id": str(i), "method": f"t{i}" if i else "student"} for i, row in enumerate(trials)]
    with drawing():
        few, many = (inline_svg(dots.energy("e", each), "e", "words") for each in (rows[:6], rows))
    assert ">t5</text>" in few
    assert ">student</text>" in many
    assert ">distilled</text>" in many
    assert ">t5</text>" not in many


def test_figures_take_the_pages_colours_and_not_the_users_style(monkeypatch: pytest.MonkeyPatch) -> None:
    import matplotlib

    curve = figures.Curve("measured", [1, 2], [50.0, 51.0], [1.0, None])

    def drawn() -> str:
        with drawing():
            return inline_svg(figures.sweep("stage", "value", curve, None, []), "s", "words")

    svg = drawn()
    assert "var(--ink)" in svg
    assert not [colour for colour in THEMED if colour in svg]
    assert "<metadata" not in svg
    assert "<style" not in svg
    monkeypatch.setitem(matplotlib.rcParams, "font.size", 30.0)
    assert drawn() == svg
    assert matplotlib.rcParams["font.size"] == 30.0


def test_void_is_striped_and_classes_keep_their_colours() -> None:
    classes = np.zeros((40, 40), np.uint8)
    classes[:, 20:] = IGNORE
    palette = [(10, 20, 30), (200, 0, 0)]
    pixels = np.asarray(Image.open(io.BytesIO(_coloured(classes, palette))).convert("RGB"))
    assert {tuple(map(int, colour)) for colour in pixels[:, :20].reshape(-1, 3)} == {palette[0]}
    assert {tuple(map(int, colour)) for colour in pixels[:, 20:].reshape(-1, 3)} == set(VOID)


def test_large_images_are_thinned_and_labels_never_mixed() -> None:
    label = np.random.default_rng(0).choice([0, 18], size=(1024, 2048)).astype(np.uint8)
    assert _thinned(label).shape == (205, 410)
    assert set(np.unique(_thinned(label))) == {0, 18}
    assert max(_thinned(np.zeros((1024, 2048, 3), np.uint8)).shape) <= 480


def test_a_dataset_without_colours_gets_some() -> None:
    class Bare(SegmentationDataset):
        class_names: ClassVar[tuple[str, ...]] = tuple(f"c{i}" for i in range(60))

    assert len(set(palette_of(Bare(name="bare")))) == 60
    assert palette_of(Ade20k(name="ade20k")) == list(Ade20k.palette)


def test_ade20k_has_its_official_colours() -> None:
    """Wall, building, sky and, last, clock and flag."""
    palette = Ade20k.palette
    assert palette[:3] == ((120, 120, 120), (180, 120, 120), (6, 230, 230))
    assert palette[-2:] == ((102, 255, 0), (92, 0, 255))
    assert palette[6] == palette[48] == (140, 140, 140)
