"""What each method reaches against what one of its trainings takes: figures over seconds and over energy."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from kdtune.answers.per_cost import UNITS, per_cost
from kdtune.answers.ranking import Row
from kdtune.losses.marks import marked
from kdtune.report import dots
from kdtune.report.facts import ALONE, FINAL, method_name
from kdtune.report.figures import at_least, canvas, legend, short
from kdtune.report.page import details, figure, grid, note
from kdtune.report.study import Study, written
from kdtune.report.style import BLUE, GREEN, MIOU, MUTED, ORANGE, PURPLE, SKY, VERMILION
from kdtune.report.svg import inline_svg
from kdtune.study.names import is_distilled

NAMED = 8  # methods that each have a sign; of more only the students have one, and what no other beats
STUDENTS = {ALONE: "s", "untuned": "v", "longer": "^"}  # their signs, all of one colour
COLOURS = (BLUE, VERMILION, GREEN, PURPLE, SKY)
SIGNS = ("o", "D", "P", "X", "<", ">")  # as many as have no divisor in common with the colours: 30 pairs

_TITLES = {"seconds": "mIoU and time", "kwh": "mIoU and energy"}
_AXES = {"seconds": "training [s]", "kwh": "training [kWh]"}
_MEASURED = {
    "seconds": "the seconds of a training as it ran (fewer where it found stored what the teacher makes), without its "
    "evaluations",
    "kwh": "the energy of a training with a teacher of its own, without its evaluations",
}
_LACKING = {"seconds": "No time of these trainings", "kwh": "No energy of these trainings"}


def against_cost(study: Study) -> str:
    """The two figures, or why there is none."""
    tables = {unit: per_cost(study.table(FINAL), study.stored.trials, unit) for unit in UNITS}
    rows = {unit: table.to_pylist() for unit, table in tables.items()}
    if not rows["seconds"]:
        return note("No method has all its runs in stage 'final' yet.")
    known = {unit: [row for row in rows[unit] if row[UNITS[unit]] is not None] for unit in UNITS}
    looks = _looks(known)
    figures, below = [], ""
    for unit, methods in known.items():
        if not methods:
            below += note(f"{_LACKING[unit]} was measured, so mIoU cannot be set against it.")
            continue
        told = [(marked(row["method"]), row["miou_mean"], row[UNITS[unit]]) for row in methods]
        words = "; ".join(f"{method} {miou:.2f} % for {cost:.3g}" for method, miou, cost in told)
        drawn = reached(_TITLES[unit], _AXES[unit], UNITS[unit], methods, looks)
        caption = _caption(study, unit, methods, len(rows[unit]) - len(methods), looks)
        svg = inline_svg(drawn, f"per-{unit}", f"mIoU over {_AXES[unit]}: {words}")
        figures.append(figure(svg, f"per-{unit}", caption))
        below += details(f"{_TITLES[unit]} as a table", written(tables[unit], f"per-{unit}"))
    return grid(figures) + below


def _looks(known: Mapping[str, Sequence[Row]]) -> dict[str, dict[str, Any]]:
    """Method -> its sign, the same in all figures, the best first; those without are drawn alike."""
    best = sorted((row for rows in known.values() for row in rows), key=lambda row: -row["miou_mean"])
    methods = list(dict.fromkeys(row["method"] for row in best))
    unbeaten = {row["method"] for row in best if row["front"]}
    if len(methods) > NAMED:
        methods = [method for method in methods if method in unbeaten or not is_distilled(method)]
    distilled = [method for method in methods if is_distilled(method)]
    looks = {
        method: {"color": COLOURS[i % len(COLOURS)], "marker": SIGNS[i % len(SIGNS)]}
        for i, method in enumerate(distilled)
    }
    return {m: looks.get(m) or {"color": ORANGE, "marker": STUDENTS.get(m, "s")} for m in methods}


def reached(title: str, axis: str, column: str, rows: Sequence[Row], looks: Mapping[str, Mapping[str, Any]]) -> Figure:
    """The mIoU over a cost, a mark with 95 % intervals per method, a line along those that none beats.

    ``rows``: of ``per_cost``, each with a value of ``column``, the cheapest first.
    """
    figure, axes = canvas(4.4, title)
    front = [(row[column], row["miou_mean"]) for row in rows if row["front"]]
    front.append((rows[-1][column], front[-1][1]))
    axes.step(*zip(*front, strict=True), where="post", color=MUTED, lw=1.0, ls=(0, (4, 3)), zorder=1)
    there = {row["method"]: row for row in rows}
    for method, look in looks.items():
        if method in there:
            name = short(method_name(method).removeprefix("distilled with "), 24)
            _mark(axes, there[method], column, {"ms": 7, "zorder": 3, "label": name, **look}, 1.3)
    others = [row for row in rows if row["method"] not in looks]
    for row in others:
        label = f"{len(others)} others" if row is others[0] else ""
        look = {"color": MUTED, "marker": "o", "ms": 4, "alpha": 0.55, "zorder": 2, "label": label}
        _mark(axes, row, column, look, 0.7)
    dots.amounts(axes, [row[column] for row in rows])
    if axes.get_xscale() == "linear" and axes.get_xlim()[0] < 0.0:
        axes.set_xlim(left=0.0)  # an interval may reach below, time does not
    at_least(axes.yaxis)
    axes.set_xlabel(axis)
    axes.set_ylabel(MIOU)
    legend(figure, axes, 2)
    return figure


def _mark(axes: Axes, row: Row, column: str, look: Mapping[str, Any], width: float) -> None:
    """A method's mean and its intervals."""
    bars = {"ecolor": look["color"], "elinewidth": width, "alpha": look.get("alpha"), "zorder": look["zorder"]}
    axes.errorbar([row[column]], [row["miou_mean"]], fmt="none", **_bars(row, column), **bars)
    axes.plot([row[column]], [row["miou_mean"]], ls="none", **look)


def _bars(row: Row, column: str) -> dict[str, Any]:
    """The intervals of both means, as lengths below and above; none of a single run."""
    found = {}
    for key, name, value in (("xerr", column, row[column]), ("yerr", "miou", row["miou_mean"])):
        low, high = row[f"{name}_low"], row[f"{name}_high"]
        if low is not None and high is not None:
            least = value * 1e-3 if key == "xerr" else -math.inf  # a logarithmic axis has no place for what is below
            found[key] = [[value - max(low, least)], [high - value]]
    return found


def _caption(study: Study, unit: str, rows: Sequence[Row], lacking: int, looks: Mapping[str, Any]) -> str:
    """What is measured, and on which device."""
    methods = {row["method"] for row in rows}
    used = [row for row in study.stages.get(FINAL, []) if row["method"] in methods and row["status"] == "completed"]
    devices = list(dict.fromkeys(row["device"] or "an unknown device" for row in used))
    told = " and ".join("a processor" if device == "cpu" else device for device in devices)
    words = f"mIoU over {_MEASURED[unit]}, on {told}: means over seeds with 95 % intervals, each of one method alone."
    words += " Dashed: no method reaches more for no more."
    if unit == "kwh" and study.nodes is not None and not all(study.nodes["measured"].to_pylist()):
        words += " The energy is estimated from the load."
    if len(devices) > 1:
        words += " What different devices take does not compare."
    if methods - looks.keys():
        words += " Grey: the methods that another one beats."
    if lacking:
        words += f" {lacking} of {lacking + len(rows)} methods have no reading."
    return words
