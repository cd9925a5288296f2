"""Table 6 as people read it: a cross per loss, a line per method, what the seeds tell of its gains beside and below."""

import math
from collections.abc import Collection, Sequence

import pyarrow as pa

from kdtune.answers import verdicts
from kdtune.answers.cells import added_terms, method_crosses, method_terms, number, score, texts
from kdtune.answers.columns import EFFORT, REFERENCES
from kdtune.answers.formats import Block, Cell
from kdtune.answers.ranking import Row
from kdtune.study.names import VARIANTS

CROSSES = 8  # columns of them at most


def final_blocks(data: pa.Table) -> list[Block]:
    """Table 6: a cross per loss, one line per method; what the seeds tell of its gains beside and below."""
    rows: list[Row] = data.to_pylist()
    losses, crosses = method_crosses([row["method"] for row in rows])
    named = any(row["method"] in VARIANTS for row in rows)
    if len(losses) > CROSSES or named:  # a ranking of methods by name, for crosses would not fit, or not tell all
        losses, crosses = ["L_CE with"], {row["method"]: texts(added_terms(row["method"])) for row in rows}
        rows = sorted(rows, key=lambda row: -math.inf if row["miou_mean"] is None else row["miou_mean"], reverse=True)
    against = [of for of in REFERENCES if any(row.get(f"gain_{of}") is not None for row in rows)]
    seen = {of for of in against if any(row[f"gain_{of}_images_low"] is not None for row in rows)}
    effort = [name for name in EFFORT if any(row.get(name) is not None for row in rows)]
    standing = ["group"] if any(row.get("group") for row in rows) else []
    lines = [
        [
            *crosses[row["method"]],
            score(row),
            Cell(number(row["seeds"])),
            *texts(*(row[name] or "-" for name in standing)),
            *texts(*(number(row[name], ",") for name in effort)),
            *(c for of in against for c in _gain(row, of, images=of in seen)),
        ]
        for row in rows
    ]
    header = [*losses, "mIoU", "seeds", *standing]
    kinds = {"student": "primary", "pi": "secondary"}
    groups = [("", len(header)), *([("tuned by", 2)] if effort else [])]
    header += ["trials", "steps"] if effort else []
    for of in against:
        columns = ["difference", "95 % interval", "p", *(["other images"] if of in seen else [])]
        groups.append((f"{kinds[of]}, against {method_terms(of)}", len(columns)))
        header += columns
    return [
        Block(
            "mIoU [%] of each method beside L_CE",
            header,
            lines,
            [note for of in against if (note := _family_note(rows, of))],
            groups if groups[1:] else [],
            [
                *_verdicts(rows),
                *_of_families(rows, against),
                *_of_standing(rows),
                *_of_images(rows, against, seen),
                *_of_effort(rows),
            ],
        )
    ]


def _verdicts(rows: Sequence[Row]) -> list[str]:
    return [
        f"{method_terms(row['method'])}: {row[f'verdict_{of}']}"
        for of in REFERENCES
        for row in rows
        if row.get(f"verdict_{of}")
    ]


def _family_note(rows: Sequence[Row], of: str) -> str:
    """What interval and p hold for; empty where there are none."""
    if not any(row[f"gain_{of}_low"] is not None for row in rows):
        return ""
    size = max(row[f"family_{of}"] or 0 for row in rows)
    of_all = f"over the {size} comparisons" if size > 1 else "of the one comparison"
    return f"interval and p against {method_terms(of)}: simultaneous {of_all}"


def _of_families(rows: Sequence[Row], against: Sequence[str]) -> list[str]:
    """What is to be known of all differences."""
    told = []
    if any(row[f"provisional_{of}"] for of in against for row in rows):
        told.append(verdicts.WAITING)
    for of in against:
        apart = [row[f"scatter_p_{of}"] for row in rows if row[f"analysis_{of}"] == "reference apart"]
        told += [verdicts.scattering(of, apart[0])] if apart else []
    found = next((row for row in rows if "student" in against and row["least_gain_student"] is not None), None)
    told += [verdicts.findable(found["least_gain_student"], found["seeds_needed_student"])] if found else []
    sure = any(row[f"gain_{of}_low"] is not None for of in against for row in rows)
    return [*told, verdicts.COVERED] if sure else told


def _of_images(rows: Sequence[Row], against: Sequence[str], seen: Collection[str]) -> list[str]:
    """What intervals of other images hold for, or why there are none; and the gains that they leave in doubt.

    ``seen``: the references that have any.
    """
    over = {words: None for of in against for row in rows if (words := row[f"images_{of}"])}
    if not seen:
        return [verdicts.no_images(words) for words in over]
    doubted = [
        verdicts.doubted(method_terms(row["method"]), of)
        for of in against
        for row in rows
        if row[f"gain_{of}_images_low"] is not None
        and verdicts.in_doubt(row[f"p_{of}"], row[f"gain_{of}_images_low"], row[f"gain_{of}_images_high"])
    ]
    return [*map(verdicts.of_images, over), *doubted]


def _of_standing(rows: Sequence[Row]) -> list[str]:
    """What a group is, and what of the best one's lead chance alone would give."""
    best = next((row for row in rows if row.get("lead_by_chance") is not None), None)
    if best is None:
        return []
    ranked = sum(bool(row["group"]) for row in rows)
    name = method_terms(best["method"])
    return [verdicts.of_groups(best["apart"]), verdicts.lead(name, best["lead"], best["lead_by_chance"], ranked)]


def _of_effort(rows: Sequence[Row]) -> list[str]:
    """Whether the student alone was tuned by fewer trials than others."""
    trials = {row["method"]: row.get("tuning_trials") or 0 for row in rows}
    most = max(trials.values(), default=0)
    if not 0 < trials.get("student", 0) < most:
        return []
    return [verdicts.unequal(trials["student"], most)]


def _gain(row: Row, of: str, *, images: bool) -> list[Cell]:
    """Difference [mIoU points], its simultaneous interval, p, and the interval of other images where ``images``."""
    difference, p = row[f"gain_{of}"], row[f"p_{of}"]
    shown = "-" if difference is None else verdicts.signed(difference)
    cells = [shown, interval(row, f"gain_{of}"), "-" if p is None else verdicts.probability(p)]
    return texts(*cells, *([interval(row, f"gain_{of}_images")] if images else []))


def interval(row: Row, name: str) -> str:
    """``-0.10 to +0.20`` of the columns ``<name>_low`` and ``<name>_high``."""
    low, high = row[f"{name}_low"], row[f"{name}_high"]
    return "-" if low is None or high is None else f"{verdicts.signed(low)} to {verdicts.signed(high)}"
