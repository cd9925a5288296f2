"""Families: one entry of a file for many terms, read as plain stages; every fault at its own line."""

from pathlib import Path

import pytest
import yaml

from kdtune.answers.planned_grid import planned_study
from kdtune.study.file import dump, read
from kdtune.study.settings import decided_by
from kdtune.study.spec import StudySpec
from kdtune.study.trial_config import TrialConfig
from tests.support.small_study import TEXT, write

FAMILY = """\
  - name: weight-{name}
    for_each: [pi, pa, nfd, {SKD: [pi, pa, ho]}, {IFVD: {pi: 0.5, ifv: 200}}]
    weights: 3
    start_from: [distill]
    set: {losses.ho.critic_width: 0.125, recipe.momentum: 0.5}
"""
FINAL = "  - name: final\n    start_from: [student, distill]\n"
WITH = TEXT.replace(FINAL, FAMILY + FINAL.replace("distill]", "distill, weight-*]"))


@pytest.fixture
def spec(tmp_path: Path) -> StudySpec:
    faults, found = read(write(tmp_path, text=WITH))
    assert found is not None, faults
    return found


def trials(spec: StudySpec, stage: str) -> list[TrialConfig]:
    found = spec.stage(stage)
    starts = spec.template_starts(found)
    return [found.config(starts, point) for point in found.points(list(starts), spec.seed)]


def weights(config: TrialConfig) -> dict[str, float]:
    return {name: term.weight for name, term in config.active_losses.items() if name != "ce"}


def test_a_stage_for_each_term_and_group_under_its_own_name(spec: StudySpec) -> None:
    own = ["weight-pi", "weight-pa", "weight-nfd", "weight-skd", "weight-ifvd"]
    assert [stage.name for stage in spec.stages] == ["student", "distill", *own, "final"]
    assert spec.stage("final").start_from == ("student", "distill", *own)
    assert all(spec.stage(name).start_from == ("distill",) for name in own)
    assert {spec.num_trials(spec.stage(name)) for name in own} == {3}


def test_weights_lie_by_powers_of_ten_around_the_published_one_or_around_1(spec: StudySpec) -> None:
    assert [weights(config) for config in trials(spec, "weight-pa")] == [{"pa": w} for w in (0.05, 0.5, 5.0)]
    assert [weights(config) for config in trials(spec, "weight-nfd")] == [{"nfd": w} for w in (0.1, 1.0, 10.0)]


def test_a_group_keeps_its_ratios_and_what_its_start_has_beside_them(spec: StudySpec) -> None:
    skd = trials(spec, "weight-skd")
    assert [weights(config) for config in skd] == [
        {"pi": 0.1, "pa": 0.05, "ho": 0.01},
        {"pi": 1.0, "pa": 0.5, "ho": 0.1},
        {"pi": 10.0, "pa": 5.0, "ho": 1.0},
    ]
    assert all(config.at("losses.ho.critic_width") == 0.125 for config in skd)
    assert all(config.recipe.momentum == 0.5 for config in skd)
    assert [weights(config) for config in trials(spec, "weight-ifvd")][1] == {"pi": 0.5, "ifv": 200.0}
    assert {config.method for config in trials(spec, "final")} == {"student", "pi", "pa", "nfd", "pi+pa+ho", "pi+ifv"}


def test_a_best_temperature_of_the_start_stays(spec: StudySpec) -> None:
    stage = spec.stage("weight-skd")
    start = spec.template_starts(stage)["distill"].replace({"losses.pi.temperature": 4})
    config = stage.config({"distill": start}, stage.points(["distill"], 0)[0])
    assert (config.at("losses.pi.temperature"), config.at("losses.pi.weight")) == (4.0, 0.1)


def test_a_given_number_or_list_of_factors(tmp_path: Path) -> None:
    for given, found in (("4", [0.01, 0.1, 1.0, 10.0]), ("1", [1.0]), ("[2, 0.5]", [2.0, 0.5])):
        _, spec = read(write(tmp_path, ("weights: 3", f"weights: {given}"), text=WITH))
        assert spec is not None
        assert list(spec.stage("weight-pi").grid["losses.pi.weight"]) == found


def test_written_with_every_default_it_is_the_same_study_of_plain_stages(spec: StudySpec, tmp_path: Path) -> None:
    path = tmp_path / "plain.yaml"
    path.write_text(dump(spec))
    assert "for_each" not in path.read_text()
    assert read(path) == ([], spec)


def test_a_plan_shows_the_cells_of_weights_that_change_together(spec: StudySpec) -> None:
    stage = planned_study("x", yaml.safe_load(dump(spec))).stages["weight-skd"]
    names = ["lambda_pi", "lambda_pa", "lambda_ho", "lambda_ifv"]
    assert stage.cells(names) == [
        {"lambda_pi": 0.1, "lambda_pa": 0.05, "lambda_ho": 0.01},
        {"lambda_pi": 1.0, "lambda_pa": 0.5, "lambda_ho": 0.1},
        {"lambda_pi": 10.0, "lambda_pa": 5.0, "lambda_ho": 1.0},
    ]
    assert stage.axes["lambda_pa"] == (0.05, 0.5, 5.0)
    assert stage.cells(["lambda_ho"]) == [{"lambda_ho": 0.01}, {"lambda_ho": 0.1}, {"lambda_ho": 1.0}]


def test_a_search_of_weights_that_change_together_decides_them(spec: StudySpec) -> None:
    assert decided_by(spec, "losses.pa.weight")["weight-skd"] == "weight-skd"
    assert not spec.stage("weight-skd").repeats


def test_a_patented_term_needs_one_word_of_the_family(tmp_path: Path) -> None:
    patented = (FAMILY.splitlines()[1], "    for_each: [csc, ace]")
    faults, _ = read(write(tmp_path, patented, ("losses.ho.critic_width: 0.125, ", ""), text=WITH))
    assert [line.split(": ", 1)[1] for line in faults] == [
        "stages[weight-{name}].for_each: 'csc' is claimed by the patent US 11,756,202 B2: whether it may be used is "
        "yours to say, with acknowledge_patent: true in this family"
    ]
    acknowledged = ("weights: 3", "weights: 3\n    acknowledge_patent: true")
    _, spec = read(write(tmp_path, patented, acknowledged, ("losses.ho.critic_width: 0.125, ", ""), text=WITH))
    assert spec is not None
    assert weights(trials(spec, "weight-csc")[1]) == {"csc": 1.0}
    assert weights(trials(spec, "weight-ace")[1]) == {"ace": 1.0}


AT = "small.yaml:20: stages[weight-{name}].for_each"
ENTRY = "needs a term's name, or a group such as {SKD: [pi, pa, ho]} or {SKD: {pi: 80, pa: 0.5, ho: 0.1}}"
NUMBER = "needs how many weights, or a list of factors above 0, e.g. 5 or [0.1, 1, 10]"


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        ("[pi, pa, nfd, {SKD", "[pi, pa, nfb, {SKD", f"{AT}[2]: unknown loss 'nfb' (did you mean 'nfd'?); there are: "),
        ("[pi, pa, nfd, {SKD", "[ce, {SKD", f"{AT}[0]: 'ce' is the task's own term, which every method has"),
        ("[pi, pa, nfd, {SKD", "[[pi], {SKD", f"{AT}[0]: {ENTRY}; got ['pi']"),
        ("[pi, pa, ho]", "[pi, 3]", f"{AT}[3].SKD: needs the name of a loss term, got 3"),
        ("pi: 0.5, ifv", "pi: 0, ifv", f"{AT}[4].IFVD.pi: needs a weight above 0, got 0"),
        ("weights: 3", "weights: 0", f"small.yaml:21: stages[weight-{{name}}].weights: {NUMBER}; got 0"),
        ("weights: 3", "weights: [1, -1]", f"small.yaml:21: stages[weight-{{name}}].weights: {NUMBER}; got [1, -1]"),
        (
            "weight-{name}",
            "weight-x",
            "small.yaml:19: stages[weight-x].name: a family's name holds {name}, e.g. weight-{name}; got 'weight-x'",
        ),
        (
            "losses.ho.critic",
            "losses.cwd.critic",
            "small.yaml:23: stages[weight-{name}].set.losses.cwd.critic_width: none of this family's terms; there are: "
            "pi, pa, nfd, ho, ifv",
        ),
        (
            "critic_width",
            "critic_wdth",
            "small.yaml:23: stages[weight-skd].set.losses.ho.critic_wdth: unknown key (did you mean 'critic_width'?)",
        ),
        ("momentum: 0.5", "momentum: -1", "small.yaml:23: stages[weight-pi].set.recipe.momentum: "),
        ("weights: 3", "wieghts: 3", "small.yaml:21: stages[weight-pi].wieghts: unknown key"),
        ("    start_from: [distill]", "    start_from: [distil]", "small.yaml:22: stages[weight-pi].start_from[0]: "),
        ("weight-*", "wait-*", "small.yaml:25: stages[final].start_from[2]: 'wait-*' is the name of no earlier"),
    ],
)  # fmt: skip
def test_a_fault_is_told_at_its_line(old: str, new: str, line: str, tmp_path: Path) -> None:
    path = write(tmp_path, (old, new), text=WITH)
    faults, spec = read(path)
    assert spec is None
    assert faults[0].removeprefix(f"{tmp_path}/").startswith(line)


@pytest.mark.parametrize(
    ("together", "place", "fault"),
    [
        (
            "[{losses.pi.weight: 1}, {losses.pa.weight: 1}]",
            ".together[1]",
            "each entry of together has the same paths, and at least one",
        ),
        ("[{}]", ".together[0]", "each entry of together has the same paths, and at least one"),
        (
            "[{losses.pi.temperature: 1}]",
            ".together[0].losses.pi.temperature",
            "together holds paths of losses and recipe, none of the grid",
        ),
        (
            "[{student.width: 1}]",
            ".together[0].student.width",
            "together holds paths of losses and recipe, none of the grid",
        ),
        (
            "[{losses.pi.weight: 1}, {losses.pi.weight: -1}]",
            ".together[1]",
            "losses.pi.weight: input should be greater than or equal to 0; got -1",
        ),
    ],
)
def test_values_that_change_together_are_checked_as_all_others(
    together: str, place: str, fault: str, tmp_path: Path
) -> None:
    added = ("      losses.pi.temperature: [1, 2]", f"      losses.pi.temperature: [1, 2]\n    together: {together}")
    faults, _ = read(write(tmp_path, added))
    assert [line.removeprefix(f"{tmp_path}/") for line in faults] == [f"small.yaml:19: stages[distill]{place}: {fault}"]


def test_they_are_combined_with_every_point_of_the_grid(tmp_path: Path) -> None:
    entries = "[{losses.pi.weight: 1, recipe.lr: 1}, {losses.pi.weight: 2, recipe.lr: 2}]"
    added = ("      losses.pi.temperature: [1, 2]", f"      losses.pi.temperature: [1, 2]\n    together: {entries}")
    _, spec = read(write(tmp_path, added))
    assert spec is not None
    tried = [(c.at("losses.pi.temperature"), c.at("losses.pi.weight"), c.recipe.lr) for c in trials(spec, "distill")]
    assert tried == [(1.0, 1.0, 1.0), (1.0, 2.0, 2.0), (2.0, 1.0, 1.0), (2.0, 2.0, 2.0)]
    assert spec.num_trials(spec.stage("distill")) == 4
