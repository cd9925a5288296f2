"""The report's figures, from rows of its tables; see ``kdtune.report.svg`` for their style.

Each is 5 inches wide, so that its letters are legible where the page gives it 350 pixels. mIoU and IoU are in percent.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.collections import LineCollection
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from kdtune.answers.cells import scientific
from kdtune.answers.ranking import Row
from kdtune.report.page import plain
from kdtune.report.style import (
    BLUE,
    MIOU,
    MUTED,
    ORANGE,
    PAPER,
    RASTERISED,
    STATUS,
    WIDTH,
)
from kdtune.report.thinning import MARKERS


@dataclass(frozen=True)
class Curve:
    """A line with deviations: values of x, means and standard deviations (none: a single run)."""

    label: str
    x: Sequence[float]
    mean: Sequence[float]
    std: Sequence[float | None]


def short(text: object, most: int = 30) -> str:
    """Text that fits into a figure."""
    text = plain(text).replace("\n", " ")
    return text if len(text) <= most else text[: most - 1] + "…"


def canvas(height: float, title: str) -> tuple[Figure, Axes]:
    """An empty figure."""
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    axes = figure.add_subplot()
    axes.set_title(short(title, 46))
    return figure, axes


def at_least(axis: Axis, span: float = 1.0) -> None:
    """Widens the view of an axis of mIoU to ``span`` points: on a finer scale chance would look like a finding."""
    low, high = axis.get_view_interval()
    if high - low < span:
        middle = (low + high) / 2
        axis.set_view_interval(middle - span / 2, middle + span / 2, ignore=True)


def legend(figure: Figure, axes: Axes, columns: int = 3) -> None:
    """What the signs mean, below the axes; so many a line."""
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, loc="outside lower center", ncols=columns, handlelength=1.6, columnspacing=1.2)


def colour_range(values: Sequence[float]) -> Normalize:
    """Colours for mIoU: the few that are far below the rest must not take all the difference from the others."""
    if not values:
        return Normalize(0.0, 1.0)
    top, middle = max(values), statistics.median(values)
    low = max(min(values), top - 3.0 * (top - middle)) if top > middle else min(values)
    return Normalize(low, top if top > low else low + 1.0)


def sweep(
    title: str, label: str, measured: Curve, published: Curve | None, stopped: Sequence[tuple[float, float]]
) -> Figure:
    """The mIoU over the values of one hyperparameter, mean and deviation; the paper's values behind.

    ``stopped``: value and mIoU of trials that were stopped early, which reached less only because of that, maybe.
    """
    figure, axes = canvas(3.1, title)
    if published is not None:
        _errors(axes, published, {"color": MUTED, "marker": "s", "ls": (0, (4, 3)), "mfc": PAPER, "zorder": 1})
    _errors(axes, measured, {"color": BLUE, "marker": "o", "zorder": 3})
    if stopped:
        axes.plot(*zip(*stopped, strict=True), "x", color=ORANGE, ms=7, mew=2, label="stopped early", zorder=2)
    at_least(axes.yaxis)
    values = sorted({*measured.x, *(published.x if published else ()), *(x for x, _ in stopped)})
    _value_axis(axes, values)
    axes.set_xlabel(short(label))
    axes.set_ylabel(MIOU)
    if published is not None or stopped:
        legend(figure, axes)
    return figure


def _errors(axes: Axes, curve: Curve, look: Mapping[str, Any]) -> None:
    """Points, and bars where there is a deviation."""
    axes.plot(curve.x, curve.mean, label=curve.label, ms=5.5, lw=1.4, rasterized=len(curve.x) > MARKERS, **look)
    having = [i for i, std in enumerate(curve.std) if std is not None]
    if having:
        x, mean, std = ([values[i] or 0.0 for i in having] for values in (curve.x, curve.mean, curve.std))
        axes.errorbar(x, mean, yerr=std, fmt="none", ecolor=look["color"], elinewidth=1.2, capsize=3)


def _value_axis(axes: Axes, values: Sequence[float]) -> None:
    """Ticks at the values, as many as have room; logarithmic where that spaces them more evenly."""
    logarithmic = len(values) > 2 and values[0] > 0 and _unevenness(np.log(values)) < _unevenness(np.array(values))
    if logarithmic:
        axes.set_xscale("log")
    places = np.log(values) if logarithmic else np.array(values)
    room = 0.1 * max(float(places[-1] - places[0]), 1e-12) if len(values) else 0.0
    ticks: list[float] = []
    last = -math.inf
    for value, place in zip(values, places, strict=True):
        if place - last >= room:
            ticks.append(value)
            last = float(place)
    plain_numbers = all(0.1 <= abs(value) < 1000 for value in values)
    axes.set_xticks(ticks, [f"{value:g}" if plain_numbers else scientific(value) for value in ticks])
    axes.set_xticks([], minor=True)


def _unevenness(places: "np.ndarray[Any, np.dtype[np.float64]]") -> float:
    gaps = np.diff(places)
    return float(gaps.std() / gaps.mean())


def learning_curves(
    title: str,
    trials: Sequence[Row],
    curves: Mapping[str, tuple[Sequence[int], Sequence[float | None]]],
    best: Row | None,
    cuts: Sequence[tuple[int, float]] = (),
) -> Figure:
    """The mIoU over steps, a line per trial; where early stopping ended one, a cross; the ``best`` run is bold.

    ``cuts``: step and mIoU, where trials were judged together: those from there on went on.
    """
    figure, axes = canvas(3.1, title)
    points = sum(len(curves[row["trial_id"]][0]) for row in trials if row["trial_id"] in curves)
    for status, (colour, marker, words) in STATUS.items():
        lines = [
            _line(*curves[row["trial_id"]])
            for row in trials
            if row["status"] == status and row["trial_id"] in curves and row is not best
        ]
        lines = [line for line in lines if len(line)]
        if not lines:
            continue
        alpha = max(0.25, min(0.9, 12 / len(lines)))
        collection = LineCollection(lines, colors=colour, linewidths=1.1, alpha=alpha)
        collection.set_rasterized(points > RASTERISED)
        axes.add_collection(collection)
        ends = np.array([line[-1] for line in lines])
        look: dict[str, Any] = {"color": colour, "marker": marker or ".", "ms": 6 if marker else 4, "mew": 1.6}
        axes.plot(ends[:, 0], ends[:, 1], ls="none", **look)
        axes.plot([], [], label=words, lw=1.1, **look)
    if best is not None and best["trial_id"] in curves:
        line, words = _line(*curves[best["trial_id"]]), f"best run, {best['miou']:.2f} %"
        if len(line):
            axes.plot(line[:, 0], line[:, 1], color=BLUE, lw=2.4, label=words, marker="o", ms=3.5, zorder=4)
    if cuts:
        look = {"color": "black", "marker": "_", "ms": 14, "mew": 1.6, "ls": "none", "zorder": 5}
        axes.plot([step for step, _ in cuts], [miou for _, miou in cuts], label="judged together: went on from", **look)
    axes.autoscale_view()
    axes.set_xlim(left=0)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.set_xlabel("training step")
    axes.set_ylabel(MIOU)
    legend(figure, axes)
    return figure


def _line(steps: Sequence[int], values: Sequence[float | None]) -> "np.ndarray[Any, np.dtype[np.float64]]":
    return np.array(
        [(s, v) for s, v in zip(steps, values, strict=True) if v is not None and math.isfinite(v)], np.float64
    )
