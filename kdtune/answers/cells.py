"""What stands in one cell: scores and their marks, rates, amounts, crosses of methods, as the paper prints them."""

import math
from collections.abc import Collection, Sequence

from kdtune.answers.formats import Cell, Mark
from kdtune.answers.ranking import Row
from kdtune.answers.term_facts import in_order, symbol
from kdtune.losses import LOSSES
from kdtune.records.schemas import is_parameter
from kdtune.study.names import VARIANTS, is_distilled

_PAPER_LOSSES = ("pi", "pa", "ho", "ifv")


def scientific(value: float | None) -> str:
    """As the paper prints rates and weights: 5e-2, 1e+0; three digits at most, ``-`` for none."""
    if value is None:
        return "-"
    mantissa, exponent = f"{value:.2e}".split("e")
    return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent):+d}" if value else "0"


def number(value: float | None, form: str = "g") -> str:
    """A number as the tables print it; a dash for none."""
    return "-" if value is None else f"{value:{form}}"


def loss_symbol(column: str) -> str:
    """``PI`` of the column ``lambda_pi``."""
    return symbol(column.removeprefix("lambda_")).removeprefix("L_")


def parameter(column: str) -> tuple[str, str] | None:
    """Term and field of a column ``critic_lr_ho``; none of another column, or of a term that is not known here."""
    if not is_parameter(column):
        return None
    term = max((name for name in LOSSES.names() if column.endswith(f"_{name}")), key=len, default="")
    return (term, column.removesuffix(f"_{term}")) if term else None


def parameter_words(column: str) -> str | None:
    """``critic lr of HO`` of the column ``critic_lr_ho``; none of a column that is no parameter of a term."""
    if (found := parameter(column)) is not None:
        return f"{found[1].replace('_', ' ')} of {loss_symbol(found[0])}"
    return column.replace("_", " ") if is_parameter(column) else None


def _mark(row: Row) -> Mark:
    return "best" if row.get("best") else "near" if row.get("within_one_std") else ""


def score(row: Row) -> Cell:
    """The mIoU [percent] with its deviation; what a trial reached that was stopped, and at which step."""
    mean, std, status = row.get("miou_mean"), row.get("miou_std"), row.get("status")
    miou = row.get("miou") if mean is None else mean
    if status in ("diverged", "failed"):
        return Cell(status)
    if status == "stopped":
        step, total = row.get("step"), row.get("steps_total")
        return Cell("stopped" if miou is None or step is None else f"{miou:.2f} @ {step}/{total}")
    if miou is None:
        return Cell("-")
    return Cell(f"{miou:.2f}", _mark(row), "" if std is None else f" ± {std:.2f}")


def notes(rows: Sequence[Row]) -> list[str]:
    """What the signs in these rows' cells mean."""
    return ["a @ s/t: stopped at step s of t"] if any(row.get("status") == "stopped" for row in rows) else []


def falling(values: Collection[float | None]) -> list[float | None]:
    """As the paper orders its axes; what has no value last."""
    return sorted(values, key=lambda value: -math.inf if value is None else value, reverse=True)


def texts(*words: str) -> list[Cell]:
    """Plain cells."""
    return [Cell(word) for word in words]


def method_crosses(methods: Sequence[str]) -> tuple[list[str], dict[str, list[Cell]]]:
    """The names of the losses that any of the methods adds to L_CE, and each method's crosses below them."""
    parts = {method: set(method.split("+")) if is_distilled(method) else set[str]() for method in methods}
    losses = [*_PAPER_LOSSES, *dict.fromkeys(loss for part in parts.values() for loss in in_order([*part]))]
    losses = [loss for loss in dict.fromkeys(losses) if any(loss in part for part in parts.values())]
    crosses = {method: [Cell("x" if loss in part else "") for loss in losses] for method, part in parts.items()}
    return [symbol(loss) for loss in losses], crosses


def method_terms(method: str) -> str:
    """``L_CE + L_PI`` of the method ``pi``."""
    if method == "teacher":
        return "teacher"
    if method in VARIANTS:
        return f"L_CE, {VARIANTS[method]}"
    return f"L_CE + {added_terms(method)}" if is_distilled(method) else "L_CE"


def added_terms(method: str) -> str:
    """``L_PI + L_PA`` of the method ``pi+pa``; a dash of the student alone, or what else it is."""
    if not is_distilled(method):
        return VARIANTS.get(method, "-")
    return " + ".join(symbol(loss) for loss in method.split("+"))


def amount(row: Row, name: str) -> str:
    """An energy or its emissions; with a tilde where it was estimated."""
    return ("~" if row.get("measured") is False and row.get(name) is not None else "") + number(row.get(name), ".3g")
