"""The loss terms as ``kdtune losses list`` and ``show`` print them."""

import re
import textwrap
from collections.abc import Sequence

from kdtune.base import LossTerm, UserError
from kdtune.losses import LOSSES

WIDTHS = (20, 10, 6, 7, 14, 27, 36)  # characters of the columns
INDENT = sum(WIDTHS[:-1])
BASIS = {"code": "code", "paper": "paper", "reconstruction": "ours"}
LEFT_OUT = ("weight", "acknowledge_patent")
LEGEND = """\
basis: as in published code; by the paper's equations; ours: our reconstruction from an abstract or a note, not the
       authors'. weight: the published one in this term's unit. needs: T teacher, L labels, C classifier, I image, taps;
       O owns modules or state, R draws. kdtune losses show NAME tells the rest."""


def loss_lines() -> list[str]:
    """A line of 120 columns for every term, two where its parameters are many, after a legend."""
    lines = [*LEGEND.splitlines(), "", _row("name", "symbol", "basis", "weight", "needs", "source", "parameters")]
    usable = LOSSES.usable()
    for name in LOSSES.names():
        if name not in usable:
            lines.append(_row(name, "-", "-", "-", "-", "cannot be imported", f"kdtune losses show {name}"))
            continue
        term = LOSSES.resolve(name)
        published = term.published_weight
        weight = f"{published.weight:.3g}" if published else "-"
        names = [key for key in term.model_fields if key not in LEFT_OUT]
        parameters = textwrap.wrap(", ".join(names), WIDTHS[-1]) or ["-"]
        if term.patent:
            parameters += textwrap.wrap(f"off unless acknowledge_patent: true ({term.patent})", WIDTHS[-1])
        needs = _letters(term.plain())
        lines.append(_row(name, term.symbol, BASIS[term.confidence], weight, needs, _short(term), parameters[0]))
        lines += [" " * INDENT + more for more in parameters[1:]]
    return lines


def described(name: str) -> list[str]:
    """One term in full, 100 columns.

    Raises:
        ValueError: there is none of that name.
    """
    term = LOSSES.resolve(name)
    published = term.published_weight
    told = {
        "source": term.source,
        "basis": term.confidence if term.confidence != "reconstruction" else "our reconstruction, not the authors'",
        "patent": f"{term.patent}: a study says acknowledge_patent: true" if term.patent else "",
        "weight": f"{published.weight:.3g} ({published.source})" if published else "none is known",
        "parameters": ", ".join(_parameters(term)) or "none but its weight",
        "needs": ", ".join(_needs(term.plain())) or "logits only",
        "owns": term.owns or "nothing",
    }
    lines = [f"{name}: {term.symbol}", *textwrap.wrap((term.__doc__ or "").split("\n\n")[0], 100), ""]
    for key, text in told.items():
        if text:
            lines += textwrap.wrap(f"{key + ':':11} {text}", 100, subsequent_indent=" " * 12)
    return lines


def refuse_unknown(names: Sequence[str]) -> None:
    """Raises UserError where one of these is no term, or cannot be imported."""
    for name in names:
        try:
            LOSSES.resolve(name)
        except ValueError as error:
            raise UserError(f"{name}: {error}") from None


def _row(*cells: str) -> str:
    return "".join(cell.ljust(width) for cell, width in zip(cells, WIDTHS, strict=True)).rstrip()


def _parameters(term: type[LossTerm]) -> list[str]:
    return [f"{key}={_plain(field.default)}" for key, field in term.model_fields.items() if key not in LEFT_OUT]


def _plain(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _short(term: type[LossTerm]) -> str:
    """First name, year, arXiv's number: ``Liu 2019, 1903.04197``."""
    found = re.match(r"(\w+).*?(\d{4})(?:, arXiv:(\d+\.\d+))?", term.source)
    if found is None:
        return term.source[: WIDTHS[5] - 1]
    name, year, number = found.groups()
    return f"{name} {year}" + (f", {number}" if number else "")


def _letters(term: LossTerm) -> str:
    flags = {"T": term.needs_teacher, "L": term.needs_labels, "C": term.needs_classifier, "I": term.needs_image}
    letters = "".join(letter for letter, there in {**flags, "O": term.owns, "R": term.draws}.items() if there)
    taps = sorted(term.taps | term.teacher_taps)
    return " ".join([letters, _joined(taps)]).strip() or "-"


def _joined(taps: Sequence[str]) -> str:
    """``layer2-4`` for three layers."""
    layers = [tap.removeprefix("layer") for tap in taps if tap.startswith("layer")]
    others = [tap for tap in taps if not tap.startswith("layer")]
    return ",".join([*([f"layer{''.join(layers)}"] if layers else []), *others])


def _needs(term: LossTerm) -> list[str]:
    """What a term with its defaults is given beyond the student's logits."""
    needs = ["teacher"] if term.needs_teacher else []
    needs += ["labels"] if term.needs_labels else []
    needs += ["student's classifier"] if term.needs_classifier else []
    needs += ["image"] if term.needs_image else []
    for network, taps in (("student", term.taps), ("teacher", term.teacher_taps)):
        needs += [f"{network}'s {tap}" for tap in sorted(taps)]
    return needs
