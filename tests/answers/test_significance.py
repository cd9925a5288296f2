"""Whether a gain is real: published examples and closed forms, and the words for what cannot be told."""

import math
import random
from typing import Any

import pytest

from kdtune.answers.ranking import Row
from kdtune.answers.significance import Gain, gains, holm, paired_t, welch_t
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


def of(trials: list[Row], method: str, reference: str = "student") -> Gain:
    (found,) = [g for g in gains(tables(trials).trials) if (g.method, g.reference) == (method, reference)]
    return found


def test_paired_t_of_students_sleep() -> None:
    test = paired_t([a - b for a, b in zip(SLEEP_1, SLEEP_2, strict=True)])
    assert test is not None
    assert (test.difference, test.p) == (pytest.approx(-1.58), pytest.approx(0.002833, abs=5e-7))
    assert (test.low, test.high) == (pytest.approx(-2.4598858, abs=5e-8), pytest.approx(-0.7001142, abs=5e-8))


def test_welch_t_of_students_sleep() -> None:
    test = welch_t(SLEEP_1, SLEEP_2)
    assert test is not None
    assert (test.difference, test.p) == (pytest.approx(-1.58), pytest.approx(0.07939, abs=5e-6))
    assert (test.low, test.high) == (pytest.approx(-3.3654832, abs=5e-8), pytest.approx(0.2054832, abs=5e-8))


@pytest.mark.parametrize("differences", [[1.0, 2.5], [-0.25, 0.75]])
def test_two_pairs_follow_cauchys_distribution(differences: list[float]) -> None:
    """One degree of freedom: p = 1 - 2/pi atan |t|, and the quantile is tan(0.475 pi)."""
    mean, error = sum(differences) / 2, abs(differences[0] - differences[1]) / 2
    test = paired_t(differences)
    assert test is not None
    assert test.p == pytest.approx(1 - 2 / math.pi * math.atan(abs(mean) / error))
    assert test.high - mean == pytest.approx(math.tan(0.475 * math.pi) * error)


def test_three_pairs_have_a_closed_form() -> None:
    """Two degrees of freedom: p = 1 - |t| / sqrt(2 + t^2), and 0.95 = q / sqrt(2 + q^2)."""
    test = paired_t([0.9, 1.4, 2.2])
    mean = 1.5
    error = math.sqrt((0.6**2 + 0.1**2 + 0.7**2) / 2 / 3)
    quantile = 0.95 * math.sqrt(2 / (1 - 0.95**2))
    assert test is not None
    assert test.p == pytest.approx(1 - (mean / error) / math.sqrt(2 + (mean / error) ** 2))
    assert (test.low, test.high) == (pytest.approx(mean - quantile * error), pytest.approx(mean + quantile * error))


def test_holm_of_rs_example() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])  # p.adjust(..., "holm")
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([]) == []


@pytest.mark.parametrize("kind", ["paired", "welch"])
def test_the_interval_covers_the_truth_in_95_of_100(kind: str) -> None:
    """3000 studies of three seeds, with noise that the seeds share or unlike deviations; 2.5 deviations of chance."""
    generator, covered = random.Random(5), 0
    for _ in range(3000):
        noise = [generator.gauss(0, 2) for _ in range(3)]
        if kind == "paired":
            test = paired_t([(1.5 + n + generator.gauss(0, 1)) - (n + generator.gauss(0, 1)) for n in noise])
        else:
            test = welch_t([1.5 + n for n in noise], [generator.gauss(0, 1) for _ in range(6)])
        assert test is not None
        covered += test.low <= 1.5 <= test.high
    assert covered / 3000 == pytest.approx(0.95, abs=0.01)


def test_shared_seeds_are_paired_and_others_are_not() -> None:
    ours, theirs = [71.0, 74.0, 78.0], [70.0, 72.9, 77.2]
    shared = of(final("student", theirs) + final("pi", ours), "pi")
    apart = of(final("student", theirs) + final("pi", ours, [21, 22, 23]), "pi")
    assert [shared.difference, apart.difference] == pytest.approx([sum(ours) / 3 - sum(theirs) / 3] * 2)
    assert (shared.paired, apart.paired) == (True, False)
    test, welch = paired_t([1.0, 1.1, 0.8]), welch_t(ours, theirs)
    assert test is not None
    assert welch is not None
    assert (shared.low, shared.p) == (pytest.approx(test.low), pytest.approx(test.p))
    assert (apart.high, apart.p) == (pytest.approx(welch.high), pytest.approx(welch.p))
    assert shared.p is not None
    assert shared.p < 0.05 < (apart.p or 0.0)  # what the seeds share hides the gain from Welch's test
    assert shared.verdict == "a gain over the student alone of 0.97 points (p = 0.0082, 3 shared seeds)"
    assert apart.verdict.startswith("+0.97 points against the student alone: not distinguishable from chance; with 3 ")


def test_partly_shared_seeds_are_compared_where_both_have_them() -> None:
    gain = of(final("student", [70.0, 71.0, 60.0]) + final("pi", [71.0, 72.5, 99.0], [11, 12, 14]), "pi")
    assert (gain.paired, gain.seeds, gain.difference) == (True, 3, pytest.approx(1.25))
    assert "with 2 shared seeds" in gain.verdict


def test_holm_counts_the_methods_of_each_reference_and_study() -> None:
    trials = final("student", [70.0, 71.0, 72.0]) + final("pi", [71.0, 72.1, 73.2])
    trials += final("pi+pa", [71.2, 72.1, 73.1]) + final("pi+ho", [70.4, 70.6, 73.1])
    found = gains(tables([*trials, *[row | {"study": "t"} for row in trials[:6]]]).trials)
    assert [(g.study, g.method, g.reference) for g in found] == [
        *(("s", method, "student") for method in ("pi", "pi+pa", "pi+ho")),
        *(("s", method, "pi") for method in ("pi+pa", "pi+ho")),
        ("t", "pi", "student"),
    ]
    p = [g.p for g in found if (g.study, g.reference) == ("s", "student")]
    assert [g.p_holm for g in found[:3]] == pytest.approx(holm([value or 0.0 for value in p]))
    assert p == pytest.approx([paired_t(d).p for d in ([1.0, 1.1, 1.2], [1.2, 1.1, 1.1], [0.4, -0.4, 1.1])])  # type: ignore[union-attr]
    assert found[-1].p == found[-1].p_holm == found[0].p  # the other study tests one method
    for each in found:  # the sentence has the number of the table
        assert f"{each.p_holm:.2g}" in each.verdict, each.verdict


def test_a_gain_that_the_correction_takes_away_says_so() -> None:
    trials = final("student", [70.0, 70.0, 70.0]) + final("pi", [71.0, 71.5, 72.2])
    trials += final("pi+pa", [71.0, 69.0, 70.1]) + final("pi+ho", [70.4, 69.6, 70.1])
    gain = of(trials, "pi")
    assert gain.p is not None
    assert gain.p < 0.05 < (gain.p_holm or 0.0)
    assert "not distinguishable from chance where 3 methods are tried" in gain.verdict


def test_a_loss_is_called_one() -> None:
    assert of(final("student", [70.0, 71.0, 72.0]) + final("pi", [67.0, 68.1, 69.0]), "pi").verdict.startswith(
        "a loss against the student alone of 2.97 points"
    )


@pytest.mark.parametrize(("gained", "shown"), [(0.1, "+0.10"), (0.0, "+0.00")])
def test_the_same_difference_at_every_seed_gives_no_interval(gained: float, shown: str) -> None:
    """Rounding alone must not make a p-value of 1e-15."""
    student = [7.1, 30.3, 72.7]
    gain = of(final("student", list(student)) + final("pi", [miou + gained for miou in student]), "pi")
    assert gain.difference == pytest.approx(gained)
    assert (gain.low, gain.high, gain.p, gain.p_holm) == (None, None, None, None)
    assert gain.verdict.startswith(f"{shown} points against the student alone, the same at every seed")


def test_one_seed_tells_nothing() -> None:
    gain = of(final("student", [70.0]) + final("pi", [75.0]), "pi")
    assert (gain.difference, gain.low, gain.p, gain.paired) == (5.0, None, None, False)
    assert "one seed has no deviation" in gain.verdict
    assert of(final("student", [70.0]) + final("pi", [75.0], [21]), "pi").p is None


@pytest.mark.parametrize("status", ["diverged", "failed"])
def test_a_method_with_a_lost_seed_is_not_compared_without_it(status: str) -> None:
    trials = final("student", [70.0, 71.0, 72.0]) + final("pi", [71.0, 72.0, 73.5]) + final("pi+ho", [90.0, 91.0, None])
    trials[-1]["status"] = status
    gain = of(trials, "pi+ho")
    assert (gain.difference, gain.p, gain.p_holm, gain.seeds) == (None, None, None, 2)
    assert gain.verdict == f"no comparison: 1 of 3 seeds {status}"
    pi = of(trials, "pi")
    assert pi.p == pi.p_holm  # and it does not count among the tested


def test_a_lost_reference_and_a_missing_one_are_named() -> None:
    trials = final("student", [70.0, None, 72.0]) + final("pi+pa", [71.0, 72.0, 73.5])
    trials[1]["status"] = "diverged"
    assert of(trials, "pi+pa").verdict == "no comparison: the student alone: 1 of 3 seeds diverged"
    missing = of(trials, "pi+pa", "pi")
    assert missing.verdict == "nothing to compare with: stage 'final' has no trial of L_PI alone"
    assert missing.difference is None


def test_seeds_that_are_still_to_come_are_waited_for() -> None:
    trials = final("student", [70.0, 71.0, 72.0]) + final("pi", [71.0, 72.0])
    assert of(trials, "pi").verdict == "no comparison: 2 of 3 seeds have finished"
    (early,) = gains(tables(trials[1:3] + trials[3:]).trials, planned=3)
    assert early.verdict == "no comparison: 2 of 3 seeds have finished"


def test_of_several_configurations_the_best_is_taken() -> None:
    trials = final("student", [70.0, 71.0]) + final("pi", [71.0, 72.5], lr=0.1) + final("pi", [73.0, 74.5], lr=0.2)
    assert of(trials, "pi").difference == pytest.approx(3.25)


def test_no_stage_final_has_no_gains() -> None:
    assert gains(tables([trial("student", 70.0)]).trials) == []
    assert gains(tables([]).trials) == []
