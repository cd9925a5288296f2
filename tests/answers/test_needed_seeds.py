"""How many seeds a comparison needs, before its start and after."""

import random

import pytest

from kdtune.answers.needed_seeds import ASSUMED, Design, before_the_start, on_record
from kdtune.answers.significance import gains
from tests.support.finished_study import tables, trial


def test_the_deviation_on_record_is_that_of_the_stage_that_tells_most() -> None:
    chance = random.Random(1)
    rows = [trial("student", 60.0 + i, lr=0.1 * (i + 1), start="base") for i in range(5)]  # one seed: no deviation
    assert on_record(rows) is None
    rows += [trial("temperature", 61.0 + 9 * s, seed=s, start="distill", temperature=1.0) for s in (1, 2)]
    assert on_record(rows) is None  # one configuration: what seeds do to all is not told from chance
    for lr in range(1, 40):
        level = {s: 5.0 * s for s in range(4)}
        rows += [trial("wide", 60 + level[s] + chance.gauss(0, 0.7), seed=s, start="base", lr=lr) for s in range(4)]
    found = on_record(rows)
    assert found is not None
    assert found == (pytest.approx(0.7, abs=0.1), "wide")
    assert on_record([*rows, trial("wide", None, status="failed", start="base", lr=99.0)]) == found


def test_words_before_the_start_are_those_of_the_design() -> None:
    told = before_the_start(5, 3, (0.8, "temperature"))
    design = Design(0.8, 5, 4)
    assert f"3 seeds of 5 methods find a gain of {design.least(3):.2f} points in 80 of 100 cases" in told
    assert f"half a point would need {design.seeds_for()} seeds (if runs deviate by 0.80 points, as in stage" in told
    assert f"deviate by {ASSUMED:.2f} points, which is assumed" in before_the_start(2, 3, None)
    assert "one seed of 2 methods tells no gain from chance; half a point would need" in before_the_start(2, 1, None)
    assert "need more than 1,000 seeds" in before_the_start(2, 3, (20.0, "temperature"))


def test_the_least_gain_is_found_in_80_of_100_tables() -> None:
    """Drawn and sent through the comparison itself."""
    chance, found, tables_ = random.Random(7), 0, 300
    gain = Design(1.0, 3, 2).least(3)
    rows = []
    for study in range(tables_):
        for method, level in (("student", 0.0), ("pi", gain), ("pi+pa", 0.0)):
            runs = [level + 60 + chance.gauss(0, 1) for _ in range(3)]
            more = {"study": str(study), "method": method, "start": method}
            rows += [trial("final", miou, **{"seed": seed, **more}) for seed, miou in enumerate(runs)]
    for each in gains(tables(rows).trials):
        found += (each.method, each.reference, each.analysis) == ("pi", "student", "pooled") and each.low > 0  # type: ignore[operator]
    pooled = {g.study for g in gains(tables(rows).trials) if g.reference == "student" and g.analysis == "pooled"}
    assert found / len(pooled) == pytest.approx(0.8, abs=0.07)
