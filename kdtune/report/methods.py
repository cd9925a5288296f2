"""The methods side by side: their scores and gains on one scale, and what the comparison can tell."""

import statistics
from collections.abc import Mapping, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from kdtune.answers import needed_seeds, verdicts
from kdtune.answers.ranking import Row
from kdtune.answers.significance import Gain
from kdtune.answers.simultaneous import ALPHA
from kdtune.losses.marks import marked
from kdtune.report import dots, facts
from kdtune.report.facts import ALONE, FINAL
from kdtune.report.page import details, escape, figure, grid, note, number
from kdtune.report.study import Study, written
from kdtune.report.svg import inline_svg

_PAIRED = (
    " They do not tell whether methods differ, since runs of one seed go together: the intervals of the differences do."
)


def methods(study: Study) -> str:
    """Scores, gains, what the comparison tells."""
    final = [row for row in study.table(FINAL).to_pylist() if row["miou_mean"] is not None]
    if not final:
        return note("No method has all its runs in stage 'final' yet: there is nothing to compare over seeds.")
    seeds: dict[str, list[float]] = {}
    for row in study.stages.get(FINAL, []):
        if row["status"] == "completed" and row["miou"] is not None:
            seeds.setdefault(row["method"], []).append(row["miou"])
    final.sort(key=lambda row: (row["method"] != ALONE, -row["miou_mean"]))
    compared = [gain for gain in study.gains if gain.difference is not None]
    ends = [(row["method"], (row["gain_student_images_low"], row["gain_student_images_high"])) for row in final]
    images = {method: reach for method, reach in ends if None not in reach}
    alone = next((row["miou_mean"] for row in final if row["method"] == ALONE), None)
    alone = statistics.fmean(seeds[ALONE]) if alone is None and seeds.get(ALONE) else alone
    begun = [method for method in dict.fromkeys(gain.method for gain in compared) if method not in dict(ends)]
    unfinished = [{"method": method, "miou_mean": None, "miou_std": None} for method in begun]
    theirs = _published(study)
    reach = [*images.values(), *((gain,) for gain in theirs.values())]
    view = _view(final, seeds, compared, reach, alone) if compared and alone is not None else None
    drawn = dots.final_scores("mIoU of each method", [*final, *unfinished], seeds, study.paper(FINAL), view)
    figures = [
        figure(inline_svg(drawn, "final", f"mIoU of {len(final)} methods: {_ranking(final)}"), "final",
               "Each method with the best hyperparameters found for it, trained again with new seeds. Bars are the "
               "deviation of single runs." + (_PAIRED if compared else "")),
    ]  # fmt: skip
    content = ""
    if view is not None and alone is not None:
        methods, shifted = [*dict(ends), *begun], (view[0] - alone, view[1] - alone)
        drawn = dots.gains("Gain over the tuned student", methods, compared, images, theirs, shifted)
        words = "; ".join(
            f"{marked(gain.method)} {verdicts.signed(gain.difference or 0.0)} points" for gain in compared
        )
        figures.append(
            figure(inline_svg(drawn, "gains", f"gain over the student alone: {words}"), "gains",
                   _gains_caption(compared, other_images=bool(images), beside=bool(theirs))),
        )  # fmt: skip
    if study.gains:
        content = details("gains as a table", written(facts.gain_rows(study.gains), "gains"))
    content += details("terms, weights and costs as a table", written(study.table("terms"), "terms"))
    runs = details("runs as a table", written(_columns(study, FINAL), "final-runs"))
    return grid(figures) + study.shown(FINAL) + _told_of_gains(study, final) + content + runs


def _view(
    final: Sequence[Row],
    seeds: Mapping[str, Sequence[float]],
    compared: Sequence[Gain],
    further: Sequence[tuple[float, ...]],
    alone: float,
) -> tuple[float, float]:
    """The ends of a scale of mIoU that holds all scores, and all gains where they begin at the student ``alone``.

    ``further``: gains beside those that are ``compared``.
    """
    values = [row["miou_mean"] + sign * (row["miou_std"] or 0.0) for row in final for sign in (-1, 1)]
    values += [value for row in final for value in seeds.get(row["method"], ())]
    gained = [(gain.difference, gain.low, gain.high) for gain in compared] + [*further]
    values += [alone + each for reach in gained for each in reach if each is not None]
    margin = 0.04 * max(1.0, max(values) - min(values))
    return min(values) - margin, max(values) + margin


def _published(study: Study) -> dict[str, float]:
    """Method -> what its publication gains on its own student [points], where it reports that."""
    rows = study.table("terms").to_pylist()
    known = [row for row in rows if row["miou_mean_published"] is not None and row["gain_student"] is not None]
    return {row["method"]: row["miou_mean_published"] - row["miou_student_published"] for row in known}


def _gains_caption(compared: Sequence[Gain], *, other_images: bool, beside: bool) -> str:
    """What the figure of gains shows, of the signs that it has."""
    words = "Difference from the tuned student alone, on the scale of the other figure."
    if any(gain.low is not None for gain in compared):
        size = compared[0].family
        words = f"{words[:-1]}, with its 95 % interval" + (f", all {size} at once." if size > 1 else ".")
    if any(gain.provisional for gain in compared):
        words += " Provisional: not all of these runs have ended."
    elif any(gain.p is not None for gain in compared):
        words += f" Filled and blue: chance hardly explains it (p below {ALPHA})."
    if other_images:
        words += " The thin line below is the interval of these runs on other images."
    if beside:
        words += " Squares: what the method's publication gains on its own student, by its own recipe."
    return words


def _ranking(final: Sequence[Row]) -> str:
    order = sorted(final, key=lambda row: row["miou_mean"], reverse=True)
    return ", ".join(f"{marked(row['method'])} {row['miou_mean']:.2f} %" for row in order)


def _columns(study: Study, stage: str) -> pa.Table:
    """The trials of a stage, in short."""
    trials = study.stored.trials
    chosen = trials.filter(pc.equal(trials["stage"], stage))
    return chosen.select(["trial_id", "method", "status", "seed", "miou", "step", "steps_total"])


def _told_of_gains(study: Study, final: Sequence[Row]) -> str:
    """What the intervals are of, and what the comparison can find, below its figures."""
    distilled = [row for row in final if row["method"] != ALONE]
    best = max(distilled, key=lambda row: row["miou_mean"], default=None)
    gain = next((gain for gain in study.gains if best is not None and gain.method == best["method"]), None)
    if best is None or gain is None or gain.low is None:
        return ""
    images = _on_other_images(best)
    covered = verdicts.BOTH_COVERED if images else verdicts.COVERED
    return f"<p>{images}{escape(_scope(study, covered))}</p>"


def _on_other_images(best: Row) -> str:
    """Whether the difference would hold on other images, as far as that is known."""
    low, high = best["gain_student_images_low"], best["gain_student_images_high"]
    if low is None or high is None:
        return ""
    words = f"On other images like these the gain of {escape(marked(best['method']))} is {_signed(low)} to "
    words += f"{_signed(high)} points "
    words += f"(95 %, paired bootstrap over {escape(best['images_student'])})"
    return f"{words}. " if low > 0.0 else f"{words}: there the gain is not sure. "


def _scope(study: Study, covered: str) -> str:
    """What the interval covers, and what such a study can find."""
    words = [f"{covered}."]
    family = study.primary
    if family is not None and family.apart and family.scatter is not None:
        words.append(f"Note: {verdicts.scattering(ALONE, family.scatter.p)}.")
    design = needed_seeds.design(family) if family is not None else None
    if family is not None and design is not None:
        told = verdicts.findable(design.least(family.seeds), design.seeds_for())
        words.append(f"{told[0].upper()}{told[1:]}.")
    return " ".join(words)


def _signed(value: float) -> str:
    return number(value, verdicts.signed(value))
