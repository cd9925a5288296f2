"""What a person should know of a stage that has ended."""

from kdtune.records import rows
from kdtune.search.ledger import Ledger
from kdtune.search.stage_context import recorded
from kdtune.study.names import TEACHER


def absent_classes(stage: str, ledger: Ledger, named: set[str]) -> str | None:
    """The classes that no image has, once for each dataset (``named``): they hardly differ from trial to trial."""
    for row in ledger.best(stage)[:1]:
        dataset = recorded(row).dataset
        note = rows.absent_note(dataset.class_names, row["per_class_iou"], most=10)
        if note and dataset.name not in named:
            named.add(dataset.name)
            return f"{stage}: {note}"
    return None


def weak_teacher(stage: str, ledger: Ledger) -> str | None:
    """The surest sign of wrong preprocessing: a teacher that does not beat the student."""
    teacher, student = ledger.best(TEACHER), ledger.best("student")
    if stage not in (TEACHER, "student") or not teacher or not student:
        return None
    best = rows.mean_std([row["miou"] for row in student])[0]
    if teacher[0]["miou"] > best:
        return None
    alike = recorded(teacher[0]).evaluated_on == recorded(student[0]).evaluated_on
    other = "" if alike else " (on the validation images the one, on held-out training images the other)"
    return (
        f"the teacher's mIoU of {teacher[0]['miou']:.2f} does not beat the student's {best:.2f}{other}: check its "
        "checkpoint, its preprocessing and its recipe before believing any distilled result"
    )
