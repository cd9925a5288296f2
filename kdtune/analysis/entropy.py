"""A teacher's entropy as it is stored, read back, drawn and told: ``<study>/entropy.parquet``, ``.svg``, ``.png``."""

import io
import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

import kdtune
from kdtune.analysis.entropy_counts import BINS, UNITS, Asked, Counts
from kdtune.filesystem.folder import Folder
from kdtune.records.parquet import parsed
from kdtune.study.trial_config import TrialConfig

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NAME = "entropy"
PAPER_PIXELS = 209_715_200  # section 5.3: 800 x 512 x 512
LEAST = 1e-2  # percent of the pixels: the lower end of the figure's axis

# A row per temperature and bin; what is equal in all rows, or in all rows of a temperature, stands in each.
SCHEMA = pa.schema(
    [
        ("study", pa.string()),
        ("dataset", pa.string()),
        ("split", pa.string()),
        ("teacher", pa.string()),  # trial:ID or sha256:HEX
        ("classes", pa.int64()),
        ("images", pa.int64()),
        ("smaller", pa.int64()),  # of these, images that are smaller than the crop
        ("available", pa.int64()),  # images that the split has
        ("crop", pa.string()),  # HEIGHTxWIDTH [pixels], or whole
        ("upsampled", pa.bool_()),  # logits enlarged to the crop's size before the softmax
        ("seed", pa.int64()),
        ("threshold", pa.float64()),  # nats
        ("temperature", pa.float64()),
        ("share_below", pa.float64()),  # of the pixels, entropy below the threshold
        ("mean", pa.float64()),  # nats, of the pixels and not of the bins
        ("median", pa.float64()),  # nats, interpolated within its bin
        ("low", pa.float64()),  # nats; a bin holds its lower edge, the last one both
        ("high", pa.float64()),
        ("pixels", pa.int64()),
        ("share", pa.float64()),  # of the pixels of this temperature
        ("kdtune_version", pa.string()),
    ]
)


def table(counts: Counts, asked: Asked, config: TrialConfig, study: str, teacher: str) -> pa.Table:
    """``entropy.parquet`` of these counts; the last edge is ln K."""
    most = math.log(config.dataset.num_classes)
    edges = most * np.arange(BINS + 1) / BINS
    constant = {
        "study": study,
        "dataset": config.dataset.name,
        "split": asked.split,
        "teacher": teacher,
        "classes": config.dataset.num_classes,
        "images": counts.images,
        "smaller": counts.smaller,
        "available": counts.available,
        "crop": "whole" if asked.crop is None else "x".join(map(str, asked.crop)),
        "upsampled": asked.upsampled,
        "seed": asked.seed,
        "threshold": asked.threshold,
        "kdtune_version": kdtune.__version__,
    }
    rows = []
    for i, temperature in enumerate(asked.temperatures):
        bins, pixels = counts.bins[i], counts.pixels
        of_all = {
            "temperature": temperature,
            "share_below": float(counts.below[i] / pixels),
            "mean": float(counts.sums[i] / UNITS / pixels),
            "median": float(np.interp(pixels / 2, np.cumsum([0, *bins]), edges)),
        }
        for low, high, found in zip(edges[:-1], edges[1:], bins, strict=True):
            of_bin = {"low": low, "high": high, "pixels": int(found), "share": float(found / pixels)}
            rows.append(constant | of_all | of_bin)
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def stored(folder: Folder) -> pa.Table | None:
    """The table of a study's folder, or none if the teacher's entropy has not been measured."""
    content = folder.read(f"{NAME}.parquet")
    return None if content is None else parsed(content, f"{folder.uri}/{NAME}.parquet")


def by_temperature(table: pa.Table) -> list[list[dict[str, Any]]]:
    """The rows of each temperature, bins in order; temperatures from low to high."""
    groups: dict[float, list[dict[str, Any]]] = {}
    for row in table.to_pylist():
        groups.setdefault(row["temperature"], []).append(row)
    return [sorted(groups[temperature], key=lambda row: row["low"]) for temperature in sorted(groups)]


def write(table: pa.Table, folder: Folder, name: str = NAME) -> list[str]:
    """``NAME.parquet``, ``.svg`` and ``.png``; returns the names.

    Raises:
        OSError: no room, no right, no connection.
    """
    parquet = io.BytesIO()
    pq.write_table(table, parquet)
    made = {f"{name}.svg": drawn(table, "svg"), f"{name}.png": drawn(table, "png")}
    made[f"{name}.parquet"] = parquet.getvalue()  # the last: who finds it finds the others
    for each, content in made.items():
        folder.write(each, content)
    return list(made)


def lines(table: pa.Table) -> Iterator[str]:
    """For a person: what was measured, and a line per temperature."""
    groups = by_temperature(table)
    first = groups[0][0]
    yield f"{first['study']}: Shannon entropy of the teacher's softmax(z/τ) over {first['classes']} classes"
    yield _setting(first)
    head = f"below {first['threshold']:g} nats"
    yield f"{'τ':>6}  {head:>15}  {'mean':>6}  {'median':>6}  {'most frequent':>15}"
    for rows in groups:
        mode = max(rows, key=lambda row: row["pixels"])
        around = f"{mode['low']:.2f} to {mode['high']:.2f}"
        row = rows[0]
        yield (
            f"{row['temperature']:>6g}  {100 * row['share_below']:>13.2f} %  {row['mean']:>6.3f}  "
            f"{row['median']:>6.3f}  {around:>15}"
        )
    yield f"in nats; the maximum is ln {first['classes']} = {math.log(first['classes']):.3f}"


def notes(table: pa.Table, asked: Asked) -> Iterator[str]:
    """Where what was measured is less than what was asked for."""
    row = table.slice(0, 1).to_pylist()[0]
    pixels = sum(each["pixels"] for each in by_temperature(table)[0])
    compared = f"{pixels:,} pixels in all (the paper: {PAPER_PIXELS:,})"
    if row["images"] < asked.images:
        has = f"{row['dataset']} has {row['available']} images ({row['split']})"
        yield f"{has}, fewer than the {asked.images} asked for: {compared}"
    if row["smaller"]:
        yield (
            f"{row['smaller']} of {row['images']} images are smaller than the crop of {_size(row['crop'])}, which ends "
            f"where they do: {compared}"
        )


def _setting(row: dict[str, Any]) -> str:
    """The images, and what the softmax is taken of."""
    most = "at most " if row["smaller"] else ""
    what = "whole images" if row["crop"] == "whole" else f"crops of {most}{_size(row['crop'])}"
    of = "logits enlarged before the softmax" if row["upsampled"] else "logits at the network's own stride"
    return f"{row['images']} {what} of {row['dataset']} ({row['split']}), {of}"


def _size(crop: str) -> str:
    return crop.replace("x", " x ")


def figure(table: pa.Table) -> "Figure":
    """The histograms, one panel per temperature over one axis of entropy; the paper's Figure 1."""
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    groups = by_temperature(table)
    first = groups[0][0]
    most = math.log(first["classes"])
    made = Figure(figsize=(7.2, 1.3 + 0.95 * len(groups)), layout="constrained")
    panels = made.subplots(len(groups), 1, sharex=True, sharey=True, squeeze=False)[:, 0]
    colours = colormaps["viridis"](np.linspace(0.0, 0.8, len(groups)))
    for panel, rows, colour in zip(panels, groups, colours, strict=True):
        _panel(panel, rows, colour, most)
    label = f"maximum, ln {first['classes']} = {most:.2f}"
    at_line = {"xycoords": panels[0].get_xaxis_transform(), "textcoords": "offset points", "va": "top", "ha": "right"}
    panels[0].annotate(label, (most, 0.97), xytext=(-4, 0), fontsize=8, color="0.3", **at_line)
    panels[-1].set_xlabel(
        "Shannon entropy of the teacher's distribution over the classes [nats]\n"
        "0: one class has all; maximum: all classes have the same",
        fontsize=9,
    )
    made.supylabel(f"share of the pixels per bin of {most / len(groups[0]):.3f} nats [%], logarithmic", fontsize=9)
    made.suptitle(f"How soft is the teacher? {first['study']}", fontsize=11, x=0.01, ha="left")
    panels[0].set_title(_setting(first), fontsize=8, loc="left", color="0.3")
    return made


def _panel(panel: "Axes", rows: list[dict[str, Any]], colour: Any, most: float) -> None:
    """One temperature: its histogram, and beside it what to read from it."""
    edges = [row["low"] for row in rows] + [rows[-1]["high"]]
    shares = [100 * row["share"] for row in rows]
    panel.stairs(shares, edges, baseline=LEAST, fill=True, color=colour)
    panel.set_yscale("log")
    panel.set_ylim(LEAST, 100)
    panel.set_xlim(-0.01 * most, 1.01 * most)
    panel.set_yticks([0.01, 1, 100], ["0.01", "1", "100"])
    panel.minorticks_off()
    panel.tick_params(labelsize=8)
    panel.spines[["top", "right"]].set_visible(False)
    panel.axvline(most, color="0.3", linewidth=1, linestyle=(0, (3, 2)))
    row = rows[0]
    text = f"τ = {row['temperature']:g}"
    told = f"{100 * row['share_below']:.1f} % below {row['threshold']:g} nats, mean {row['mean']:.2f}"
    panel.text(1.02, 0.62, text, transform=panel.transAxes, fontsize=11, weight="bold", color=colour)
    panel.text(1.02, 0.3, told.replace(", ", "\n"), transform=panel.transAxes, fontsize=8, va="center")


def drawn(table: pa.Table, form: str) -> bytes:
    """The figure as ``svg`` or ``png``."""
    from matplotlib import rc_context

    buffer = io.BytesIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "kdtune"}):  # text stays text; equal tables, equal files
        figure(table).savefig(buffer, format=form, dpi=160, metadata={"Date": None} if form == "svg" else None)
    return buffer.getvalue()
