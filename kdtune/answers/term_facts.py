"""What tables tell of a loss term: its symbol, whose it is, its published weight, whether it is our reconstruction."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from kdtune.losses import LOSSES

# Told here as well, for a term's class takes pydantic to import: the paper's own tables are printed without it.
_PAPER = {"pi": "L_PI", "pa": "L_PA", "ho": "L_HO", "ifv": "L_IFV"}

DAGGER = "†"
FOOTNOTE = f"{DAGGER}: our reconstruction of the term, not the authors'"
_BASIS = {"code": "code", "paper": "paper", "reconstruction": "ours"}


@dataclass(frozen=True)
class Facts:
    """Of one term; of a package that is not installed here only its name is known."""

    publication: str = ""  # first name and year
    basis: str = "unknown"  # of the implementation: code, paper, ours
    weight: float | None = None  # the published one in the term's own unit
    printed: float | None = None  # the same in the publication's


@cache
def facts(name: str) -> Facts:
    """What a term says of itself."""
    term = _term(name)
    if term is None:
        return Facts()
    found = re.match(r"(\w+)\b.*?(\d{4})", term.source)
    publication = " ".join(found.groups()) if found else term.source
    published = term.published_weight
    weight, printed = (published.weight, published.printed or published.weight) if published else (None, None)
    return Facts(publication, _BASIS[term.confidence], weight, printed)


@cache
def symbol(name: str) -> str:
    """``L_FitNet`` of ``fitnet``, with a dagger where the term is our reconstruction."""
    if name in _PAPER:
        return _PAPER[name]
    term = _term(name)
    if term is None:
        return f"L_{name.upper()}"
    return f"{term.symbol}{DAGGER if term.confidence == 'reconstruction' else ''}"


def marked(name: str) -> str:
    """The term's own name, with the dagger that its symbol has."""
    return f"{name}{DAGGER if symbol(name).endswith(DAGGER) else ''}"


def in_order(names: Sequence[str]) -> list[str]:
    """Terms in the order of the package's table, others behind."""
    table = [*LOSSES.table]
    return sorted(names, key=lambda name: (table.index(name) if name in table else len(table), name))


def _term(name: str) -> Any:
    """The class of that name, none of a package that is not installed here."""
    try:
        return LOSSES.resolve(name)
    except (ValueError, ImportError, AttributeError):
        return None
