"""What the report of a large study leaves out, and that it says so; what is small it leaves as it is."""

import re
from pathlib import Path

import pyarrow as pa
import pytest

from kdtune.records.storage import Storage
from kdtune.report import searches, thinning
from kdtune.report.thinning import best_lines, drawn_trials, evenly
from tests.support import report_study


def test_evenly() -> None:
    assert evenly(range(5), 5) == [0, 1, 2, 3, 4]
    assert evenly(range(6), 3) == [0, 2, 5]
    for size in range(3, 40):
        for most in range(2, size):
            found = evenly(range(size), most)
            assert len(set(found)) == most
            assert found == sorted(found)
            assert (found[0], found[-1]) == (0, size - 1)


def row(i: int, status: str = "completed", miou: float | None = None) -> dict[str, object]:
    return {"trial_id": f"t{i}", "status": status, "miou": float(i * 7 % 1000) if miou is None else miou}


def test_curves_of_a_small_study_are_all_drawn() -> None:
    stages = {"a": [row(i) for i in range(thinning.CURVES - 1)], "b": [row(0)]}
    assert drawn_trials(stages) == stages


def test_of_a_large_study_the_best_the_median_and_every_status() -> None:
    rows = [row(i) for i in range(1000)] + [row(1000 + i, "stopped") for i in range(1000)] + [row(2000, "failed", 5.0)]
    drawn = drawn_trials({"a": rows, "b": rows[:10]})
    assert drawn["b"] == rows[:10]
    most = thinning.CURVES // 2
    assert most - 3 <= len(drawn["a"]) <= most + 6
    assert [each for each in rows if each in drawn["a"]] == drawn["a"]  # in their order
    completed = sorted(each["miou"] for each in drawn["a"] if each["status"] == "completed")
    assert (completed[0], completed[-1]) == (0.0, 999.0)
    assert 500.0 in completed
    statuses = [each["status"] for each in drawn["a"]]
    assert abs(statuses.count("completed") - statuses.count("stopped")) < 3
    assert "failed" in statuses


def test_of_equal_trials_the_first_is_the_best_and_drawn() -> None:
    rows = [row(i, miou=50.0) for i in range(2000)]
    assert drawn_trials({"a": rows})["a"][0] is rows[0]


def test_a_long_table_keeps_its_best_lines_in_their_order() -> None:
    size = thinning.LINES + 500
    data = pa.table({"trial_id": [f"t{i}" for i in range(size)], "miou": [None] + [float(i) for i in range(1, size)]})
    kept, words = best_lines(data)
    assert kept["miou"].to_pylist() == [float(i) for i in range(500, size)]
    assert f"{thinning.LINES:,} of these {size:,} lines" in words
    assert best_lines(data.slice(0, thinning.LINES)) == (data.slice(0, thinning.LINES), "")
    assert best_lines(data.drop_columns(["miou"]))[0]["trial_id"].to_pylist()[-1] == f"t{thinning.LINES - 1}"


@pytest.fixture
def small(tmp_path: Path) -> Storage:
    storage = Storage(str(tmp_path), "demo")
    report_study.write(storage, report_study.demo(), stages=3, evaluations=12, statuses={1: "stopped", 2: "diverged"})
    return storage


def test_a_page_that_is_thinned_says_so(small: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = report_study.page(small)
    assert "curves are drawn" not in whole
    assert "points are drawn" not in whole
    assert "lines are shown" not in whole
    for module, name, most in (
        (thinning, "CURVES", 5),
        (thinning, "OF_A_STAGE", 4),
        (thinning, "LINES", 6),
        (searches, "POINTS", 10),
    ):
        monkeypatch.setattr(module, name, most)
    page = report_study.page(small)
    drawn, of = map(int, re.findall(r"(\d+) of the (\d+) curves are drawn: the best, the median", page)[0])
    assert 4 <= drawn < of == 9
    assert "At most 10 of a curve&#x27;s points are drawn, of up to 12." in page
    assert "The 6 of these 18 lines are shown that have the highest mIoU; kdtune results prints them all." in page
    assert "evaluations are too many for a page" in page
    assert len(page) < len(whole)


def test_a_heat_map_of_many_cells_is_an_image(small: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kdtune.report.grids.CELLS", 4)
    monkeypatch.setattr("kdtune.report.searches.CELLS", 4)
    page = report_study.page(small)
    grid = page.split('<section id="grid">')[1].split("</section>")[0]
    assert "1 paler: stopped early" in grid
    assert "hatched" not in grid
    assert grid.count("<image") >= 2  # the colour bar is one, too
