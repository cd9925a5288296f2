"""The sections on what was searched: grids, temperatures, weights, and how the trials learned."""

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc
from matplotlib.colors import Normalize

from kdtune.answers.cells import loss_symbol
from kdtune.answers.columns import loss_columns
from kdtune.answers.ranking import Row
from kdtune.answers.search_tables import swept_losses
from kdtune.records.further import COLUMN
from kdtune.report import facts, figures, grids
from kdtune.report.figures import Curve
from kdtune.report.page import Section, details, figure, grid, note, paragraph, preformatted
from kdtune.report.study import Study, written
from kdtune.report.style import ANNOTATED
from kdtune.report.svg import inline_svg
from kdtune.report.thinning import CELLS, POINTS, drawn_trials, evenly

CSV_ROWS = 300_000  # evaluations that the page still holds as text


def search_sections(study: Study) -> list[Section]:
    """Grids, temperatures, weights, learning curves."""
    return [
        Section("grid", "Learning rate and weight decay", _grids(study)),
        Section("temperature", "Temperature", _sweeps(study, "temperature")),
        Section("weights", "Weights of the distillation terms", _sweeps(study, "weights")),
        Section("curves", "Learning curves", _curves(study)),
    ]


def _by_stage(data: pa.Table) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {}
    for row in data.to_pylist():
        found.setdefault(row["stage"], []).append(row)
    return found


def _of_stage(data: pa.Table, stage: str) -> pa.Table:
    return data.filter(pc.equal(data["stage"], stage))


def _ended(row: Row) -> bool:
    """Whether its trials have ended: a table may have lines of those that are only planned."""
    return row["status"] is not None


def _grids(study: Study) -> str:
    data = study.table("grid")
    stages = {stage: rows for stage, rows in _by_stage(data).items() if any(map(_ended, rows))}
    if not stages:
        return note("No stage has searched learning rate and weight decay yet.")
    every = [row for rows in stages.values() for row in rows]
    colours = figures.colour_range([row["miou"] for row in every if row["status"] == "completed" and row["miou"]])
    at_random = {stage.name for stage in study.spec.stages if stage.search != "grid"} if study.spec else set()
    drawn: list[str] = []
    for stage, rows in stages.items():
        shown = _grid(f"grid-{len(drawn)}", stage, rows, colours, stage in at_random) + _border(study, stage)
        opened = details("data", written(_of_stage(data, stage), f"grid-{stage}"))
        drawn.append(f"<div>{shown}{opened}</div>")
    return grid(drawn) + paragraph(_grids_words(every, len(drawn))) + _beside(study, "grid")


def _grids_words(rows: Sequence[Row], panels: int) -> str:
    """How the panels are read."""
    words = "Every pair of learning rate and weight decay is a configuration"
    words += "; all panels share one scale of colours" if panels > 1 else ""
    words += "; brighter is better."
    return words + (" The best of each stage is outlined." if any(row["best"] for row in rows) else "")


def _grid(name: str, stage: str, rows: Sequence[Row], colours: Normalize, at_random: bool) -> str:
    """A heat map, or points where they are on no grid: a heat map would be mostly holes, or hide a trial."""
    ended = [row for row in rows if _ended(row)]
    decays, rates = ({row[axis] for row in rows} for axis in ("weight_decay", "lr"))
    size = len(decays) * len(rates)
    on_grid = not at_random and len({(r["weight_decay"], r["lr"]) for r in rows}) == len(rows) and size <= 3 * len(rows)
    best = next((row for row in ended if row["best"]), None)
    label = f"{stage}: mIoU of {len(ended)} pairs of learning rate and weight decay"
    label += f"; best {best['miou']:.2f} % at {best['lr']:g} and {best['weight_decay']:g}" if best else ""
    draw = grids.heat_map if on_grid else grids.scattered_grid
    svg = inline_svg(draw(f"stage {stage}", rows, colours), name, label)
    missing = size - len(ended) if on_grid else 0
    dense = on_grid and size > CELLS
    return figure(svg, name, _signs(ended, missing, on_grid and len(rates) <= ANNOTATED and not dense, dense))


def _signs(rows: Sequence[Row], missing: int, annotated: bool, dense: bool) -> str:
    """What the signs of a grid mean, those that it has."""
    stopped = sum(row["status"] == "stopped" for row in rows)
    sign = "paler" if dense else "hatched"
    words = [f"{stopped} {sign}: stopped early{', with the step after @' if annotated else ''}"] if stopped else []
    for status in ("diverged", "failed"):
        count = sum(row["status"] == status for row in rows)
        words += [f"{count} grey: {status}"] if count else []
    words += [f"{missing} {'empty' if dense else 'dashed'}: missing, not run (yet)"] if missing else []
    return "; ".join(words) + ("." if words else "")


def _border(study: Study, stage: str) -> str:
    """A line of the value to add, where the best lies at the border of what was tried."""
    told = next((row["border"] for row in study.table("optimal").to_pylist() if row["stage"] == stage), None)
    return note(f"At the border: {told}.") if told else ""


def _beside(study: Study, name: str) -> str:
    """The whole table, where the paper's values stand beside it."""
    return details(f"table '{name}', and the paper's", study.shown(name)) if study.paper(name) else ""


def _sweeps(study: Study, name: str) -> str:
    data = study.table(name)
    stages = _by_stage(data)
    if not stages:
        what = "temperatures" if name == "temperature" else "loss weights"
        return note(f"No stage has searched {what} yet.")
    drawn: list[str] = []
    lambdas = loss_columns(data)
    theirs = study.paper(name)
    for stage, rows in stages.items():
        columns = ["temperature"] if name == "temperature" else swept_losses(stage, rows, lambdas)
        if any(row.get(COLUMN) is not None for row in rows):  # a weight that is the same throughout is no axis
            columns = [column for column in columns if len({row[column] for row in rows}) > 1]
            drawn += [] if columns else [paragraph(f"{stage}: mIoU by further parameters.")]
        for column in columns:
            paper = [row for row in theirs if row.get("stage") in (stage, None) and row.get(column) is not None]
            drawn.append(_sweep(f"{name}-{len(drawn)}", stage, column, rows, paper))
        drawn[-1] += _border(study, stage) + details("data", written(_of_stage(data, stage), f"{name}-{stage}"))
    return grid([f"<div>{each}</div>" for each in drawn]) + _beside(study, name)


def _sweep(name: str, stage: str, column: str, rows: Sequence[Row], paper: Sequence[Row]) -> str:
    known = [row for row in rows if row[column] is not None]
    done = [row for row in known if row["status"] == "completed" and _mean(row) is not None]
    stopped = [(row[column], row["miou"]) for row in known if row["status"] == "stopped" and row["miou"] is not None]
    if not done and not stopped:
        return note(f"{stage}: no trial has completed yet.")
    what = "temperature τ" if column == "temperature" else f"weight λ of {loss_symbol(column)}"
    curve = _curve("measured here", column, done)
    published = _curve("published", column, paper) if paper else None
    best = max(done, key=lambda row: _mean(row) or 0.0, default=None)
    label = f"{stage}: mIoU over {what}, {len(done)} values" + (
        f"; best {_mean(best):.2f} % at {best[column]:g}" if best else ""
    )
    several = any(row.get("miou_std") is not None for row in done)
    caption = "Mean over the seeds, bars of one standard deviation." if several else "One run per value."
    return figure(
        inline_svg(figures.sweep(f"stage {stage}", what, curve, published, stopped), name, label), name, caption
    )


def _mean(row: Row) -> float | None:
    """The mIoU of a configuration, as either table names it."""
    found: float | None = row["miou_mean"] if "miou_mean" in row else row["miou"]
    return found


def _curve(label: str, column: str, rows: Sequence[Row]) -> Curve:
    rows = sorted((row for row in rows if _mean(row) is not None), key=lambda row: row[column])
    return Curve(
        label, [row[column] for row in rows], [_mean(row) or 0.0 for row in rows], [row.get("miou_std") for row in rows]
    )


def _curves(study: Study) -> str:
    history = study.stored.history
    if not history.num_rows:
        return note("No evaluation is on record.")
    shown = drawn_trials(study.stages)
    thinned = any(len(shown[stage]) < len(rows) for stage, rows in study.stages.items())
    cuts = facts.cuts(history)
    lines = facts.curves(history, [row["trial_id"] for rows in shown.values() for row in rows])
    with_data = history.num_rows <= CSV_ROWS and not thinned
    drawn = []
    for i, (stage, rows) in enumerate(study.stages.items()):
        data = ""
        if with_data:
            data = details("data (CSV)", preformatted(facts.curves_csv(history, stage), f"curves-{stage}"))
        drawn.append(
            f"<div>{_curves_of(f'curves-{i}', stage, rows, shown[stage], lines, cuts.get(stage, []))}{data}</div>"
        )
    images = {study.planned.images(stage) for stage in study.stages}
    on = f"the {images.pop()}" if len(images) == 1 else "the images that the stage is measured on"
    words = paragraph(f"mIoU on {on} during training; each panel has its own scale.")
    if not with_data:
        words += note(
            f"{history.num_rows:,} evaluations are too many for a page; their numbers are in history.parquet."
        )
    return grid(drawn) + words


def _curves_of(
    name: str,
    stage: str,
    rows: Sequence[Row],
    shown: Sequence[Row],
    lines: facts.Lines,
    cuts: Sequence[tuple[int, float]],
) -> str:
    """The curves of a stage, and what the reader does not see of them."""
    completed = [row for row in rows if row["status"] == "completed" and row["miou"] is not None]
    best = max(completed, key=lambda row: row["miou"], default=None)
    stopped = sum(row["status"] == "stopped" for row in rows)
    label = f"{stage}: mIoU over training steps of {len(rows)} trials, {stopped} of them stopped early"
    points = max((len(lines[row["trial_id"]][0]) for row in shown if row["trial_id"] in lines), default=0)
    thin = {id_: (evenly(steps, POINTS), evenly(values, POINTS)) for id_, (steps, values) in lines.items()}
    svg = inline_svg(figures.learning_curves(f"stage {stage}", shown, thin, best, cuts), name, label)
    caption = f"{len(rows)} trial{'s' if len(rows) > 1 else ''}"
    caption += f", {stopped} stopped early (crosses)." if stopped else "."
    if len(shown) < len(rows):
        caption += f" {len(shown):,} of the {len(rows):,} curves are drawn: the best, the median and others evenly"
        caption += " spaced by mIoU."
    if points > POINTS:
        caption += f" At most {POINTS:,} of a curve's points are drawn, of up to {points:,}."
    return figure(svg, name, caption)
