"""The sections on what networks do and take: classes, images, entropy, energy; then tables and the study itself."""

from collections.abc import Callable, Sequence

from kdtune.answers.layouts import CHOSEN
from kdtune.answers.ranking import Row
from kdtune.base import SegmentationDataset, UserError
from kdtune.datasets.colours import palette_of
from kdtune.report import dots, facts
from kdtune.report.page import Section, details, escape, figure, grid, image, note, number, paragraph, preformatted
from kdtune.report.panels import VOID, Panel, panels
from kdtune.report.study import Study, written
from kdtune.report.svg import inline_svg
from kdtune.report.thinning import LINES


def closing_sections(study: Study) -> list[Section]:
    """Classes, images, entropy, energy, tables, the study."""
    sections: list[tuple[str, str, Callable[[Study], str]]] = [
        ("classes", "Each class", _classes),
        ("images", "On images", _images),
        ("entropy", "How sure the teacher is", _entropy),
        ("energy", "Energy", _energy),
        ("tables", "Tables", _tables),
        ("study", "The study and its versions", _study),
    ]
    return [Section(id_, title, content(study)) for id_, title, content in sections]


def _classes(study: Study) -> str:
    table = facts.per_class(study.contenders)
    if table is None:
        return note("No trial has an IoU of each class.")
    told = "; ".join(each.told for each in study.contenders)
    drawn = dots.class_scores("IoU of each class", table)
    svgs = [
        figure(inline_svg(each, f"classes-{i}", f"IoU of {table.num_rows} classes of {told}"), f"classes-{i}")
        for i, each in enumerate(drawn)
    ]
    of = {each.role: study.planned.images(each.stage) for each in study.contenders}
    images = " and ".join(f"{on} ({', '.join(r for r in of if of[r] == on)})" for on in dict.fromkeys(of.values()))
    images = images if len(set(of.values())) > 1 else next(iter(of.values()))
    words = paragraph(f"IoU on the {images}, sorted. {told[0].upper() + told[1:]}.")
    return grid(svgs) + words + details("data", written(table, "classes"))


def _images(study: Study) -> str:
    if not study.contenders:
        return note("No trial has completed yet, so no network can be shown at work.")
    try:
        dataset, found, faults = panels(study.where, study.contenders, study.data_root, study.builders)
    except (UserError, OSError) as error:
        return note(f"No images: {error}")
    words = paragraph(
        f"Validation images, {len(found)} of them, evenly spaced over the dataset and not chosen by results. Below a "
        "prediction: the share of the labelled pixels that it has right."
    )
    notes = "".join(note(f"Not shown: {fault}") for fault in faults)
    return _legend(dataset, found) + "".join(_panel(panel) for panel in found) + words + notes


def _panel(panel: Panel) -> str:
    pictures = []
    for picture in panel.pictures:
        alt = f"{picture.title} of validation image {panel.name}"
        words = escape(picture.title)
        if picture.right is not None:
            words += f", {number(picture.right, f'{100 * picture.right:.1f}')} % right"
        shown = f"{image(picture.png, alt)}<figcaption>{words}</figcaption>"
        pictures.append(f'<figure data-figure="picture">{shown}</figure>')
    return f"<h3>{escape(panel.name)}</h3>{grid(pictures, 'pictures')}"


def _legend(dataset: SegmentationDataset, found: list[Panel]) -> str:
    """The classes that occur, each with its colour; void striped."""
    seen = sorted(frozenset().union(*(panel.classes for panel in found)))
    palette = palette_of(dataset)
    entries = [_swatch(_hex(palette[i])) + escape(dataset.class_names[i]) for i in seen]
    if any(panel.void for panel in found):
        light, dark = map(_hex, VOID)
        stripes = f'<path d="M0 8 8 0M0 16 16 0M8 16 16 8" stroke="{dark}" stroke-width="3"/>'
        entries.append(f"{_swatch(light, stripes)}void: not labelled, not counted")
    return f'<ul class="legend">{"".join(f"<li>{entry}</li>" for entry in entries)}</ul>'


def _swatch(colour: str, over: str = "") -> str:
    ground = f'<rect width="16" height="16" fill="{colour}"/>'
    return f'<svg viewBox="0 0 16 16" aria-hidden="true">{ground}{over}</svg>'


def _hex(colour: tuple[int, int, int]) -> str:
    return "#{:02x}{:02x}{:02x}".format(*colour)


def _entropy(study: Study) -> str:
    if study.entropy is None:
        return note(
            "The teacher's entropy per temperature has not been measured; `kdtune teacher entropy --help` tells how."
        )
    table, draw = study.entropy
    label = "entropy of the teacher's output at each temperature"
    words = paragraph(
        "Entropy of the teacher's probabilities at each temperature: near zero it is sure of one class, and tells the "
        "student little more than the label does."
    )
    drawn = figure(inline_svg(draw(table), "entropy", label), "entropy")
    return grid([drawn], "wide") + words + details("data", written(table, "entropy"))


def _energy(study: Study) -> str:
    metered = [row for row in study.trials if row["energy_kwh"] is not None and row["miou"] is not None]
    content = ""
    if metered:
        label = f"mIoU over energy of {len(metered)} trials"
        content = grid([figure(inline_svg(dots.energy("mIoU and energy", metered), "energy", label), "energy")])
        told = _stopped(metered)
        content += paragraph(told) if told else ""
    else:
        content = note("No trial has an energy reading, so mIoU cannot be set against energy.")
    if study.stored.emissions.num_rows:
        content += study.shown("emissions")
    if study.trials:
        content += study.shown("cost")
    if study.nodes is not None and study.nodes.num_rows:
        content += details("energy of each node", written(study.nodes, "nodes"))
    return content


def _stopped(metered: Sequence[Row]) -> str:
    """How stopped trials stand beside the completed ones of their stages; nothing where a stage has not both."""
    less_energy = less_miou = count = 0
    for stage in dict.fromkeys(row["stage"] for row in metered):
        completed = [row for row in metered if (row["stage"], row["status"]) == (stage, "completed")]
        stopped = [row for row in metered if (row["stage"], row["status"]) == (stage, "stopped")]
        if completed:
            count += len(stopped)
            least, lowest = (min(row[name] for row in completed) for name in ("energy_kwh", "miou"))
            less_energy += sum(row["energy_kwh"] < least for row in stopped)
            less_miou += sum(row["miou"] < lowest for row in stopped)
    if not count:
        return ""
    trials = "the only trial that was" if count == 1 else f"the {count} trials that were"
    return (
        f"Of {trials} stopped early, {less_energy} took less energy than every completed trial of the same stage, and "
        f"{less_miou} had reached less than every one of them."
    )


def _tables(study: Study) -> str:
    """Those that stand nowhere above: the others are there with their figures."""
    parts = ["<h3>Best configuration of each stage</h3>"]
    optimal = study.table("optimal")
    parts += [paragraph(f"{CHOSEN}."), study.shown("optimal")] if optimal.num_rows else []
    parts += [] if optimal.num_rows else [note("No stage has a best configuration yet.")]
    parts.append("<h3>Initial weights</h3>")
    initial = study.table("initialization")
    parts.append(study.shown("initialization") if initial.num_rows else note("Not compared in this study (yet)."))
    names = [name for name in ("grid", "temperature", "weights") if study.table(name).num_rows]
    parts += [details(f"table '{name}'", written(study.table(name), name)) for name in names]
    trials = study.stored.trials
    shown = [name for name in trials.column_names if name not in ("config", "config_id", "per_class_iou")]
    parts.append(
        details(
            f"all {trials.num_rows} trials" if trials.num_rows <= LINES else "trials",
            written(trials.select(shown), "trials"),
        )
    )
    return "".join(parts)


def _study(study: Study) -> str:
    lines = "".join(
        f"<tr><th>{escape(name)}</th><td>{escape(value)}</td></tr>" for name, value in study.versions.items()
    )
    rows = {(row["kdtune_version"], row["torch_version"]) for row in study.trials}
    words = ", ".join(sorted(f"kdtune {own} with torch {torch}" for own, torch in rows if own))
    content = f'<div class="scroll" tabindex="0"><table>{lines}</table></div>' if lines else ""
    content = paragraph(f"Trials ran on {words}.") + content if words else content
    if not study.text:
        return content + note("study.yaml is not on the storage.")
    return details("versions", content) + details(
        "study.yaml, every default filled in", preformatted(study.text, "study")
    )
