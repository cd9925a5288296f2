"""How the report's figures look: colours, signs, sizes, what matplotlib is told. The page's style is ``page.css``."""

from typing import Any

# Okabe and Ito's colours, which colour-blind people tell apart, on a light page and on a dark one
BLUE, ORANGE, GREEN, VERMILION, PURPLE, SKY = "#0072b2", "#e69f00", "#009e73", "#d55e00", "#cc79a7", "#56b4e9"

INK, MUTED, RULE, PAPER = "#1c2733", "#5d6b7a", "#d5dbe1", "#fdfdfe"  # of no other thing: the page's own stand for them

THEMED = {INK: "var(--ink)", MUTED: "var(--muted)", RULE: "var(--rule)", PAPER: "var(--paper)"}

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

WIDTH = 5.0  # inches

MIOU = "mIoU [%]"

RASTERISED = 40_000  # points of one figure: more would make the page heavy

ANNOTATED = 9  # columns of a heat map whose cells still have room for their value

STATUS = {  # colour, marker, words
    "completed": (SKY, "", "completed"),
    "stopped": (ORANGE, "x", "stopped early"),
    "diverged": (PURPLE, "v", "diverged"),
    "failed": (MUTED, "s", "failed"),
}

SIGNS = ("o", "s", "^", "D", "v", "P", "X", "<", ">")

COLOURS = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY)
