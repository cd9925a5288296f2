"""The table ``terms`` as people read it: a line per method, its publication's own figures beside."""

from collections.abc import Sequence

import pyarrow as pa

from kdtune.answers import verdicts
from kdtune.answers.cells import number, score, texts
from kdtune.answers.final_layout import interval
from kdtune.answers.formats import Block
from kdtune.answers.ranking import Row
from kdtune.study.names import VARIANTS

NOTES = [
    "S, + T: student alone and distilled, mIoU [%]",
    "basis: of the implementation, published code, the paper's equations, or ours",
    "factor: of the published weights",
    "s: of a trial as it ran, less where it found stored what the teacher makes",
    "kWh: of a trial with a teacher of its own",
]


def terms_blocks(data: pa.Table) -> list[Block]:
    """What each publication's terms gain here."""
    rows: list[Row] = data.to_pylist()
    beside = any(row["miou_mean_published"] is not None for row in rows)
    grouped = any(row["group"] for row in rows)
    lines = [
        [
            *texts(row["terms"], row["publication"] or "-", row["basis"], number(row["miou_student"], ".2f")),
            score(row),
            *texts(*([row["group"] or "-"] if grouped else [])),
            *texts("-" if row["gain_student"] is None else verdicts.signed(row["gain_student"])),
            *texts(interval(row, "gain_student")),
            *texts(*("-" if row[p] is None else verdicts.probability(row[p]) for p in ("p_student", "p_holm"))),
            *texts(row["weights"] or "-", row["weights_as_published"] or "-", number(row["factor"])),
            *texts(number(row["train_seconds"], ".3g"), number(row["energy_kwh"], ".3g")),
            *texts(*([_published(row)] if beside else [])),
        ]
        for row in rows
    ]
    header = ["terms", "publication", "basis", "S", "+ T", *(["group"] if grouped else [])]
    header += ["difference", "95 % interval", "p", "p, Holm", "weights", "as published", "factor", "s", "kWh"]
    remarks = _students(rows)
    remarks += [verdicts.CORRECTED, verdicts.HOLM] if any(row["p_student"] is not None for row in rows) else []
    if any(row["provisional_student"] for row in rows):
        remarks.append(verdicts.WAITING)
    title = "what each publication's terms gain, each tuned here"
    return [Block(title, [*header, *(["published"] if beside else [])], lines, NOTES, remarks=remarks)]


def _students(rows: Sequence[Row]) -> list[str]:
    """The students without a teacher, where there is more than the tuned one."""
    names = {"student": "tuned", **VARIANTS}
    known = [(words, rows[0][f"miou_{name}"]) for name, words in names.items() if rows]
    told = [f"{words} {miou:.2f}" for words, miou in known if miou is not None]
    return [f"the student alone, mIoU [%]: {', '.join(told)}"] if len(told) > 1 else []


def _published(row: Row) -> str:
    """Student alone and distilled, as the publication has them."""
    student, miou = row["miou_student_published"], row["miou_mean_published"]
    return "-" if miou is None else f"{student:.2f}, {miou:.2f}"
