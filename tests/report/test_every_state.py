"""Every table in every format, the status, the summary and the report, in every state that a study can be in."""

import re
from collections.abc import Sequence
from pathlib import Path

import pytest

from kdtune import results
from kdtune.answers.comparison import compare
from kdtune.answers.published import published
from kdtune.answers.query import summary
from kdtune.answers.rendering import FORMATS, render, render_comparison
from kdtune.answers.tables import NAMES, table
from kdtune.base import UserError
from kdtune.records.status import status_of
from kdtune.records.status_lines import lines
from kdtune.records.storage import Storage
from tests.support import report_study, study_states
from tests.support.html_page import Page
from tests.support.study_states import NAME, State

SIGNED_ZERO = re.compile(r"-0\.0+(?![\d.])")
PAGES = study_states.pairs()[2::27]  # a report takes three seconds
PARTS = 6  # for several processes, `pytest -m soak -n 2 --dist load`


def stored(folder: Path, state: State) -> Storage:
    storage = Storage(str(folder / str(len(list(folder.iterdir())))), NAME)
    study_states.write(storage, state)
    return storage


def all_words(storage: Storage) -> list[str]:
    """What ``results``, ``status`` and the end of a launch print."""
    tables = results(NAME, storage.root).all()
    words = [render(name, tables, NAME, form) for name in NAMES for form in FORMATS]
    for name in NAMES:
        try:
            paper = published(NAME, name)
        except UserError:
            continue
        words.append(render_comparison(name, compare(name, table(name, tables, NAME), paper), NAME, "text"))
    return [*words, summary(storage, styled=False), *lines(status_of(storage))]


def check_tables(folder: Path, states: Sequence[State]) -> None:
    for state in states:
        for words in all_words(stored(folder, state)):
            assert not re.search(r"\bnan\b|\bNone\b", words, re.IGNORECASE), (state, words)
            assert not SIGNED_ZERO.search(words), (state, words)


def check_page(folder: Path, state: State) -> Page:
    content = report_study.page(stored(folder, state))
    assert "</html>" in content, state
    page = Page(content)
    assert not re.search(r"\bnan\b|\bNone\b", page.words.replace("None of", ""), re.IGNORECASE), state
    assert not SIGNED_ZERO.search(page.words), state
    return page


def test_the_states_are_all_there_are() -> None:
    assert len(study_states.all_states()) == 3**6 + 9**3
    assert len(set(map(str, study_states.pairs()))) == 27 + 81


def test_tables_and_status_in_every_pair_of_states(tmp_path: Path) -> None:
    check_tables(tmp_path, study_states.pairs())


@pytest.mark.parametrize("state", PAGES, ids=str)
def test_the_report_in_states_of_each_kind(tmp_path: Path, state: State) -> None:
    check_page(tmp_path, state)


@pytest.mark.soak
@pytest.mark.timeout(3600)  # 243 states, each with a page
@pytest.mark.parametrize("part", range(PARTS))
def test_tables_status_and_report_in_every_state(tmp_path: Path, part: int) -> None:
    for state in study_states.all_states()[part::PARTS]:
        check_tables(tmp_path, [state])
        check_page(tmp_path, state)
