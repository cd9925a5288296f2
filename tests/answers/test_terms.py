"""The table ``terms``, daggers of reconstructed terms, the ranking's groups and what the best gains by chance."""

import json
import statistics
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import scipy.stats

from kdtune.answers import term_facts
from kdtune.answers.cells import added_terms, method_crosses, method_terms
from kdtune.answers.holm import corrected, paired_p
from kdtune.answers.per_cost import per_cost, per_cost_blocks
from kdtune.answers.planned_grid import PlannedStage, PlannedStudy
from kdtune.answers.rendering import render
from kdtune.answers.standing import expected_maximum, grouped
from kdtune.answers.tables import Tables, table
from kdtune.losses import LOSSES
from kdtune.losses.marks import marked
from kdtune.records.rows import FINAL, trials_table
from tests.support.finished_study import tables

MIOUS = {
    "student": (60.0, 60.4, 60.1),
    "pi": (62.0, 62.5, 62.1),
    "fitnet": (62.0, 62.5, 62.2),
    "nfd": (60.1, 60.3, 60.0),
    "mgd": (64.0, 64.3, 64.2),
    "pi+pa+ho": (63.0, 63.4, 63.0),
}
WEIGHTS = {
    "pi": {"pi": 0.1},
    "fitnet": {"fitnet": 100.0},
    "nfd": {"nfd": 10.0},
    "mgd": {"mgd": 16.8},
    "pi+pa+ho": {"pi": 8.0, "pa": 0.05, "ho": 0.01},
}


def study(dataset: str = "cityscapes") -> Tables:
    trials: list[dict[str, Any]] = []
    for method, mious in MIOUS.items():
        for seed, miou in zip((11, 12, 13), mious, strict=True):
            row = {"study": "s", "stage": "final", "trial_id": f"final-{method}-s{seed}", "config_id": method}
            row |= {"start": f"weight-{method}", "method": method, "config": "{}", "status": "completed"}
            row |= {"seed": seed, "miou": miou, "train_seconds": 10.0 + seed, "energy_kwh": 0.5, "step": 9}
            trials.append(row | {f"lambda_{name}": value for name, value in WEIGHTS.get(method, {}).items()})
    final = [
        {"study": "s", "method": method, "miou_mean": statistics.fmean(mious), "miou_std": statistics.stdev(mious)}
        | {"seeds": 3, "best": method == "mgd", "within_one_std": method == "mgd"}
        for method, mious in MIOUS.items()
    ]
    starts = tuple(f"weight-{method}" for method in MIOUS)
    plan = PlannedStudy("s", dataset, "resnet18", {"final": PlannedStage("final", starts, frozenset({11, 12, 13}))})
    empty = tables([])
    given = pa.Table.from_pylist(final, schema=FINAL)
    return Tables(trials_table(trials), empty.history, empty.optimal, given, empty.emissions, {"s": plan})


@pytest.fixture(scope="module")
def found() -> dict[str, dict[str, Any]]:
    rows = table("terms", study(), "s").to_pylist()
    assert [row["method"] for row in rows] == ["mgd", "pi+pa+ho", "fitnet", "pi", "nfd"]  # the best first
    return {row["method"]: row for row in rows}


def test_a_line_has_the_terms_their_weights_and_what_they_cost(found: dict[str, dict[str, Any]]) -> None:
    skd = found["pi+pa+ho"]
    assert (skd["terms"], skd["publication"]) == ("L_PI + L_PA + L_HO", "Niemann 2023; Liu 2019")
    assert (skd["lambda_pi"], skd["lambda_pa"], skd["lambda_ho"]) == (8.0, 0.05, 0.01)
    assert (skd["basis"], skd["start"]) == ("code", "weight-pi+pa+ho")
    assert skd["factor"] is None  # 8 of one, 0.1 of the others
    assert (found["fitnet"]["terms"], found["fitnet"]["factor"]) == ("L_FitNet", 10.0)
    assert skd["miou_student"] == pytest.approx(statistics.fmean(MIOUS["student"]))
    assert skd["gain_student"] == pytest.approx(skd["miou_mean"] - skd["miou_student"])
    assert skd["p_student"] < 0.05 < found["nfd"]["p_student"]
    assert (skd["train_seconds"], skd["energy_kwh"]) == (22.0, 0.5)


def test_each_methods_own_test_is_corrected_by_holms_rule(found: dict[str, dict[str, Any]]) -> None:
    own = {
        method: scipy.stats.ttest_rel(mious, MIOUS["student"]).pvalue
        for method, mious in MIOUS.items()
        if method != "student"
    }
    order = sorted(own, key=lambda method: own[method])
    expected = {
        method: max((5 - i) * own[each] for i, each in enumerate(order[: order.index(method) + 1])) for method in own
    }
    assert {method: row["p_holm"] for method, row in found.items()} == pytest.approx(
        {method: min(1.0, p) for method, p in expected.items()}
    )
    assert corrected({"a": 0.01, "b": 0.04, "c": 0.03}, 4) == pytest.approx({"a": 0.04, "c": 0.09, "b": 0.09})
    assert paired_p({1: 2.0, 2: 3.0}, {1: 1.0, 2: 2.0}) is None  # no deviation
    assert paired_p({1: 2.0, 2: 3.0}, {1: 1.0, 3: 2.0}) is None


def test_a_weight_stands_in_both_units_where_they_differ(found: dict[str, dict[str, Any]]) -> None:
    assert (found["mgd"]["weights"], found["mgd"]["weights_as_published"], found["mgd"]["factor"]) == (
        "16.8",
        "2e-06",
        0.1,
    )
    assert (found["nfd"]["weights"], found["nfd"]["weights_as_published"], found["nfd"]["factor"]) == ("10", "-", None)


@pytest.mark.parametrize(("convention", "factor", "as_published"), [("paper", 0.1, "0.1"), ("skd", None, "-")])
def test_a_published_weight_is_for_the_convention_of_its_term(
    convention: str, factor: float | None, as_published: str
) -> None:
    """SKD's L_PI of 10 is its published weight, and no tenfold one."""
    given = study()
    rows = [row | {"convention_pi": convention} for row in given.trials.to_pylist() if row["method"] == "pi"]
    others = [row for row in given.trials.to_pylist() if row["method"] != "pi"]
    shown = table("terms", replace(given, trials=trials_table([*rows, *others])), "s").to_pylist()
    (row,) = [row for row in shown if row["method"] == "pi"]
    assert (row["weights"], row["factor"], row["weights_as_published"]) == ("0.1", factor, as_published)


def test_what_the_publication_reports_stands_beside(found: dict[str, dict[str, Any]]) -> None:
    assert (found["mgd"]["miou_student_published"], found["mgd"]["miou_mean_published"]) == (69.85, 73.63)
    assert (found["pi"]["miou_student_published"], found["pi"]["miou_mean_published"]) == (None, None)
    assert all(row["miou_mean_published"] is None for row in table("terms", study("camvid"), "s").to_pylist())
    assert "published" not in render("terms", study("camvid"), "s", "text").splitlines()[1].split()[-1]


@pytest.mark.parametrize("name", ["terms", "final"])
def test_a_reconstruction_is_marked_wherever_it_stands_and_explained_once(name: str) -> None:
    text = render(name, study(), "s", "text")
    assert "L_NFD†" in text
    assert "L_FitNet" in text
    assert text.count("our reconstruction of the term") == 1
    assert "L_PI†" not in text
    latex = render(name, study(), "s", "latex")
    assert r"$L_{\mathrm{NFD}}$\textdagger{}" in latex
    assert "L_NFD†" in render(name, study(), "s", "markdown").replace("\\_", "_")


def test_trials_and_data_say_which_are_reconstructions() -> None:
    text = render("trials", study(), "s", "text")
    assert " nfd† " in text
    assert " pi " in text
    assert text.count("our reconstruction of the term") == 1
    bases = {row["method"]: row["basis"] for row in table("final", study(), "s").to_pylist()}
    assert (bases["nfd"], bases["pi"], bases["student"]) == ("ours", "code", None)


def test_of_several_terms_each_reconstruction_is_marked() -> None:
    assert marked("pi+csc+ace") == "pi+csc†+ace†"
    assert marked("longer") == "longer"
    assert term_facts.basis("pi+csc") == "ours"


@pytest.mark.parametrize("name", [name for name in LOSSES.table if name != "ce"])
def test_symbols_and_bases_are_the_terms_own(name: str) -> None:
    term = LOSSES.resolve(name)
    dagger = "†" if term.confidence == "reconstruction" else ""
    assert term_facts.symbol(name) == term.symbol + dagger
    assert term_facts.facts(name).basis == {"reconstruction": "ours"}.get(term.confidence, term.confidence)


def test_a_term_of_a_package_that_is_not_here_has_its_name() -> None:
    assert term_facts.symbol("theirs") == "L_THEIRS"
    assert (term_facts.facts("theirs").basis, term_facts.facts("theirs").weight) == ("unknown", None)


def test_data_formats_have_the_columns() -> None:
    rows = json.loads(render("terms", study(), "s", "json"))
    assert rows[0]["method"] == "mgd"
    assert {"basis", "weights", "factor", "p_student", "lambda_mgd", "miou_mean_published"} <= set(rows[0])
    assert "lambda_cwd" not in rows[0]
    assert render("terms", study(), "s", "csv").startswith("study,start,method,publication,terms,basis,")


def test_before_final_has_run_the_table_is_empty() -> None:
    assert table("terms", tables([]), "s").num_rows == 0


# -- the ranking


def test_methods_that_differ_by_less_than_the_reach_share_a_group() -> None:
    means = {"a": 5.0, "b": 4.5, "c": 4.0, "d": 1.0}
    assert grouped(means, 0.6) == {"a": "1", "b": "1-2", "c": "2", "d": "3"}
    assert grouped(means, 0.1) == {"a": "1", "b": "2", "c": "3", "d": "4"}
    assert grouped(means, 9.0) == dict.fromkeys(means, "1")


def test_the_expected_maximum_is_that_of_drawn_numbers() -> None:
    drawn = np.random.default_rng(0).standard_normal((200_000, 10)).max(axis=1)
    assert expected_maximum(10) == pytest.approx(drawn.mean(), abs=4 * drawn.std() / 200_000**0.5)
    assert expected_maximum(1) == pytest.approx(0.0, abs=1e-9)
    assert expected_maximum(2) == pytest.approx(1 / np.pi**0.5, rel=1e-6)  # known in closed form


def test_final_ranks_its_methods_and_tells_what_chance_alone_would_give() -> None:
    rows = {row["method"]: row for row in table("final", study(), "s").to_pylist()}
    assert rows["mgd"]["group"] == "1"
    assert rows["pi"]["group"] == rows["fitnet"]["group"]
    assert rows["student"]["group"] == rows["nfd"]["group"] != rows["pi"]["group"]
    deviation = rows["pi"]["deviation_student"]
    assert rows["mgd"]["apart"] == pytest.approx(4.912 * deviation / 3**0.5, rel=1e-3)  # a table's, of 6 and 10
    assert rows["mgd"]["lead_by_chance"] == pytest.approx(expected_maximum(6) * deviation / 3**0.5)
    means = [statistics.fmean(mious) for mious in MIOUS.values()]
    assert rows["mgd"]["lead"] == pytest.approx(max(means) - statistics.fmean(means))
    assert rows["pi"]["lead"] is None
    text = render("final", study(), "s", "text")
    assert "L_CE + L_MGD, the best of 6, lies 2.16 points above their mean" in text
    assert "methods that share a group cannot be told apart" in text


def test_what_methods_reach_against_what_they_take() -> None:
    given = study()
    costs = {"student": 1.0, "pi": 2.0, "fitnet": 3.0, "nfd": 4.0, "mgd": 5.0, "pi+pa+ho": 9.0}
    trials = given.trials.to_pylist()
    for row in trials:
        row |= {"train_seconds": costs[row["method"]] + (row["seed"] - 12) / 10, "energy_alone_kwh": 0.1}
    found = per_cost(table("final", given, "s"), trials_table(trials), "seconds").to_pylist()
    assert [row["method"] for row in found] == list(costs)
    assert [row["method"] for row in found if row["front"]] == ["student", "pi", "fitnet", "mgd"]
    for row in found:
        for name, values in (
            ("miou", MIOUS[row["method"]]),
            ("train_seconds", [costs[row["method"]] + d for d in (-0.1, 0, 0.1)]),
        ):
            reach = scipy.stats.t.ppf(0.975, 2) * statistics.stdev(values) / 3**0.5
            assert (row[f"{name}_high"] - row[f"{name}_low"]) / 2 == pytest.approx(reach)
    energy = per_cost(table("final", given, "s"), trials_table(trials), "kwh").to_pylist()
    assert [row["energy_kwh"] for row in energy] == pytest.approx([0.1] * 6)
    (block,) = per_cost_blocks(per_cost(table("final", given, "s"), trials_table(trials), "seconds"))
    assert block.header[:2] == ["method", "training [s]"]
    assert [cell.text for cell in block.rows[0][:2]] == ["L_CE", "1"]
    assert [row[-1].text for row in block.rows] == ["x", "x", "x", "", "x", ""]
    (of_energy,) = per_cost_blocks(per_cost(table("final", given, "s"), trials_table(trials), "kwh"))
    assert block.remarks[-1] == "time: of a training as it ran, less where it found stored what the teacher makes"
    assert of_energy.remarks[-1] == "energy: of a training with a teacher of its own"


def test_a_student_of_another_kind_is_a_method_without_terms() -> None:
    assert method_terms("untuned") == "L_CE, untuned"
    assert (added_terms("longer"), added_terms("student"), added_terms("pi")) == ("trained longer", "-", "L_PI")
    losses, crosses = method_crosses(["student", "untuned", "pi"])
    assert (losses, [cell.text for cell in crosses["untuned"]]) == (["L_PI"], [""])
    given = study()
    others = [
        {"study": "s", "method": method, "miou_mean": miou, "miou_std": 0.5, "seeds": 3}
        for method, miou in (("untuned", 55.0), ("longer", 61.0))
    ]
    more = replace(given, final=pa.Table.from_pylist([*given.final.to_pylist(), *others], schema=FINAL))
    assert "untuned" in render("final", more, "s", "text")
    rows = table("terms", more, "s").to_pylist()
    assert {row["method"] for row in rows} == MIOUS.keys() - {"student"}
    assert {(row["miou_untuned"], row["miou_longer"]) for row in rows} == {(55.0, 61.0)}
    alone = "the student alone, mIoU [%]: tuned "
    assert f"{alone}60.17, untuned 55.00, trained longer 61.00" in render("terms", more, "s", "text")
    assert alone not in render("terms", given, "s", "text")


def test_the_longer_student_is_one_of_the_planned_comparisons() -> None:
    """Until it has run, nothing is said for good."""
    given = study()
    plan = given.planned["s"]
    stages = {"final": replace(plan.stages["final"], longer="student"), "student": PlannedStage("student")}
    waiting = replace(given, planned={"s": replace(plan, stages=stages)})
    found = table("final", waiting, "s").to_pylist()
    assert {row["family_student"] for row in found if row["method"] != "student"} == {len(MIOUS)}
    assert {row["provisional_student"] for row in found if row["method"] != "student"} == {True}
