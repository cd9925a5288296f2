"""The report's figures in which each line is a method or a class: gains, final scores, IoU of classes, energy."""

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from kdtune.answers.cells import scientific
from kdtune.answers.ranking import Row
from kdtune.answers.simultaneous import ALPHA
from kdtune.report.facts import method_name
from kdtune.report.figures import canvas, legend, short
from kdtune.report.style import BLUE, COLOURS, INK, MIOU, MUTED, ORANGE, PAPER, SIGNS
from kdtune.report.thinning import MARKERS
from kdtune.study.names import is_distilled

FINAL_LINE, FINAL_REST = 0.46, 1.55  # inches of the figures of a comparison: of each method, and of all else
MANY, MANY_LINE = 12, 0.3  # of more methods than this each has less room
CLASSES_AT_ONCE = 38  # of one figure; a dataset of more has several


def gains(
    title: str,
    methods: Sequence[str],
    found: Sequence[Any],
    images: Mapping[str, tuple[float, float]],
    published: Mapping[str, float],
    view: tuple[float, float],
) -> Figure:
    """Difference to the tuned student alone with its 95 % intervals, a line per method [mIoU points].

    ``methods``: all lines, in their order. ``found``: gains of ``kdtune.answers.significance``, each with a difference.
    ``images``: the interval for other images of each method that has one. ``published``: what publications gain with
    their terms on their own students, likewise. ``view``: the ends of the scale.
    """
    figure, axes = canvas(_height(len(methods)), title)
    axes.axvline(0.0, color=INK, lw=1.0, label="student alone")
    for gain in found:
        place = methods.index(gain.method)
        sure = gain.p is not None and gain.p < ALPHA
        colour = BLUE if sure else MUTED
        if gain.low is not None:
            axes.plot([gain.low, gain.high], [place, place], color=colour, lw=2.2, solid_capstyle="butt",
                      label="95 % interval" if gain is found[0] else "")  # fmt: skip
        if gain.method in images:
            axes.plot(images[gain.method], [place + 0.22] * 2, color=INK, lw=1.0, solid_capstyle="butt")
        axes.plot([gain.difference], [place], "o", color=colour, ms=8, mfc=colour if sure else PAPER, mew=1.8)
    known = [(gain, methods.index(method)) for method, gain in published.items()]
    if known:
        axes.plot(*zip(*known, strict=True), "s", color=MUTED, mfc=PAPER, ms=8, label="as published", zorder=1)
    _lines(axes, [method_name(method).removeprefix("distilled with ") for method in methods])
    axes.set_xlim(view)
    axes.set_xlabel("difference in mIoU [points]")
    legend(figure, axes)
    return figure


def _height(methods: int) -> float:
    return (FINAL_LINE if methods <= MANY else MANY_LINE) * methods + FINAL_REST


def _lines(axes: Any, names: Sequence[str]) -> None:
    """A named line per place, the first on top."""
    axes.set_yticks(range(len(names)), [short(name, 24) for name in names])
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.xaxis.set_major_locator(MaxNLocator(5))


def final_scores(
    title: str,
    final: Sequence[Row],
    seeds: Mapping[str, Sequence[float]],
    paper: Sequence[Row],
    view: tuple[float, float] | None = None,
) -> Figure:
    """Mean and deviation of each method, its seeds as dots, the paper's mean behind; ``view``: the scale's ends."""
    figure, axes = canvas(_height(len(final)), title)
    for place, row in enumerate(final):
        values = seeds.get(row["method"], [])
        axes.plot(values, [place] * len(values), "o", color=MUTED, ms=4, alpha=0.8, label="" if place else "one seed")
        if row["miou_mean"] is None:
            continue  # not all of its runs have ended
        axes.errorbar(
            [row["miou_mean"]], [place], xerr=[row["miou_std"] or 0.0], fmt="D", color=BLUE, ms=7, capsize=4, lw=1.6,
            label="" if place else "mean ± standard deviation",
        )  # fmt: skip
    theirs = {row["method"]: row["miou_mean"] for row in paper}
    known = [(theirs[row["method"]], i) for i, row in enumerate(final) if theirs.get(row["method"]) is not None]
    if known:
        axes.plot(*zip(*known, strict=True), "s", color=MUTED, mfc=PAPER, ms=8, label="published", zorder=1)
    _lines(axes, [method_name(row["method"]).removeprefix("distilled with ") for row in final])
    if view is not None:
        axes.set_xlim(view)
    axes.set_xlabel(MIOU)
    legend(figure, axes)
    return figure


_LOOKS: dict[str, dict[str, Any]] = {
    "student": {"color": ORANGE, "marker": "s", "ms": 6},
    "distilled": {"color": BLUE, "marker": "o", "ms": 7},
    "teacher": {"color": INK, "marker": "|", "ms": 11, "mew": 2.0},
}


def class_scores(title: str, table: pa.Table) -> list[Figure]:
    """IoU of each class, a line per class from the student's to the distilled student's; in several figures if many."""
    return [
        _class_scores(title if first == 0 else f"{title}, continued", table.slice(first, CLASSES_AT_ONCE).to_pylist())
        for first in range(0, table.num_rows, CLASSES_AT_ONCE)
    ]


def _class_scores(title: str, rows: Sequence[Row]) -> Figure:
    figure, axes = canvas(0.245 * len(rows) + 1.25, title)
    for place, row in enumerate(rows):
        if row.get("student") is not None and row.get("distilled") is not None:
            axes.plot([row["student"], row["distilled"]], [place, place], color=MUTED, lw=1.6, zorder=1)
    for role, look in _LOOKS.items():
        known = [(row[role], place) for place, row in enumerate(rows) if row.get(role) is not None]
        if known:
            axes.plot(*zip(*known, strict=True), ls="none", label=role, **look)
    for place, row in enumerate(rows):
        if all(row.get(role) is None for role in _LOOKS):
            axes.text(1.0, place, "absent from the validation images", va="center", color=MUTED, fontsize=9)
    _lines(axes, [row["class"] for row in rows])
    axes.set_xlim(-2, 102)
    axes.set_xlabel("IoU [%]")
    legend(figure, axes)
    return figure


def energy(title: str, trials: Sequence[Row]) -> Figure:
    """The mIoU over the energy that a trial took, a sign per method; of many the distilled ones share theirs."""
    figure, axes = canvas(3.4, title)
    kind_of = {row["trial_id"]: "teacher" if row["stage"] == "teacher" else row["method"] for row in trials}
    distilled = {kind for kind in kind_of.values() if kind != "teacher" and is_distilled(kind)}
    if len(distilled) > MANY:
        kind_of = {id_: "distilled" if kind in distilled else kind for id_, kind in kind_of.items()}
    for i, kind in enumerate(dict.fromkeys(kind_of.values())):
        those = [row for row in trials if kind_of[row["trial_id"]] == kind]
        x, y = [row["energy_kwh"] for row in those], [row["miou"] for row in those]
        colour, sign = COLOURS[i % len(COLOURS)], SIGNS[i % len(SIGNS)]
        axes.plot(x, y, sign, color=colour, ms=6, alpha=0.8, label=short(kind, 16), mec=PAPER, mew=0.5,
                  rasterized=len(those) > MARKERS)  # fmt: skip
    amounts(axes, [row["energy_kwh"] for row in trials])
    axes.set_xlabel("energy of the trial [kWh]")
    axes.set_ylabel(MIOU)
    legend(figure, axes)
    return figure


def amounts(axes: Any, given: Sequence[float]) -> None:
    """An axis of what was used; logarithmic where that is a few times and dozens of times as much."""
    values = [value for value in given if value > 0]
    if values and max(values) > 8 * min(values) and len(values) == len(given):
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.xaxis.set_minor_locator(NullLocator())
    if values and max(values) < 0.01:  # zeros would be all that has room
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: scientific(value) if value > 0 else "0"))
