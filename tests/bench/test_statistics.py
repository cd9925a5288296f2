"""The bench of claims draws what it says, counts what the comparison says, and prints a line per setting."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from kdtune.answers.significance import Plan, families
from kdtune.bench import other_images
from kdtune.bench.statistics import GAIN, Setting, measure, names, settings, trials
from kdtune.cli import main


@pytest.mark.parametrize("tails", ["normal", "t4"])
@pytest.mark.parametrize("correlation", [0.0, 0.5])
@pytest.mark.parametrize("scatter", [0.5, 2.0])
def test_chance_is_drawn_as_named(correlation: float, scatter: float, tails: str) -> None:
    drawn = Setting(4, 2, correlation, scatter, tails).drawn(40_000, np.random.default_rng(1))
    spread = drawn.var(axis=(0, 2))
    own = 1.0 - correlation
    assert spread[1:] == pytest.approx([1.0] * 3, abs=0.08)
    assert spread[0] == pytest.approx(correlation + own * scatter**2, rel=0.08)
    pairs = np.corrcoef(drawn[:, 1, 0], drawn[:, 2, 0])[0, 1]
    assert pairs == pytest.approx(correlation, abs=0.05)
    kurtosis = (drawn[:, 1, 0] ** 4).mean() / (drawn[:, 1, 0] ** 2).mean() ** 2
    assert (kurtosis > 4) == (tails == "t4")


def test_drawn_tables_are_compared_whole() -> None:
    values = Setting(5, 3, 0.5, 1.0, "normal").drawn(2, np.random.default_rng(1))
    found = families(trials(values), Plan(3, 5))
    assert [(family.study, family.reference, family.size) for family in found] == [
        ("s0", "student", 4),
        ("s0", "pi", 3),
        ("s1", "student", 4),
        ("s1", "pi", 3),
    ]
    for gain in found[2].gains:
        expected = (values[1, names(5).index(gain.method)] - values[1, 0]).mean()
        assert gain.difference == pytest.approx(expected)
        assert not gain.provisional


def test_claims_are_counted() -> None:
    calm = measure(Setting(5, 3, 0.5, 1.0, "normal"), 60, 1)
    assert 40 < calm["power"] < 80
    assert calm["false"] < 15 > calm["false_pi"]
    assert calm["false"] + calm["covered"] == 100  # an interval moves with the truth
    assert calm["headline"] >= calm["covered"]
    wild = measure(Setting(5, 3, 0.5, 2.0, "normal"), 60, 1)
    assert wild["power"] < calm["power"] - 10
    assert wild["apart"] > calm["apart"] + 15
    assert GAIN == 2.0


def test_the_command_prints_a_line_per_setting(tmp_path: Path) -> None:
    words = [
        "bench",
        "statistics",
        "--tables",
        "10",
        "--seeds",
        "3",
        "--methods",
        "3",
        "-o",
        str(tmp_path / "f.parquet"),
    ]
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 0, done.output
    rows = pq.read_table(tmp_path / "f.parquet").to_pylist()
    assert len(rows) == len(list(settings([3], [3]))) == 12
    assert {"scatter", "tails", "false", "false_pi", "headline", "power"} <= set(rows[0])
    assert "percent of 10 tables a line; 5 % is known to 6.9" in " ".join(done.output.split())


def test_intervals_of_other_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """They cover where images are independent, and are wider where those of a recording go together."""
    alone, together = (other_images.measure(other_images.Setting(100, kind), 40, 3) for kind in ("none", "of 5"))
    assert min(alone["headline"], together["headline"]) >= 90
    assert alone["covered"] >= 85
    assert together["half_width"] > 1.3 * alone["half_width"]
    monkeypatch.setattr(other_images, "IMAGES", (48,))
    done = CliRunner().invoke(main, ["bench", "statistics", "--images", "--tables", "10"])
    assert done.exit_code == 0, done.output
    assert "intervals of other images, percent of 10 tables a line" in " ".join(done.output.split())
