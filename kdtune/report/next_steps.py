"""What a user may do where no gain was found: seeds to add, searches to widen."""

from kdtune.answers import needed_seeds
from kdtune.answers.simultaneous import ALPHA
from kdtune.report.facts import FINAL, method_name
from kdtune.report.page import plain
from kdtune.report.study import Study


def next_steps(study: Study) -> str:
    """In words; empty where a gain was found, or the comparison has not ended."""
    family = study.primary
    design = needed_seeds.design(family) if family is not None else None
    if family is None or design is None:
        return ""
    if any(gain.p is not None and gain.p < ALPHA and (gain.difference or 0.0) > 0.0 for gain in family.gains):
        return ""
    return f"What would help: {_seeds(study, design, family.seeds)} {_searches(study)}"


def _seeds(study: Study, design: needed_seeds.Design, now: int) -> str:
    """How many seeds would find the largest difference there is, if it is true; without one, half a point."""
    known = [gain for gain in study.gains if gain.difference is not None]
    top = max(known, key=lambda gain: gain.difference or 0.0)
    gain = top.difference or 0.0
    whose = f", as the student {method_name(top.method)} has here,"
    if gain <= 0.0:
        gain, whose = needed_seeds.GAIN, ""
    needed = design.seeds_for(gain)
    if needed is None:
        return f"at this scatter more than {needed_seeds.MOST:,} seeds would be needed to find {gain:.2f} points."
    if needed <= now:
        return f"these {now} seeds would find a true gain of {gain:.2f} points in 80 of 100 cases: more tell little."
    return plain(
        f"at this scatter {needed} seeds of each method would find a true gain of {gain:.2f} points{whose} in 80 of "
        f"100 cases (kdtune launch {study.where.words} --stage {FINAL} --seeds {needed})."
    )


def _searches(study: Study) -> str:
    """The stages whose best lies at the border of what they tried."""
    rows = [row for row in study.table("optimal").to_pylist() if row["stage"] not in (FINAL, "initialization")]
    at_border = [row["stage"] for row in rows if row["border"]]
    if not at_border:
        return "No search ended at the border of what it tried, so wider ones promise little."
    verb = "each end at the border" if len(at_border) > 1 else "ends at the border"
    return f"{', '.join(at_border)} {verb} of what was tried, as told with the figures below: widen these first."
