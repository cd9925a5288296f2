"""What was compared: the tables ``final``, each method's gains among it, and ``initialization``."""

from collections.abc import Callable, Mapping, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from kdtune.answers import needed_seeds, other_images, significance
from kdtune.answers.columns import EFFORT, REFERENCES, STANDING, gain_columns, typed
from kdtune.answers.other_images import OtherImages
from kdtune.answers.planned_grid import PlannedStage, PlannedStudy
from kdtune.answers.ranking import Row, configurations, ranked
from kdtune.answers.search_tables import place_in, planned_seeds, trial_rows
from kdtune.answers.standing import standing
from kdtune.answers.term_facts import basis
from kdtune.study.names import FINAL, LONGER, is_distilled
from kdtune.training.image_counts import ImageCounts

METHODS = ("student", "pi", "pi+pa", "pi+ho", "pi+ifv")


# trials -> the counts of each over single images, or why there are none
CountsOf = Callable[[Sequence[Row]], Mapping[str, ImageCounts | str]]


def final_table(final: pa.Table, trials: pa.Table, plan: PlannedStudy, counts_of: CountsOf | None = None) -> pa.Table:
    """``final.parquet``, the methods that have no mean (yet), and each method's gains.

    See ``significance``, and ``other_images`` where ``counts_of`` is given.
    """
    rows: list[Row] = [row | {"status": "completed"} for row in final.to_pylist()]
    by_stage: dict[str, list[Row]] = {}
    for trial in trial_rows(trials):
        by_stage.setdefault(trial["stage"], []).append(trial)
    begun = configurations(by_stage.get(FINAL, []), planned_seeds(plan, FINAL))
    if rows or begun:
        ahead = _methods_ahead(plan, FINAL, trials)
        empty = {"study": plan.study, "seeds": 0, "best": False, "within_one_std": False}
        lacking = {method: empty | {"method": method, "status": None} for method in ahead}
        lacking |= {row["method"]: empty | {key: row[key] for key in ("method", "seeds", "status")} for row in begun}
        there = {row["method"] for row in rows}
        rows += [row for method, row in lacking.items() if method not in there]
    by_method = {row["method"]: row for row in rows}
    for method, effort in tuning(by_stage, plan).items():
        by_method[method] |= effort
    compared = _evaluated(trials) if counts_of is not None else []
    counts = counts_of(compared) if counts_of is not None else {}
    runs = {row["trial_id"]: other_images.run_of(row, counts[row["trial_id"]]) for row in compared}
    for family in significance.families(trials, comparison_plan(plan)):
        images = other_images.of_family(family, runs) if counts_of is not None else OtherImages()
        for method, cells in gain_cells(family, images).items():
            by_method[method].update(zip(gain_columns(family.reference), cells, strict=True))
        if family.reference == significance.ALONE:
            _stand(family, by_method)
    for row in rows:
        row["basis"] = basis(row["method"]) if is_distilled(row["method"]) else None
    gains = [name for reference in REFERENCES for name in gain_columns(reference)]
    rows.sort(key=lambda row: place_in(row["method"], METHODS))
    return typed(rows, [*final.column_names, "status", "basis", *EFFORT, *STANDING, *gains])


def configuration_of(runs: Sequence[Row]) -> list[Row]:
    """The runs of a method's best configuration; of one that has no mean yet those of any."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in runs:
        groups.setdefault((row["start"], row["config_id"]), []).append(row)
    means = {(row["start"], row["config_id"]): row["miou_mean"] for row in configurations(runs)}
    return max(groups.items(), key=lambda item: means[item[0]] or 0.0)[1] if groups else []


def _stand(family: significance.Family, by_method: Mapping[str, Row]) -> None:
    """Adds what ``STANDING`` holds of each method that has a mean."""
    means = {name: row["miou_mean"] for name, row in by_method.items() if row.get("miou_mean") is not None}
    found = standing(family, means)
    if found is None:
        return
    for method, group in found.groups.items():
        by_method[method] |= {"group": group, "apart": found.apart}
        if by_method[method]["best"]:
            by_method[method] |= {"lead": found.lead, "lead_by_chance": found.by_chance}


def _evaluated(trials: pa.Table) -> list[Row]:
    """The completed trials of stage ``final``, with what their counts over images must fit."""
    wanted = ("trial_id", "config", "miou", "per_class_iou", "image_counts_sha256")
    final = trials.filter(pc.and_(pc.equal(trials["stage"], FINAL), pc.equal(trials["status"], "completed")))
    rows: list[Row] = final.select([name for name in wanted if name in trials.column_names]).to_pylist()
    return rows


def tuning(stages: Mapping[str, Sequence[Row]], plan: PlannedStudy) -> dict[str, Row]:
    """Method of ``final`` -> trials and steps of all stages whose choices led to it."""
    found = {}
    for method in dict.fromkeys(row["method"] for row in stages.get(FINAL, [])):
        chain = [row["start"] for row in stages[FINAL] if row["method"] == method]
        seen: dict[str, Sequence[Row]] = {}
        while chain:
            stage = chain.pop()
            if stage not in seen:
                seen[stage] = stages.get(stage, [])
                chain += {row["start"] for row in seen[stage]}.union(
                    plan.stages[stage].starts if stage in plan.stages else ()
                )
        trials = [row for rows in seen.values() for row in rows]
        if trials:
            found[method] = dict(zip(EFFORT, (len(trials), sum(row["step"] or 0 for row in trials)), strict=True))
    return found


def comparison_plan(plan: PlannedStudy) -> significance.Plan:
    """What stage ``final`` is to compare, as far as the study tells."""
    stage = plan.stages.get(FINAL)
    if stage is None:
        return significance.Plan()
    gone = len(plan.left_out.intersection(stage.starts))
    return significance.Plan(len(stage.seeds), max(1, len(stage.starts)) + bool(stage.longer), gone)


def gain_cells(family: significance.Family, images: OtherImages) -> dict[str, tuple[object, ...]]:
    """Method -> what ``gain_columns`` hold of it."""
    design, scatter = needed_seeds.design(family), family.scatter
    shared = (
        family.deviation,
        scatter.p if scatter else None,
        design.least(family.seeds) if design else None,
        design.seeds_for() if design else None,
    )
    return {
        gain.method: (
            *(gain.difference, gain.low, gain.high, gain.p, gain.paired, gain.provisional),
            *(gain.family, gain.analysis, *shared),
            *images.intervals.get(gain.method, (None, None)),
            images.words if gain.difference is not None else None,
            gain.verdict,
        )
        for gain in family.gains
    }


def _methods_ahead(plan: PlannedStudy, stage: str, trials: pa.Table) -> list[str]:
    """The methods that a stage starts from, as far as what it starts from has run."""
    found = plan.stages.get(stage, PlannedStage(stage))
    pairs = [*zip(trials["stage"].to_pylist(), trials["method"].to_pylist(), strict=True)]
    ahead = [method for name, method in pairs if name in found.starts]
    ahead += [LONGER] if any(name == found.longer for name, _ in pairs) else []
    return list(dict.fromkeys(ahead))


def initialization(trials: pa.Table, plan: PlannedStudy) -> pa.Table:
    """Random weights beside the same methods of ``final`` (other weights) and the teacher (init null)."""
    rows: dict[str, list[Row]] = {"teacher": [], "final": [], "initialization": []}
    for trial in trial_rows(trials):
        if trial["stage"] in rows:
            rows[trial["stage"]].append(trial)
    ablated, final = (configurations(rows[name], planned_seeds(plan, name)) for name in ("initialization", "final"))
    methods, inits = {row["method"] for row in ablated}, {row["init"] for row in ablated}
    others = [row for row in final if row["method"] in methods and row["init"] not in inits]
    if len(inits) == 1:
        empty = dict.fromkeys(("miou_mean", "miou_std", "status")) | {"init": ablated[0]["init"], "seeds": 0}
        ahead = _methods_ahead(plan, "initialization", trials)
        ablated += [empty | {"method": method} for method in ahead if method not in methods]
    teachers = [row | {"init": None, "method": "teacher", "best": False} for row in configurations(rows["teacher"])]
    by_init: dict[str, list[Row]] = {}
    for row in [*ablated, *others]:
        by_init.setdefault(row["init"], []).append(row)
    students = [row for group in by_init.values() for row in ranked(group)]
    students.sort(key=lambda row: (row["init"] not in inits, place_in(row["method"], METHODS)))
    columns = ["init", "method", "miou_mean", "miou_std", "seeds", "best", "status"]
    return typed([*teachers, *students] if ablated else [], columns)
