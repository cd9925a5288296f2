"""A matplotlib figure as SVG that stands inside an HTML page: text as text, ids of its own, the page's colours."""

import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from xml.etree import ElementTree

import matplotlib
from matplotlib.figure import Figure

from kdtune.report.page import plain

# Okabe and Ito's colours, which colour-blind people tell apart, on a light page and on a dark one
BLUE, ORANGE, GREEN, VERMILION, PURPLE, SKY = "#0072b2", "#e69f00", "#009e73", "#d55e00", "#cc79a7", "#56b4e9"
INK, MUTED, RULE, PAPER = "#1c2733", "#5d6b7a", "#d5dbe1", "#fdfdfe"  # of no other thing: the page's own stand for them
THEMED = {INK: "var(--ink)", MUTED: "var(--muted)", RULE: "var(--rule)", PAPER: "var(--paper)"}

SVG, XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
STYLE: dict[str, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "kdtune",  # else ids are drawn by chance
    "text.parse_math": False,  # a stage's name may hold dollars
    "font.size": 10.5,
    "axes.titlesize": 11.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlecolor": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": MUTED,
    "axes.facecolor": "none",
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.facecolor": "none",
    "savefig.facecolor": "none",
    "savefig.dpi": 220,  # of what is rasterised
    "figure.constrained_layout.use": True,
    "grid.color": RULE,
    "grid.linewidth": 0.6,
    "hatch.linewidth": 0.7,
    "legend.frameon": False,
    "legend.fontsize": 10,
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
}


@contextmanager
def drawing() -> Iterator[None]:
    """The report's style, whatever the user's own is; figures are made and written inside."""
    with matplotlib.rc_context(), warnings.catch_warnings():
        matplotlib.rcdefaults()
        for key, value in STYLE.items():
            matplotlib.rcParams[key] = value  # type: ignore[index]  # its stubs list every name
        # the page's reader has other fonts than matplotlib, which sets no glyph here
        warnings.filterwarnings("ignore", "Glyph .* missing from font", UserWarning)
        yield


def inline_svg(figure: Figure, name: str, label: str) -> str:
    """The figure as an ``<svg>`` element.

    Args:
        figure: made inside ``drawing``.
        name: letters, digits and ``-``; before every id, so that no two figures of a page share one.
        label: what a person who does not see it is told.
    """
    stream = io.StringIO()
    figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    root = ElementTree.fromstring(stream.getvalue())
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag in (f"{{{SVG}}}metadata", f"{{{SVG}}}style"):
                parent.remove(child)
    for element in root.iter():
        for key, value in element.attrib.items():
            element.set(key, _attribute(key, value, name))
    _, _, width, height = root.attrib["viewBox"].split()
    root.attrib = {"viewBox": f"0 0 {width} {height}", "role": "img", "aria-label": plain(label)}
    ElementTree.register_namespace("", SVG)
    ElementTree.register_namespace("xlink", XLINK)
    return ElementTree.tostring(root, encoding="unicode")


def _attribute(key: str, value: str, name: str) -> str:
    """An attribute with the figure's ids and the page's colours."""
    if key == "id":
        return f"{name}-{value}"
    if key == f"{{{XLINK}}}href" and value.startswith("#"):
        return f"#{name}-{value[1:]}"
    value = value.replace("url(#", f"url(#{name}-")
    if key == "style":
        value = re.sub(r"font: ([^;']*?px) [^;]*", r"font: \1 var(--sans)", value)
        for colour, variable in THEMED.items():
            value = value.replace(colour, variable)
    return value
