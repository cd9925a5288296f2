"""Whether a gain is real: published examples and closed forms, and the words for what cannot be told."""

import math
import random
from typing import Any

import numpy as np
import pytest
from scipy import stats

from kdtune.answers import two_way
from kdtune.answers.needed_seeds import Design, design
from kdtune.answers.ranking import Row
from kdtune.answers.significance import Family, Gain, Plan, families, gains, scatter_level
from kdtune.answers.simultaneous import adjusted_p, least_gain, power, quantile
from kdtune.answers.verdicts import probability, signed
from tests.support.finished_study import tables, trial

# Student 1908, Biometrika 6: hours of sleep that two drugs gained ten patients. The figures are those that R prints for
# t.test(extra ~ group, data = sleep), paired and not.
SLEEP_1 = [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0]
SLEEP_2 = [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4]


def final(method: str, mious: list[float | None], seeds: list[int] | None = None, **more: Any) -> list[Row]:
    """Trials of stage ``final``, a seed each."""
    start = "student" if method == "student" else f"weight-{method}"
    pairs = zip(seeds or range(11, 11 + len(mious)), mious, strict=True)
    return [trial("final", miou, seed=seed, **{"method": method, "start": start, **more}) for seed, miou in pairs]


def of(trials: list[Row], method: str, reference: str = "student", plan: Plan | None = None) -> Gain:
    (found,) = [g for g in gains(tables(trials).trials, plan) if (g.method, g.reference) == (method, reference)]
    return found


def family(trials: list[Row], reference: str = "student", plan: Plan | None = None) -> Family:
    return next(each for each in families(tables(trials).trials, plan) if each.reference == reference)


# The largest of several t values


@pytest.mark.parametrize(
    ("freedom", "tests", "expected"),
    [(5, 1, 2.57), (5, 2, 3.03), (5, 4, 3.48), (10, 2, 2.57), (10, 4, 2.89), (20, 3, 2.54), (20, 9, 2.95)],
)
def test_quantiles_of_dunnetts_table(freedom: int, tests: int, expected: float) -> None:
    """Dunnett 1964, Biometrics 20, two-sided, 5 %."""
    assert quantile(tests, float(freedom)) == pytest.approx(expected, abs=0.006)


@pytest.mark.parametrize("freedom", [1.0, 2.0, 3.7, 58.0])
@pytest.mark.parametrize("t", [0.0, 0.3, 2.0, 9.0, 200.0])
def test_one_difference_follows_students_t(freedom: float, t: float) -> None:
    assert adjusted_p(t, 1, freedom) == pytest.approx(2 * stats.t.sf(t, freedom), rel=1e-4, abs=1e-9)


@pytest.mark.parametrize(("tests", "freedom", "correlation"), [(4, 8, 0.5), (29, 58, 0.5), (6, 3, 0.1), (4, 2, 0.9)])
def test_a_simulation_of_the_largest_t_comes_to_the_same(tests: int, freedom: int, correlation: float) -> None:
    generator, draws = np.random.default_rng(1), 100_000
    shared = generator.standard_normal((draws, 1)) * math.sqrt(correlation)
    values = shared + generator.standard_normal((draws, tests)) * math.sqrt(1 - correlation)
    largest = np.abs(values / np.sqrt(generator.chisquare(freedom, (draws, 1)) / freedom)).max(axis=1)
    for t in (1.5, 3.0, quantile(tests, float(freedom), correlation)):
        assert adjusted_p(t, tests, float(freedom), correlation) == pytest.approx((largest > t).mean(), abs=0.006)
    assert adjusted_p(-3.0, tests, float(freedom)) == adjusted_p(3.0, tests, float(freedom))


def test_p_is_that_of_scipys_dunnett_in_a_layout_without_blocks() -> None:
    generator = np.random.default_rng(3)
    control, *groups = [generator.normal(level, 1.0, 5) for level in (0.0, 0.5, 1.0, 2.5)]
    found = stats.dunnett(*groups, control=control, rng=np.random.default_rng(1))
    chance = math.sqrt(np.mean([np.var(values, ddof=1) for values in (control, *groups)]) * 2 / 5)
    ours = [adjusted_p((values.mean() - control.mean()) / chance, 3, 16.0) for values in groups]
    assert ours == pytest.approx(found.pvalue, abs=2e-3)


def test_power_and_the_least_gain_are_each_others_inverse() -> None:
    generator = np.random.default_rng(2)
    t = (1.5 / 0.4 + generator.standard_normal(200_000)) / np.sqrt(generator.chisquare(8, 200_000) / 8)
    assert power(1.5, 0.4, 8.0, 3.0) == pytest.approx((t > 3.0).mean(), abs=0.005)
    assert power(least_gain(0.4, 8.0, 3.0, 0.8), 0.4, 8.0, 3.0) == pytest.approx(0.8)
    many = Design(0.6, 5, 4)
    seeds = many.seeds_for(0.5)
    assert seeds is not None
    assert many.least(seeds) <= 0.5 < many.least(seeds - 1)
    assert Design(50.0, 5, 4).seeds_for(0.5) is None


# The model


def by_regression(runs: dict[str, dict[int, float]], reference: str) -> dict[str, tuple[float, float, int]]:
    """Method -> difference, standard error, degrees of freedom, by ordinary least squares with dummy variables."""
    methods = [reference, *(name for name in runs if name != reference)]
    seeds = sorted({seed for those in runs.values() for seed in those})
    lines, values = [], []
    for name, those in runs.items():
        for seed, miou in those.items():
            line = [1.0, *(float(name == m) for m in methods[1:]), *(float(seed == s) for s in seeds[1:])]
            lines.append(line)
            values.append(miou)
    design, observed = np.array(lines), np.array(values)
    found, _, rank, _ = np.linalg.lstsq(design, observed, rcond=None)
    freedom = len(values) - int(rank)
    chance = float(((observed - design @ found) ** 2).sum()) / freedom
    cov = chance * np.linalg.inv(design.T @ design)
    return {m: (float(found[i]), math.sqrt(cov[i, i]), freedom) for i, m in enumerate(methods[1:], 1)}


@pytest.mark.parametrize("gaps", [0, 1, 4])
def test_the_model_is_the_regression_on_methods_and_seeds(gaps: int) -> None:
    chance = random.Random(gaps)
    runs = {m: {s: 60 + 3 * s + chance.gauss(0, 1) for s in range(4)} for m in ("student", "pi", "pi+pa", "pi+ho")}
    for _ in range(gaps):
        del (those := runs[chance.choice(list(runs))])[chance.choice(list(those))]
    found, expected = two_way.pooled(runs, "student"), by_regression(runs, "student")
    assert found.of.keys() == expected.keys()
    for name, (value, error, freedom) in expected.items():
        assert (found.of[name].value, found.of[name].error) == (pytest.approx(value), pytest.approx(error))
        assert found.of[name].freedom == freedom
    if not gaps:
        assert expected["pi"][2] == 3 * 3
        assert found.correlation == pytest.approx(0.5)


def test_two_methods_are_a_paired_t_test() -> None:
    """Student's sleep, as R prints it for paired = TRUE."""
    gain = of(final("student", SLEEP_2) + final("pi", SLEEP_1), "pi")
    assert (gain.difference, gain.p) == (pytest.approx(-1.58), pytest.approx(0.002833, abs=5e-7))
    assert (gain.low, gain.high) == (pytest.approx(-2.4598858, abs=5e-7), pytest.approx(-0.7001142, abs=5e-7))
    assert (gain.paired, gain.analysis) == (True, "pooled")


def test_methods_that_share_no_seed_are_compared_by_welch() -> None:
    gain = of(final("student", SLEEP_2) + final("pi", SLEEP_1, list(range(31, 41))), "pi")
    assert (gain.difference, gain.p) == (pytest.approx(-1.58), pytest.approx(0.07939, abs=5e-6))
    assert (gain.low, gain.high) == (pytest.approx(-3.3654832, abs=5e-6), pytest.approx(0.2054832, abs=5e-6))
    assert (gain.paired, gain.analysis) == (False, "welch")


def test_what_a_seed_does_to_all_methods_cancels() -> None:
    levels = {"student": [70.0, 70.4, 69.8], "pi": [71.0, 71.1, 71.2], "pi+pa": [71.1, 71.4, 71.0]}
    same = [row for method, mious in levels.items() for row in final(method, list(mious))]
    moved = [row | {"miou": row["miou"] + {11: 5.0, 12: -9.0, 13: 2.0}[row["seed"]]} for row in same]
    for one, other in zip(gains(tables(same).trials), gains(tables(moved).trials), strict=True):
        assert one.low is not None
        assert (one.low, one.high, one.p) == pytest.approx((other.low, other.high, other.p))


@pytest.mark.parametrize("seed", range(4))
def test_interval_p_and_sentence_say_the_same(seed: int) -> None:
    chance, said = random.Random(seed), set()
    for _ in range(25):
        trials = final("student", [60 + chance.gauss(0, 0.5) for _ in range(3)])
        for method in ("pi", "pi+pa", "pi+ho"):
            trials += final(method, [61 + chance.gauss(0, 0.5) for _ in range(3)])
        for gain in gains(tables(trials).trials):
            assert gain.p is not None
            assert gain.low is not None
            assert gain.high is not None
            assert (gain.p < 0.05) == (gain.low > 0 or gain.high < 0)
            assert ("not distinguishable" in gain.verdict) == (gain.p >= 0.05)
            assert gain.verdict.startswith(("a gain", "a loss")) == (gain.p < 0.05)
            assert f"p = {probability(gain.p)}" in gain.verdict or f"p {probability(gain.p)}" in gain.verdict
            if gain.p >= 0.05:  # a difference of just over what the sentence names is called one
                assert f"from {(gain.high - gain.low) / 2:.2f} points on it would be" in gain.verdict
            said.add(gain.p < 0.05)
    assert said == {True, False}


# The reference's own scatter


def test_the_test_of_scatter_rejects_as_often_as_it_says() -> None:
    generator, found = np.random.default_rng(1), []
    for _ in range(2000):
        table = generator.standard_normal((5, 3)) + 2 * generator.standard_normal(3)
        runs = {str(i): dict(enumerate(map(float, line))) for i, line in enumerate(table)}
        scatter = two_way.scatter(runs, "0")
        assert scatter is not None
        found.append(scatter.p)
    for level in (0.05, 0.1, 0.5):
        assert np.mean(np.array(found) < level) == pytest.approx(level, abs=0.03)


def test_a_reference_that_scatters_more_has_a_deviation_of_its_own() -> None:
    calm = final("pi", [71.0, 71.1, 71.0]) + final("pi+pa", [71.2, 71.2, 71.3]) + final("pi+ho", [71.3, 71.2, 71.4])
    wild, tame = (
        family(final("student", [67.0, 70.0, 73.5]) + calm),
        family(final("student", [70.2, 70.1, 70.2]) + calm),
    )
    assert (wild.apart, tame.apart) == (True, False)
    assert wild.scatter is not None
    assert wild.scatter.p < scatter_level(3) < scatter_level(5)
    assert {gain.analysis for gain in wild.gains} == {"reference apart"}
    (gain, *_), error = wild.gains, math.sqrt(np.var([67.0, 70.0, 73.5], ddof=1) / 3)
    assert gain.low is not None
    assert gain.high is not None
    assert (gain.high - gain.low) / 2 > 4 * error  # two degrees of freedom
    assert gain.p is not None
    assert gain.p > 0.3


def test_scatter_is_looked_at_in_complete_tables_alone() -> None:
    three = {"a": {1: 1.0, 2: 2.0}, "b": {1: 1.5, 2: 2.0}, "c": {1: 3.0, 2: 2.0}}
    assert two_way.scatter(three, "a") is not None
    assert two_way.scatter(three | {"d": {1: 1.0}}, "a") is None
    assert two_way.scatter({name: three[name] for name in "ab"}, "a") is None


# The family


def four(**lost: Any) -> list[Row]:
    found = final("student", [70.0, 71.0, 72.0]) + final("pi", [71.0, 72.1, 73.2])
    found += final("pi+pa", [71.2, 72.1, 73.1]) + final("pi+ho", [70.4, 70.6, 73.1])
    found[-1] |= lost
    return found


def test_a_family_per_reference_and_study() -> None:
    trials = four()
    found = gains(tables([*trials, *[row | {"study": "t"} for row in trials[:6]]]).trials)
    assert [(g.study, g.method, g.reference, g.family) for g in found] == [
        *(("s", method, "student", 3) for method in ("pi", "pi+pa", "pi+ho")),
        *(("s", method, "pi", 2) for method in ("pi+pa", "pi+ho")),
        ("t", "pi", "student", 1),
    ]
    assert all("(p = " in g.verdict and ", secondary, " in g.verdict for g in found if g.reference == "pi")


@pytest.mark.parametrize("status", ["diverged", "failed"])
def test_the_family_is_what_was_planned(status: str) -> None:
    """A method that cannot be compared is still one that was tried."""
    whole, lost = family(four()), family(four(status=status, miou=None))
    assert [gain.family for gain in (*whole.gains, *lost.gains)] == [3] * 6
    gain = lost.gains[2]
    assert (gain.difference, gain.p, gain.seeds) == (None, None, 2)
    assert gain.verdict == f"no comparison with the student alone: 1 of 3 seeds {status}"
    assert lost.gains[0].p is not None
    planned = family(four(), plan=Plan(3, 9))
    assert planned.gains[0].family == 8
    assert planned.provisional


def test_a_comparison_that_still_runs_has_intervals_and_no_verdict() -> None:
    plan = Plan(3, 4)
    for there in range(2, 12):
        for gain in gains(tables(four()[:there]).trials, plan):
            assert gain.provisional
            assert gain.p is None
            assert not gain.verdict.startswith(("a gain", "a loss"))
            assert "not distinguishable" not in gain.verdict
    pi = of(four()[:5], "pi", plan=plan)
    assert (pi.difference, pi.low is not None) == (pytest.approx(1.05), True)
    assert pi.verdict == (
        "+1.05 points against the student alone so far: provisional, 5 of 12 trials of stage 'final' have ended"
    )
    assert not any(gain.provisional for gain in gains(tables(four()).trials, plan))
    assert design(family(four()[:11], plan=plan)) is None


def test_a_lost_reference_and_a_missing_one_are_named() -> None:
    trials = final("student", [70.0, None, 72.0]) + final("pi+pa", [71.0, 72.0, 73.5])
    trials[1]["status"] = "diverged"
    assert of(trials, "pi+pa").verdict == "no comparison with the student alone: of that, 1 of 3 seeds diverged"
    missing = of(trials, "pi+pa", "pi")
    assert missing.verdict == "no comparison with L_PI alone: stage 'final' has no trial of it"
    assert missing.difference is None


def test_of_several_configurations_the_best_is_taken_and_each_counts() -> None:
    trials = final("student", [70.0, 71.0, 70.0]) + final("pi", [71.0, 72.5, 71.0], lr=0.1)
    gain = of(trials + final("pi", [73.0, 74.5, 73.1], lr=0.2), "pi")
    assert gain.difference == pytest.approx(3.2, abs=0.01)
    assert (gain.family, of(trials, "pi").family) == (2, 1)


def test_partly_shared_seeds_are_compared_where_both_have_them() -> None:
    gain = of(final("student", [70.0, 71.0, 60.0]) + final("pi", [71.0, 72.5, 99.0], [11, 12, 14]), "pi")
    assert (gain.paired, gain.seeds, gain.difference) == (True, 3, pytest.approx(1.25))
    assert "2 shared seeds" in gain.verdict


# Words


def test_a_gain_and_a_loss_are_called_so() -> None:
    gain = of(final("student", [70.0, 72.9, 77.2]) + final("pi", [71.0, 74.0, 78.0]), "pi")
    assert gain.verdict == "a gain over the student alone of 0.97 points (p = 0.0082, 3 shared seeds)"
    lost = of(final("student", [70.0, 71.0, 72.0]) + final("pi", [67.0, 68.1, 69.0]), "pi")
    assert lost.verdict.startswith("a loss against the student alone of 2.97 points")


@pytest.mark.parametrize(
    ("p", "text"),
    [(0.0499999, "0.0499999"), (0.0497, "0.0497"), (0.05, "0.05"), (0.0501, "0.05"), (0.0004, "< 0.001")],
)
def test_a_rounded_p_is_on_its_side_of_the_level(p: float, text: str) -> None:
    assert probability(p) == text


def test_no_zero_has_a_sign() -> None:
    assert [signed(value) for value in (-0.004, 0.0, 0.004, -0.006)] == ["0.00", "0.00", "0.00", "-0.01"]


@pytest.mark.parametrize(("gained", "shown"), [(0.1, "+0.10"), (0.0, "0.00")])
def test_the_same_difference_at_every_seed_gives_no_interval(gained: float, shown: str) -> None:
    """Rounding alone must not make a p-value of 1e-15."""
    student = [7.1, 30.3, 72.7]
    gain = of(final("student", list(student)) + final("pi", [miou + gained for miou in student]), "pi")
    assert gain.difference == pytest.approx(gained)
    assert (gain.low, gain.high, gain.p) == (None, None, None)
    assert gain.verdict.startswith(f"{shown} points against the student alone, without any deviation")


def test_one_seed_tells_nothing() -> None:
    gain = of(final("student", [70.0]) + final("pi", [75.0]), "pi")
    assert (gain.difference, gain.low, gain.p, gain.paired) == (5.0, None, None, False)
    assert "one seed has no deviation" in gain.verdict
    assert of(final("student", [70.0]) + final("pi", [75.0], [21]), "pi").p is None


def test_no_stage_final_has_no_gains() -> None:
    assert gains(tables([trial("student", 70.0)]).trials) == []
    assert gains(tables([]).trials) == []
