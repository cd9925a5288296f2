"""The table ``terms``: each method of stage ``final`` as a publication's terms, what they gain and what they cost."""

import statistics
from collections.abc import Mapping, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from kdtune.answers.cells import added_terms
from kdtune.answers.columns import TERMS, gain_columns, loss_columns, typed
from kdtune.answers.final_tables import configuration_of
from kdtune.answers.holm import corrected, paired_p
from kdtune.answers.literature import reported
from kdtune.answers.planned_grid import PlannedStudy
from kdtune.answers.ranking import Row
from kdtune.answers.significance import ALONE
from kdtune.answers.term_facts import UNITS, basis, facts, published_for
from kdtune.study.names import FINAL, is_distilled


def terms_table(final: pa.Table, trials: pa.Table, plan: PlannedStudy) -> pa.Table:
    """A line per distilled method, the best first; those without a mean last.

    ``final``: the table ``final``, whose students without a teacher stand beside each method. Weights are those of the
    method's best configuration, in each term's own unit and as its publication prints them; ``factor`` is their common
    ratio to the published ones, if they have one. Seconds and energy are means of the runs of stage ``final``: the
    seconds as they ran, fewer where what the teacher makes was found stored, the energy with a teacher of its own.
    """
    rows: list[Row] = final.to_pylist()
    alone = {f"miou_{row['method']}": row["miou_mean"] for row in rows if not is_distilled(row["method"])}
    lambdas = loss_columns(trials)
    runs = _runs(trials, lambdas)
    shown: list[Row] = [
        {name: row.get(name) for name in ("study", "method", "miou_mean", "miou_std", "seeds", "status", "group")}
        | {name: row.get(name) for name in gain_columns(ALONE)}
        | alone
        | _of_terms(row["method"], configuration_of(runs.get(row["method"], [])), lambdas)
        | _beside(row["method"], plan)
        for row in rows
        if is_distilled(row["method"])
    ]
    tested = [row for row in shown if row["p_student"] is not None]  # not while trials are to come
    theirs = _by_seed(configuration_of(runs.get(ALONE, [])))
    found = {row["method"]: paired_p(_by_seed(configuration_of(runs[row["method"]])), theirs) for row in tested}
    known = {method: p for method, p in found.items() if p is not None}
    holm = corrected(known, max((row["family_student"] for row in tested), default=0))
    shown = [row | {"p_holm": holm.get(row["method"])} for row in shown]
    shown.sort(key=lambda row: (row["miou_mean"] is None, -(row["miou_mean"] or 0.0)))
    used = [name for name in lambdas if any(row.get(name) is not None for row in shown)]
    return typed(shown, [*TERMS, *used, *gain_columns(ALONE)])


def _runs(trials: pa.Table, lambdas: Sequence[str]) -> dict[str, list[Row]]:
    """Method -> its trials of stage ``final``."""
    wanted = ["method", "start", "config_id", "seed", "status", "miou", "step", "steps_total"]
    wanted += [name for name in trials.column_names if name.startswith(tuple(f"{unit}_" for unit in UNITS))]
    spent = [name for name in ("train_seconds", "energy_kwh", "energy_alone_kwh") if name in trials.column_names]
    found: dict[str, list[Row]] = {}
    for row in trials.filter(pc.equal(trials["stage"], FINAL)).select([*wanted, *spent, *lambdas]).to_pylist():
        found.setdefault(row["method"], []).append(row)
    return found


def _of_terms(method: str, runs: Sequence[Row], lambdas: Sequence[str]) -> Row:
    """What the terms are, with which weights, and what a trial took."""
    terms = method.split("+")
    told = {term: facts(term) for term in terms}
    weights = {name: runs[0][name] for name in lambdas if runs and runs[0][name] is not None}
    found = {term: weights[f"lambda_{term}"] for term in terms if f"lambda_{term}" in weights}
    known = {term: told[term].weight if published_for(term, runs[0]) else None for term in found}
    ratios = {term: weight / theirs if (theirs := known[term]) else None for term, weight in found.items()}
    printed = {term: told[term].printed for term in terms}
    as_published = [_words(None if r is None else r * (printed[t] or 0.0)) for t, r in ratios.items()]
    distinct = {None if ratio is None else float(f"{ratio:.4g}") for ratio in ratios.values()}
    return weights | {
        "start": runs[0]["start"] if runs else None,
        "terms": added_terms(method),
        "publication": "; ".join(dict.fromkeys(each.publication for each in told.values() if each.publication)),
        "basis": basis(method),
        "weights": ", ".join(map(_words, found.values())) or None,
        "weights_as_published": ", ".join(as_published) or None,
        "factor": distinct.pop() if len(distinct) == 1 else None,
        "train_seconds": _mean(runs, "train_seconds"),
        "energy_kwh": _mean(runs, "energy_alone_kwh") or _mean(runs, "energy_kwh"),
    }


def _words(weight: float | None) -> str:
    return "-" if weight is None else f"{weight:.3g}"


def _by_seed(runs: Sequence[Row]) -> dict[int, float]:
    return {row["seed"]: row["miou"] for row in runs if row["status"] == "completed" and row["miou"] is not None}


def _mean(runs: Sequence[Mapping[str, float | None]], name: str) -> float | None:
    known = [value for row in runs if (value := row.get(name)) is not None]
    return statistics.fmean(known) if known else None


def _beside(method: str, plan: PlannedStudy) -> Row:
    """What the terms' own publication reports for this dataset and backbone."""
    found = reported(plan.dataset, plan.student, method)
    return {"miou_student_published": found.student, "miou_mean_published": found.miou} if found else {}
