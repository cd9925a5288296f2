"""What tables tell of a loss term: its symbol, whose it is, its published weight."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from kdtune.losses import LOSSES
from kdtune.losses.marks import DAGGER, reconstructed, term

# Told here as well, for a term's class takes pydantic to import: the paper's own tables are printed without it.
_PAPER = {"pi": "L_PI", "pa": "L_PA", "ho": "L_HO", "ifv": "L_IFV"}

BASES = ("code", "paper", "ours", "unknown")  # of several terms the last one is told
_BASIS = {"code": "code", "paper": "paper", "reconstruction": "ours"}


@dataclass(frozen=True)
class Facts:
    """Of one term; of a package that is not installed here only its name is known."""

    publication: str = ""  # first name and year
    basis: str = "unknown"  # of the implementation: code, paper, ours
    weight: float | None = None  # the published one in the term's own unit
    printed: float | None = None  # the same in the publication's
    convention: str = ""  # that the weight is for, where a term has several


@cache
def facts(name: str) -> Facts:
    """What a term says of itself."""
    kind = term(name)
    if kind is None:
        return Facts()
    found = re.match(r"(\w+)\b.*?(\d{4})", kind.source)
    publication = " ".join(found.groups()) if found else kind.source
    published = kind.published_weight
    weight, printed = (published.weight, published.printed or published.weight) if published else (None, None)
    convention = kind.model_fields["convention"].default if "convention" in kind.model_fields else ""
    return Facts(publication, _BASIS[kind.confidence], weight, printed, convention)


UNITS = ("convention", "tap")  # fields of terms that change what a weight multiplies


def published_for(name: str, row: Mapping[str, Any]) -> bool:
    """Whether the published weight of a term is one for how this trial computes it."""
    fields = getattr(term(name), "model_fields", {})
    given = ((row.get(f"{unit}_{name}"), fields[unit].default) for unit in UNITS if unit in fields)
    return all(value is None or value == usual for value, usual in given)


@cache
def symbol(name: str) -> str:
    """``L_FitNet`` of ``fitnet``, with a dagger where the term is our reconstruction."""
    if name in _PAPER:
        return _PAPER[name]
    kind = term(name)
    return f"L_{name.upper()}" if kind is None else f"{kind.symbol}{DAGGER if reconstructed(name) else ''}"


def basis(method: str) -> str:
    """Of a distilled method's terms: what the least of them is taken from."""
    return max((facts(name).basis for name in method.split("+")), key=BASES.index)


def in_order(names: Sequence[str]) -> list[str]:
    """Terms in the order of the package's table, others behind."""
    table = [*LOSSES.table]
    return sorted(names, key=lambda name: (table.index(name) if name in table else len(table), name))
