"""A matplotlib figure as SVG that stands inside an HTML page: text as text, ids of its own, the page's colours."""

import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from xml.etree import ElementTree

import matplotlib
from matplotlib.figure import Figure

from kdtune.report.page import plain
from kdtune.report.style import STYLE, THEMED

SVG, XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"


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
