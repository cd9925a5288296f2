"""The report's figures, from rows of its tables; see ``kdtune.report.svg`` for their style.

Each is 5 inches wide, so that its letters are legible where the page gives it 350 pixels. mIoU and IoU are in percent.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.collections import LineCollection
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter, MaxNLocator

from kdtune.answers.cells import scientific
from kdtune.answers.ranking import Row
from kdtune.report.page import plain
from kdtune.report.style import (
    ANNOTATED,
    BLUE,
    MIOU,
    MUTED,
    ORANGE,
    PAPER,
    RASTERISED,
    RULE,
    STATUS,
    VERMILION,
    WIDTH,
)


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


def legend(figure: Figure, axes: Axes) -> None:
    """What the signs mean, below the axes; three a line."""
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, loc="outside lower center", ncols=3, handlelength=1.6, columnspacing=1.2)


def colour_range(values: Sequence[float]) -> Normalize:
    """Colours for mIoU: the few that are far below the rest must not take all the difference from the others."""
    if not values:
        return Normalize(0.0, 1.0)
    top, middle = max(values), statistics.median(values)
    low = max(min(values), top - 3.0 * (top - middle)) if top > middle else min(values)
    return Normalize(low, top if top > low else low + 1.0)


def heat_map(title: str, rows: Sequence[Row], colours: Normalize) -> Figure:
    """The mIoU by weight decay (down) and learning rate (across); hatched: stopped early; dashed: no such trial."""
    decays, rates = (sorted({row[name] for row in rows}, reverse=True) for name in ("weight_decay", "lr"))
    size = 0.0 if len(rates) > ANNOTATED else 10.5 if len(rates) <= 6 else 8.5
    figure, axes = canvas((0.62 if size else 0.3) * min(len(decays), 20) + 1.35, title)
    axes.grid(False)
    shades = matplotlib.colormaps["cividis"]
    cells = {(row["weight_decay"], row["lr"]): row for row in rows}
    for y, decay in enumerate(decays):
        for x, rate in enumerate(rates):
            _cell(axes, (x, y), cells.get((decay, rate)), colours, size)
    axes.set_xlim(-0.5, len(rates) - 0.5)
    axes.set_ylim(len(decays) - 0.5, -0.5)
    axes.set_xticks(*_named(rates))
    axes.set_yticks(*_named(decays))
    if len(rates) > ANNOTATED:
        axes.tick_params(axis="x", labelrotation=60)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    axes.set_xlabel("learning rate")
    axes.set_ylabel("weight decay")
    _colour_bar(figure, axes, matplotlib.cm.ScalarMappable(colours, shades), rows)
    return figure


def _named(values: Sequence[float]) -> tuple[list[int], list[str]]:
    """Places and names of a row of cells, as many as have room."""
    step = math.ceil(len(values) / 20)
    places = list(range(0, len(values), step))
    return places, [scientific(values[i]) for i in places]


def _cell(axes: Axes, at: tuple[int, int], row: Row | None, colours: Normalize, size: float) -> None:
    x, y = at
    corner = (x - 0.47, y - 0.47)
    if row is None or row["status"] is None:
        axes.add_patch(Rectangle(corner, 0.94, 0.94, fill=False, edgecolor=MUTED, linestyle=(0, (3, 3))))
        return
    miou, status = row["miou"], row["status"]
    shown = miou is not None and status not in ("diverged", "failed")
    if not shown:
        axes.add_patch(Rectangle(corner, 0.94, 0.94, facecolor=RULE, edgecolor="none"))
        if size:
            axes.text(x, y, status, ha="center", va="center", fontsize=size - 2)
        return
    red, green, blue, _ = matplotlib.colormaps["cividis"](colours(miou))
    ink = "#000000" if 0.299 * red + 0.587 * green + 0.114 * blue > 0.5 else "#ffffff"
    best = bool(row["best"])
    stopped = status == "stopped"
    axes.add_patch(
        Rectangle(
            corner, 0.94, 0.94, facecolor=(red, green, blue), edgecolor=ink if stopped else "none",
            linewidth=0.0, hatch="////" if stopped else None, alpha=None,
        )
    )  # fmt: skip
    if best:
        axes.add_patch(Rectangle(corner, 0.94, 0.94, fill=False, edgecolor=VERMILION, linewidth=3.0, zorder=3))
    if not size:
        return
    if stopped:  # on a plain ground: letters on a hatching cannot be read
        axes.add_patch(Rectangle((x - 0.4, y - 0.3), 0.8, 0.6, facecolor=(red, green, blue), edgecolor="none"))
    text = f"{miou:.2f}\n@ {row['step']}" if stopped else f"{miou:.2f}"
    axes.text(
        x, y, text, ha="center", va="center", color=ink, fontsize=size - (1.5 if stopped else 0), linespacing=1.1,
        fontweight="bold" if best else "normal", zorder=4,
    )  # fmt: skip


def _colour_bar(figure: Figure, axes: Axes, colours: Any, rows: Sequence[Row]) -> None:
    below = any(row["miou"] is not None and row["miou"] < colours.norm.vmin for row in rows)
    bar = figure.colorbar(colours, ax=axes, fraction=0.05, pad=0.02, aspect=22, extend="min" if below else "neither")
    if bar.solids is not None:
        bar.solids.set_rasterized(True)
    bar.outline.set_visible(False)
    bar.ax.tick_params(length=2, labelsize=9)
    bar.ax.yaxis.set_major_locator(MaxNLocator(5))
    bar.set_label(MIOU)


def scattered_grid(title: str, rows: Sequence[Row], colours: Normalize) -> Figure:
    """As ``heat_map``, of a search whose points are on no grid."""
    figure, axes = canvas(3.6, title)
    shades = matplotlib.colormaps["cividis"]
    for status, (_, marker, words) in STATUS.items():
        those = [row for row in rows if row["status"] == status and row["miou"] is not None]
        if those:
            x, y, z = ([row[name] for row in those] for name in ("lr", "weight_decay", "miou"))
            sign = marker or "o"
            axes.scatter(x, y, c=z, cmap=shades, norm=colours, marker=sign, s=26, label=words, linewidths=1.2)
    for row in rows:
        if row["best"] and row["status"] is not None:
            axes.plot([row["lr"]], [row["weight_decay"]], "o", mfc="none", mec=VERMILION, ms=11, mew=2)
    for name, axis in (("lr", axes.xaxis), ("weight_decay", axes.yaxis)):
        if all(row[name] > 0 for row in rows):
            (axes.set_xscale if name == "lr" else axes.set_yscale)("log")
        axis.set_major_formatter(FuncFormatter(lambda value, _: scientific(value)))
        axis.set_minor_formatter(FuncFormatter(lambda value, _: ""))
    axes.set_xlabel("learning rate")
    axes.set_ylabel("weight decay")
    legend(figure, axes)
    _colour_bar(figure, axes, matplotlib.cm.ScalarMappable(colours, shades), rows)
    return figure


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
    axes.plot(curve.x, curve.mean, label=curve.label, ms=5.5, lw=1.4, **look)
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
) -> Figure:
    """The mIoU over steps, a line per trial; where early stopping ended one, a cross; the ``best`` run is bold."""
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
