"""Every sentence of the report and of the tables has a condition: here are both sides of each."""

import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from kdtune import results
from kdtune.answers.borders import border
from kdtune.answers.rendering import render
from kdtune.records.storage import Storage
from tests.support import report_study, study_states
from tests.support.html_page import Page
from tests.support.study_states import METHODS, NAME, SEARCHES, STAGES, State

NONE_BETTER = "No distillation did better than the tuned student without a teacher."
HELP = "What would help:"
ALL = dict.fromkeys(STAGES, "all")


def fated(*fates: str) -> State:
    done = dict.fromkeys(SEARCHES, "all") | {"final": "as below", "initialization": "nothing"}
    return State(done, dict(zip(METHODS, fates, strict=True)))


def progress(**done: str) -> State:
    return State(dict.fromkeys(STAGES, "nothing") | done)


def shown(folder: Path, state: State) -> tuple[str, str]:
    """The report's words, and the table ``final``."""
    storage = Storage(str(folder), NAME)
    study_states.write(storage, state)
    return Page(report_study.page(storage)).words, render("final", results(NAME, storage.root).all(), NAME, "text")


CASES: list[tuple[str, State, list[str], list[str]]] = [
    (
        "complete",
        fated("ended", "ended", "ended"),
        [
            "The best method is the student distilled with pi + pa",
            "which holds for all 2 comparisons at once",
            "95 % intervals are of other training seeds on these validation images, not of other images",
            "is found by such a comparison with a probability of 80 %; one of half a point would need",
            "They do not tell whether methods differ",
            "Filled and blue: chance hardly explains it",
        ],
        [
            HELP,
            NONE_BETTER,
            "Provisional",
            "provisional:",
            "So far",
            "are not among them",
            "may be chance",
            "scatters more",
        ],
    ),
    (
        "provisional",
        fated("ended", "two seeds", "ended"),
        [
            "1 of 3 methods are not among them",
            "Provisional: not all of these runs have ended",
            "provisional, 8 of 9 trials",
        ],
        ["a gain over", "not distinguishable", "with a probability of 80 %", "Filled and blue", NONE_BETTER, HELP],
    ),
    (
        "student alone so far",
        fated("ended", "no seed", "one seed"),
        ["The best method is the student alone", "No distilled method has all its runs (yet)."],
        [NONE_BETTER, "did better"],
    ),
    (
        "student alone among some",
        fated("tied", "without variance", "two seeds"),
        ["None of the 1 distilled methods that have all their runs did better."],
        [NONE_BETTER, "No distilled method has all its runs"],
    ),
    (
        "none better",
        fated("tied", "ended", "without variance"),
        [
            NONE_BETTER,
            f"{HELP} at this scatter ",
            "seeds of each method would find a true gain of 0.50 points in 80 of 100 cases (kdtune launch cityscapes-",
            "student, distill, temperature, weight-pa each end at the border of what was tried",
        ],
        ["are not among them"],
    ),
    (
        "tied",
        fated("tied", "tied", "ended"),
        ["The best methods are the student alone, without a teacher and distilled with pi", NONE_BETTER],
        ["The best method is"],
    ),
    (
        "student lost",
        fated("failed", "ended", "ended"),
        ["no comparison with the student alone: of that, 3 of 3 seeds failed", "cannot be told"],
        ["a gain over the student alone", "Its difference from", "Bars are the deviation of single runs. They"],
    ),
    (
        "one seed of three",
        fated("one seed", "one seed", "one seed"),
        ["1 of 3 seeds", "No method has all its runs in stage final"],
        ["biased upwards", "The best method"],
    ),
    (
        "before final",
        progress(student="all", distill="some"),
        ["So far the best is the", "it is biased upwards", "Not compared in this study (yet)."],
        ["No method has all its runs in stage final, so", "The best method", "of 3 seeds"],
    ),
    (
        "nothing",
        progress(),
        ["No student has completed its training yet", "No stage has a best configuration yet."],
        ["So far the best", "The best of each stage is outlined", "and so too high"],
    ),
]


@pytest.mark.parametrize(("state", "said", "not_said"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_the_answer(tmp_path: Path, state: State, said: list[str], not_said: list[str]) -> None:
    words = "\n".join(shown(tmp_path, state))
    assert [each for each in said if each not in words] == []
    assert [each for each in not_said if each in words] == []


def stopped_and_completed(folder: Path, stopped: Mapping[str, Any] | None) -> str:
    """The report of a stage of two trials, the second stopped with these values, or completed."""
    storage, trials = Storage(str(folder), NAME), study_states.trials()["student"]
    chance = random.Random(1)
    records = [report_study.ended(trials[0], 2, chance, miou=40.0, energy_kwh=2.0)]
    given = {"status": "stopped", **stopped} if stopped is not None else {}
    records.append(report_study.ended(trials[1], 2, chance, **given))
    report_study.save(storage, study_states.study(), {"student": [trial.trial_id for trial in trials]}, records)
    return Page(report_study.page(storage)).words


@pytest.mark.parametrize(
    ("stopped", "words"),
    [
        ({"miou": 30.0, "energy_kwh": 1.0}, "Of the only trial that was stopped early, 1 took less energy than every"),
        ({"miou": 30.0, "energy_kwh": 1.0}, "and 1 had reached less than every one of them."),
        ({"miou": 45.0, "energy_kwh": 3.0}, "Of the only trial that was stopped early, 0 took less energy than every"),
        ({"miou": 45.0, "energy_kwh": 3.0}, "and 0 had reached less than every one of them."),
    ],
)
def test_stopped_trials_are_set_beside_completed_ones(tmp_path: Path, stopped: dict[str, Any], words: str) -> None:
    assert words in stopped_and_completed(tmp_path, stopped)


def test_without_a_stopped_trial_nothing_is_said_of_them(tmp_path: Path) -> None:
    assert "stopped early, " not in stopped_and_completed(tmp_path, None)


@pytest.mark.parametrize(
    ("best", "axes", "words"),
    [
        ({"lr": 0.2}, {"lr": (0.1, 0.2)}, "learning rate 2e-1 is the highest tried: add 4e-1"),
        ({"lr": 5e-3}, {"lr": (5e-2, 1e-2, 5e-3)}, "learning rate 5e-3 is the lowest tried: add 2.5e-3"),
        (
            {"temperature": 8.0},
            {"temperature": (1, 2, 6, 8)},
            "temperature 8e+0 is the highest tried: add 1.1e+1",
        ),
        ({"lambda_pa": 10.0}, {"lambda_pa": (0.1, 1.0, 10.0)}, "weight of PA 1e+1 is the highest tried: add 1e+2"),
        (
            {"temperature_cwd": 8.0},
            {"temperature_cwd": (1, 2, 4, 8)},
            "temperature of CWD 8e+0 is the highest tried: add 1.6e+1",
        ),
        ({"masked_mgd": 0.75}, {"masked_mgd": (0.25, 0.5, 0.75)}, "masked of MGD 7.5e-1 is the highest tried"),  # of 1
        ({"lr": 1e-2}, {"lr": (5e-2, 1e-2, 5e-3)}, None),
        ({"lr": 1e-2}, {"lr": (1e-2,)}, None),
        ({"weight_decay": 0.0}, {"weight_decay": (0.0, 1e-4)}, None),  # there is nothing below 0
        ({"weight_decay": 1e-4}, {"weight_decay": (0.0, 1e-4)}, "weight decay 1e-4 is the highest tried: add 2e-4"),
        ({"lr": None}, {"lr": (0.1, 0.2)}, None),
        (
            {"lr": 0.1, "weight_decay": 1e-4},
            {"lr": (0.1, 0.2), "weight_decay": (1e-5, 1e-4)},
            "learning rate 1e-1 is the lowest tried: add 5e-2; weight decay 1e-4 is the highest tried: add 1e-3",
        ),
    ],
)
def test_a_best_at_the_border_names_the_value_to_add(
    best: dict[str, float], axes: dict[str, tuple[float, ...]], words: str | None
) -> None:
    assert border(best, axes) == words


def test_the_border_is_told_with_the_best(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path), NAME)
    study_states.write(storage, State(ALL))
    text = render("optimal", results(NAME, storage.root).all(), NAME, "text")
    words = Page(report_study.page(storage)).words
    for stage in SEARCHES:  # of two values each is at a border
        assert f"{stage}: " in text
    assert text.count("tried: add") == words.count("tried: add") - len(SEARCHES) == len(SEARCHES)
    assert words.count("At the border: ") == len(SEARCHES)
    assert "the best of so many trials on the images that chose it, and so too high" in text
    assert "final: " not in text.partition("(*a*")[2]
