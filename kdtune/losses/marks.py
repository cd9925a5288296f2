"""Which terms are our reconstruction: wherever a result of one is told, a dagger says that it is not the authors'."""

from functools import cache
from typing import Any

from kdtune.losses import LOSSES

DAGGER = "†"
FOOTNOTE = f"{DAGGER}: our reconstruction of the term, not the authors'"

# Told here as well, for a term's class takes pydantic to import: the paper's own tables are printed without it.
_PAPER = ("pi", "pa", "ho", "ifv")


def term(name: str) -> Any:
    """The class of that name, none where there is no such term, or its package is not installed here."""
    try:
        return LOSSES.resolve(name)
    except (ValueError, ImportError, AttributeError):
        return None


@cache
def reconstructed(name: str) -> bool:
    """Whether the term of that name is our reconstruction."""
    found = None if name in _PAPER else term(name)
    return found is not None and found.confidence == "reconstruction"


def marked(method: str) -> str:
    """A method, its terms joined by ``+``, with a dagger behind each that is our reconstruction."""
    return "+".join(f"{name}{DAGGER}" if reconstructed(name) else name for name in method.split("+"))
