"""The report's figures of learning rate and weight decay: heat maps, and points where they are on no grid."""

import math
from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize, to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter, MaxNLocator

from kdtune.answers.cells import scientific
from kdtune.answers.ranking import Row
from kdtune.report.figures import canvas, legend
from kdtune.report.style import ANNOTATED, MIOU, MUTED, RULE, STATUS, VERMILION
from kdtune.report.thinning import CELLS, MARKERS

PALE = 0.55  # opacity of a stopped trial where cells are too small for a hatching


def _shown(row: Row) -> bool:
    """Whether its cell has the colour of its mIoU."""
    return row["miou"] is not None and row["status"] not in ("diverged", "failed")


def heat_map(title: str, rows: Sequence[Row], colours: Normalize) -> Figure:
    """The mIoU by weight decay (down) and learning rate (across); hatched: stopped early; dashed: no such trial.

    Of more than ``CELLS`` an image, where stopped ones are paler, and those of no trial empty.
    """
    decays, rates = (sorted({row[name] for row in rows}, reverse=True) for name in ("weight_decay", "lr"))
    size = 0.0 if len(rates) > ANNOTATED else 10.5 if len(rates) <= 6 else 8.5
    figure, axes = canvas((0.62 if size else 0.3) * min(len(decays), 20) + 1.35, title)
    axes.grid(False)
    shades = matplotlib.colormaps["cividis"]
    cells = {(row["weight_decay"], row["lr"]): row for row in rows}
    if len(decays) * len(rates) > CELLS:
        _image(axes, [[cells.get((decay, rate)) for rate in rates] for decay in decays], colours)
    else:
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
    if not _shown(row):
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


def _image(axes: Axes, cells: Sequence[Sequence[Row | None]], colours: Normalize) -> None:
    """The cells as the pixels of an image; the best is outlined."""
    miou, pixels = np.zeros((len(cells), len(cells[0]))), np.zeros((len(cells), len(cells[0]), 4))
    at = {
        (y, x): row for y, line in enumerate(cells) for x, row in enumerate(line) if row and row["status"] is not None
    }
    for place, row in at.items():
        miou[place] = row["miou"] or 0.0
    shades = matplotlib.colormaps["cividis"](colours(miou))
    for place, row in at.items():
        colour = shades[place][:3] if _shown(row) else to_rgb(RULE)
        pixels[place] = (*colour, PALE if row["status"] == "stopped" else 1.0)
        if row["best"]:
            corner = (place[1] - 0.5, place[0] - 0.5)
            axes.add_patch(Rectangle(corner, 1.0, 1.0, fill=False, edgecolor=VERMILION, linewidth=2.0, zorder=3))
    axes.imshow(pixels, aspect="auto", interpolation="none")


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
            dots = axes.scatter(x, y, c=z, cmap=shades, norm=colours, marker=sign, s=26, label=words, linewidths=1.2)
            dots.set_rasterized(len(those) > MARKERS)
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
