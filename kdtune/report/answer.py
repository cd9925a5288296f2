"""The top of the report: which method won, by how much, at what cost; what a study is; the methods side by side."""

import inspect
from collections.abc import Sequence

from kdtune.answers import verdicts
from kdtune.answers.ranking import Row
from kdtune.answers.simultaneous import ALPHA
from kdtune.answers.term_facts import symbol
from kdtune.losses import LOSSES
from kdtune.report import facts
from kdtune.report.facts import ALONE, FINAL, method_name
from kdtune.report.methods import methods
from kdtune.report.next_steps import next_steps
from kdtune.report.page import Section, escape, grid, note, number, paragraph, tile
from kdtune.report.per_cost import against_cost
from kdtune.report.study import Study
from kdtune.study.names import TEACHER, is_distilled

WHAT = (
    "Semantic segmentation gives every pixel of an image a class, such as road or person. How well a network does is "
    "told by its mIoU: for each class the overlap of what it marked and what is there, divided by their union, then "
    "the mean over the classes, in percent; higher is better.",
    "A small network, the student, can be trained on the labels alone, or also on what a larger trained network, the "
    "teacher, says about each pixel: that is knowledge distillation. Each method adds other terms to what the student "
    "minimises. Whether one helps is only told fairly if both sides had their hyperparameters tuned, which a study "
    "does in stages: first the learning rate and the weight decay of the student alone and of the student with its "
    "teacher, then the temperature that softens the teacher's answer, then the weight of each term. Each stage starts "
    "from the best of an earlier one. At last the best of each method is trained again with new random seeds, and only "
    "these last runs are compared.",
)


def lead(study: Study) -> str:
    """Title, the answer in a sentence or two, the figures at the top."""
    spec, done = study.spec, len(study.trials)
    planned = max(sum(len(ids) for ids in study.plan.values()), done)
    last = max((row["finished_at"] for row in study.trials if row["finished_at"] is not None), default=None)
    words = (
        f"{done} trials have ended" if planned == done else f"{done} of the {planned} trials planned so far have ended"
    )
    words += f", the last one at {last:%Y-%m-%d %H:%M} UTC." if last else "."
    if done < planned or (spec is not None and len(study.plan) < len(spec.stages)):
        words += " The study has not run to its end: what follows may change."
    plan = study.stored.planned.get(study.name)
    words += f" All is {plan.chosen_on}." if plan and plan.chosen_on else ""
    about = paragraph(spec.description) if spec and spec.description else ""
    title = f'<h1>Study {escape(study.name)}</h1><p class="under">Knowledge distillation for semantic segmentation.'
    return f"{title} {escape(words)}</p>{about}{_answer(study)}{_tiles(study)}{_helpful(study)}"


def _helpful(study: Study) -> str:
    words = next_steps(study)
    return note(words) if words else ""


def _points(value: float, form: str = ".2f") -> str:
    return number(value, format(value, form))


def _answer(study: Study) -> str:
    final = study.table(FINAL).to_pylist()
    best = [row for row in final if row["best"]]
    if not best:
        return _answer_so_far(study)
    lacking = sum(row["miou_mean"] is None for row in final)
    if len(best) > 1:
        names = " and ".join(_short_name(row) for row in best)
        words = f"The best methods are <strong>the student {escape(names)}</strong>, equal to the last digit: "
    else:
        words = f"The best method is <strong>the student {escape(_short_name(best[0]))}</strong>: "
    std = "" if best[0]["miou_std"] is None else f" ± {_points(best[0]['miou_std'])}"
    seeds = f" over {best[0]['seeds']} seeds" if best[0]["seeds"] > 1 else ""
    words += f"{_points(best[0]['miou_mean'])}{std} % mIoU{seeds}. "
    if lacking:
        words += f"{lacking} of {len(final)} methods are not among them, for they have not all their runs. "
    distilled = [row for row in best if row["method"] != ALONE]
    words += _gain(study, distilled[0]) if distilled and len(best) == 1 else _none_better(final)
    return f'<p class="answer">{words}</p>'


def _short_name(row: Row) -> str:
    return "alone, without a teacher" if row["method"] == ALONE else method_name(row["method"])


def _none_better(final: Sequence[Row]) -> str:
    """The student alone is (among) the best: what is to be said of the others, as far as they have run."""
    others = [row for row in final if is_distilled(row["method"]) and row["miou_mean"] is not None]
    if not others:
        return "No distilled method has all its runs (yet)."
    if not any(row["method"] == ALONE and row["miou_mean"] is not None for row in final):
        return "The student alone has not all its runs, so no gain can be told."
    if len(others) == sum(is_distilled(row["method"]) for row in final):
        return "No distillation did better than the tuned student without a teacher."
    return f"None of the {len(others)} distilled methods that have all their runs did better."


def _answer_so_far(study: Study) -> str:
    students = [each for each in study.contenders if each.role != TEACHER]
    if not students:
        return note("No student has completed its training yet, so nothing can be compared.")
    top = max(students, key=lambda each: each.miou)
    if top.stage == FINAL:
        why = "No method has all its runs in stage <em>final</em>, so nothing can be compared."
    else:
        why = (
            "The methods have not been compared over new seeds yet (stage <em>final</em>), so this is the best of "
            "several runs, on the images that chose it: it is biased upwards."
        )
    return (
        f'<p class="answer">So far the best is the <strong>{escape(top.told)}</strong>: {_points(top.miou)} % mIoU. '
        f"{why}</p>"
    )


def _gain(study: Study, best: Row) -> str:
    """The gain of the best method with its interval, which holds for whichever method is the best, and the verdict."""
    found = next((gain for gain in study.gains if gain.method == best["method"]), None)
    if found is None or found.difference is None:
        why = f" {escape(found.verdict[0].upper() + found.verdict[1:])}." if found is not None else ""
        return f"How much that gains over the tuned student alone cannot be told.{why}"
    words = f"Its difference from the tuned student alone is {_signed(found.difference)} points of mIoU"
    if found.low is None or found.high is None:
        _, _, why = found.verdict.partition(f"against {verdicts.REFERENCES[ALONE]}")
        return f"{words}{escape(why)}."
    words += f", with a 95 % interval from {_signed(found.low)} to {_signed(found.high)}"
    words += f", which holds for all {found.family} comparisons at once" if found.family > 1 else ""
    if found.p is None:
        judged = "It is provisional: not all trials of stage 'final' have ended."
    elif found.p < ALPHA:
        judged = f"Chance hardly explains it ({verdicts.equation(found.p)})."
    else:
        reach = found.high - found.difference
        judged = f"It is not distinguishable from chance ({verdicts.equation(found.p)}); from {reach:.2f} points on it "
        judged += "would be."
    return f"{words}. {escape(judged)}"


def _signed(value: float) -> str:
    return number(value, verdicts.signed(value))


def _tiles(study: Study) -> str:
    """Cost of the study."""
    cost = facts.cost(study.trials, study.nodes)
    ended = ", ".join(f"{count} {status}" for status, count in cost.by_status.items())
    energy, co2 = cost.energy_kwh, cost.co2_kg
    told = "of the nodes, idle time included" if cost.of == "nodes" else f"of {cost.metered} of {cost.trials} trials"
    all_steps = cost.steps + cost.steps_saved
    share = 100 * cost.steps_saved / all_steps if all_steps else 0.0
    hours = "; ".join(f"{number(value, _hours(value))} on {escape(device)}" for device, value in cost.hours.items())
    tiles = [
        tile("Trials", number(cost.trials, str(cost.trials)), escape(ended)),
        tile("Training time", number(sum(cost.hours.values()), _hours(sum(cost.hours.values()))), hours),
        tile("Energy", number(energy, _energy(energy)) if energy is not None else "not metered",
             escape(told) if energy is not None else "no trial has an energy reading"),
        tile("CO2-equivalent", number(co2, _mass(co2)) if co2 is not None else "not known", "of that energy"
             if co2 is not None else "needs the energy"),
        tile("Saved by early stopping", number(cost.steps_saved, f"{cost.steps_saved:,} steps"),
             f"{number(share, f'{share:.1f}')} % of {all_steps:,} steps"),
    ]  # fmt: skip
    return grid(tiles, "tiles")


def _hours(hours: float) -> str:
    return f"{hours:.1f} h" if hours >= 1 else f"{60 * hours:.1f} min"


def _energy(kwh: float) -> str:
    return f"{kwh:.2f} kWh" if kwh >= 1 else f"{kwh:.2g} kWh"  # one unit on all of the page


def _mass(kg: float) -> str:
    return f"{kg:.2f} kg" if kg >= 1 else f"{kg:.2g} kg"


def opening_sections(study: Study) -> list[Section]:
    """How the methods did, for which cost, and what a study is."""
    return [
        Section("methods", "The methods side by side", methods(study)),
        Section("per-cost", "mIoU against time and energy", against_cost(study)),
        Section("what", "What this is", _setting(study) + "".join(map(paragraph, WHAT))),
    ]


def _setting(study: Study) -> str:
    """Dataset, student, teacher, terms of this study."""
    config = next((found for row in study.trials if (found := facts.taught_config(row)) is not None), None)
    config = config or next((found for row in study.trials if (found := facts.trial_config(row))), None)
    lines = []
    if config is not None:
        lines.append(f"dataset: {config.dataset.name}, {config.dataset.num_classes} classes")
        lines.append(f"student: {_network(config.student.model_dump())}")
        if config.teacher is not None:
            lines.append(f"teacher: {_network(config.teacher.model.model_dump())}")
    lines += _terms([row["method"] for row in study.trials])
    return f"<h3>This study</h3><ul>{''.join(f'<li>{escape(line)}</li>' for line in lines)}</ul>" if lines else ""


def _network(model: Row) -> str:
    told = [str(model[key]) for key in ("name", "backbone", "builder") if model.get(key)]
    width = model.get("width")
    return " ".join(told) + (f", {width:g} of its usual width" if width not in (None, 1.0) else "")


def _terms(methods: Sequence[str]) -> list[str]:
    """The distillation terms in use, as this installation knows them: the first line of each one's documentation."""
    names = dict.fromkeys(term for method in methods if method and is_distilled(method) for term in method.split("+"))
    known = {name: LOSSES.resolve(name) for name in names if name in LOSSES.names()}
    told = {name: (inspect.getdoc(term) or "").partition("\n")[0].rstrip(".") for name, term in known.items()}
    return [f"{name}: {symbol(name)}. {told[name]} ({term.source})" for name, term in known.items()]
