"""The loss terms as ``kdtune losses list`` prints them."""

import textwrap

from kdtune.base import LossTerm
from kdtune.losses import LOSSES


def loss_lines() -> list[str]:
    """Every loss term: symbol and source; parameters with defaults; what it needs; what it owns. 100 columns."""
    lines = []
    for name in LOSSES.names():
        term = LOSSES.resolve(name)
        fields = [f"{k}={v.default}" for k, v in term.model_fields.items() if k != "weight"]
        told = {
            "parameters": ", ".join(fields) or "none but its weight",
            "needs": ", ".join(_needs(term.model_construct(weight=1.0))) or "logits only",
            "owns": term.owns or "nothing",
        }
        lines += textwrap.wrap(f"{name:7} {term.symbol:9} {term.source}", 100, subsequent_indent=" " * 18)
        for key, text in told.items():
            lines += textwrap.wrap(f"{key + ':':11} {text}", 100, initial_indent=" " * 8, subsequent_indent=" " * 20)
    return lines


def _needs(term: LossTerm) -> list[str]:
    """What a term with its defaults is given beyond the student's logits."""
    needs = ["teacher"] if term.needs_teacher else []
    needs += ["labels"] if term.needs_labels else []
    for network, taps in (("student", term.taps), ("teacher", term.teacher_taps)):
        needs += [f"{network}'s {tap}" for tap in sorted(taps)]
    return needs
