"""What is told of the terms agrees with what they declare."""

import re
from pathlib import Path

from kdtune.losses import LOSSES
from kdtune.losses.catalogue import BASIS

README = Path(__file__).resolve().parents[2] / "kdtune" / "losses" / "README.md"


def test_the_documents_table_has_each_terms_basis_and_weight() -> None:
    """Of those that it has: a new term needs no row."""
    rows = re.findall(r"^\| \[`(\w+)`\].* \| (\w+) \| (\S+) \|$", README.read_text(), re.MULTILINE)
    terms = {name: LOSSES.resolve(name) for name, _, _ in rows}
    assert len(terms) == len(rows) > 30
    assert {name: basis for name, basis, _ in rows} == {name: BASIS[term.confidence] for name, term in terms.items()}
    assert {name: weight for name, _, weight in rows} == {
        name: f"{term.published_weight.weight:.3g}" if term.published_weight else "-" for name, term in terms.items()
    }
