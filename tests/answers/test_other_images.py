"""Intervals of other images: against a second computation, on every kind of gap, and in the tables."""

import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from scipy import stats

from kdtune import results
from kdtune.answers import query
from kdtune.answers.other_images import DRAWS, Run, bootstrap, units
from kdtune.base import UserError
from kdtune.cli import main
from kdtune.records.storage import IMAGE_COUNTS, Record, Storage
from kdtune.training.image_counts import ImageCounts, collected
from tests.support import report_study
from tests.support.image_counts import drawn, give, iou, matrix

CLASSES = 5


def runs(right: dict[str, list[float]], images: int, absent: str = "skip") -> dict[str, list[Run]]:
    """Each method's runs, by the share of pixels that is right in each."""
    return {
        method: [
            Run(drawn([share] * images, CLASSES, seed=100 * i + j), CLASSES, absent) for j, share in enumerate(shares)
        ]  # type: ignore[arg-type]
        for i, (method, shares) in enumerate(right.items())
    }


def test_as_a_second_computation_has_it() -> None:
    """Matrix by matrix, draw by draw."""
    given = runs({"student": [0.6, 0.62], "pi": [0.65, 0.61], "pi+pa": [0.7, 0.72]}, images=12)
    count = 12
    draws = np.random.default_rng(0).multinomial(count, np.full(count, 1 / count), DRAWS)

    def of_each(run: Run) -> np.ndarray:
        cells, names = run.counts.cells, run.counts.names
        images = [ImageCounts(names, run.counts.sequences, cells[cells[:, 0] == i]) for i in range(count)]
        return np.stack([matrix(image, CLASSES) for image in images])

    each = {method: [of_each(run) for run in those] for method, those in given.items()}

    def gain(method: str, weights: np.ndarray) -> float:
        ours, theirs = (
            [np.mean([v for v in iou(np.tensordot(weights, run, axes=1)) if v is not None]) for run in each[name]]
            for name in (method, "student")
        )
        return float(np.mean(ours) - np.mean(theirs))

    first = {method: gain(method, np.ones(count)) for method in ("pi", "pi+pa")}
    drawn_gains = {method: np.array([gain(method, weights) for weights in draws]) for method in first}
    errors = {method: np.std(values, ddof=1) for method, values in drawn_gains.items()}
    largest = np.max([abs(drawn_gains[method] - first[method]) / errors[method] for method in first], axis=0)
    reaches = np.sqrt(count / (count - 1)) * stats.t.ppf(stats.norm.cdf(np.quantile(largest, 0.95)), count - 1)
    found = bootstrap(given, "student")
    assert found.words == "12 images"
    for method, difference in first.items():
        reach = reaches * errors[method]
        assert found.intervals[method] == pytest.approx((difference - reach, difference + reach), abs=1e-9)


def test_absent_classes_count_as_the_recipe_says() -> None:
    """A class in no image leaves the mean, or counts as 0."""
    skipped, zero = (
        bootstrap(runs({"student": [0.5], "pi": [0.7]}, 20, absent), "student") for absent in ("skip", "zero")
    )
    wide = {
        name: [Run(run.counts, 2 * CLASSES, "zero") for run in those]
        for name, those in runs({"student": [0.5], "pi": [0.7]}, 20).items()
    }
    halved = bootstrap(wide, "student")
    assert skipped.intervals == zero.intervals
    assert halved.intervals["pi"] == pytest.approx([end / 2 for end in zero.intervals["pi"]])


def test_long_sequences_are_cut() -> None:
    one = drawn([0.5] * 101, CLASSES, 1, ["0016E5"] * 101)
    assert units(one).words == "101 images of 1 sequence, in 10 stretches"
    assert [(part[0], part[-1]) for part in units(one).places][:3] == [(0, 10), (11, 20), (21, 30)]
    some = ["a"] * 30 + [f"b{i}" for i in range(70)]
    found = units(drawn([0.5] * 100, CLASSES, 1, some))
    assert found.words == "100 images of 71 sequences, in 73 stretches"
    assert max(map(len, found.places)) == 10
    assert sorted(np.concatenate(found.places)) == list(range(100))
    pairs = units(drawn([0.5] * 100, CLASSES, 1, [f"s{i // 2}" for i in range(100)]))
    assert pairs.words == "100 images of 50 sequences"
    assert units(drawn([0.5] * 100, CLASSES, 1)).words == "100 images"


def test_images_of_one_sequence_are_no_evidence_each() -> None:
    """Ten times the same image is one: the interval is that of fewer, and wider."""
    chance = np.random.default_rng(5)
    level = chance.uniform(0.2, 0.9, 40)
    shares = {"student": np.repeat(level, 10), "pi": np.repeat(np.clip(level + chance.normal(0, 0.1, 40), 0, 1), 10)}
    width = {}
    for name, sequences in (("alone", []), ("together", [f"s{i // 10}" for i in range(400)])):
        given = {
            m: [Run(drawn(list(s), CLASSES, i, sequences), CLASSES, "skip")] for i, (m, s) in enumerate(shares.items())
        }
        low, high = bootstrap(given, "student").intervals["pi"]
        width[name] = high - low
    assert width["together"] > 2 * width["alone"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda given: given, "9 images: too few"),
        (lambda given: given | {"pi": runs({"pi": [0.5]}, 10)["pi"]}, "runs were evaluated on different images"),
    ],
)
def test_where_there_is_no_interval(change: Callable[[dict[str, list[Run]]], dict[str, list[Run]]], words: str) -> None:
    found = bootstrap(change(runs({"student": [0.5], "pi": [0.6]}, 9)), "student")
    assert (found.intervals, found.words) == ({}, words)


def test_void_images_and_equal_networks_have_no_interval() -> None:
    void = [(np.array([CLASSES**2]), np.array([9]))] * 20
    counts = collected([str(i) for i in range(20)], [None] * 20, void, CLASSES)
    void_run = Run(counts, CLASSES, "skip")
    assert "void" in bootstrap({"student": [void_run], "pi": [void_run]}, "student").words
    same = runs({"student": [0.5]}, 20)
    alike = bootstrap(same | {"pi": same["student"]}, "student")
    assert (alike.intervals, alike.words) == ({}, "20 images: all networks answer alike on them")


@pytest.fixture
def counted(tmp_path: Path) -> tuple[Storage, list[Record]]:
    """The demo's study on a storage; of ``final`` every run has counts of 48 images, L_PI's much the better ones."""
    storage, study = Storage(str(tmp_path), "demo"), report_study.demo()
    chance = random.Random(3)
    plan, records = {}, []
    level = {"student": 0.6, "pi": 0.75, "pi+pa": 0.61}
    for stage in study.stages:
        trials = report_study.planned(study, stage.name)
        plan[stage.name] = [trial.trial_id for trial in trials]
        for trial in trials:
            record = report_study.ended(trial, 2, chance)
            if stage.name == "final":
                give(storage, record, [level.get(trial.config.method, 0.6)] * 48, chance)
            records.append(record)
    report_study.save(storage, study, plan, records)
    return storage, records


def final(storage: Storage) -> dict[str, dict[str, object]]:
    return {row["method"]: row for row in results("demo", storage.root).table("final").to_pylist()}


def shown(storage: Storage, *words: str) -> str:
    done = CliRunner().invoke(main, ["results", "demo", "--storage", storage.root, "--table", "final", *words])
    assert done.exit_code == 0, done.output
    return done.stdout


def test_the_tables_and_the_report_show_them(counted: tuple[Storage, list[Record]]) -> None:
    storage, _ = counted
    rows = final(storage)
    pi = rows["pi"]
    assert pi["images_student"] == "48 images"
    assert 0 < pi["gain_student_images_low"] < pi["gain_student"] < pi["gain_student_images_high"]  # type: ignore[operator]
    assert rows["student"]["gain_student_images_low"] is None
    assert rows["pi+pa"]["gain_pi_images_high"] < 0  # type: ignore[operator]
    text = shown(storage)
    assert "other images" in text
    assert "by a paired bootstrap over 48 images" in text
    page = report_study.page(storage)
    assert "On other images like these the gain of pi is" in page
    assert "The thin line below is the interval of these runs on other images." in page


def test_a_gain_that_other_images_may_not_show_is_said(counted: tuple[Storage, list[Record]]) -> None:
    """One image makes the difference, the same in every run: seeds call it sure, images do not."""
    storage, records = counted
    for record in records:
        if record["row"]["stage"] == "final":
            share = 0.99 if record["row"]["method"] == "pi" else 0.05
            give(storage, record, [share] + [0.6] * 47, random.Random(record["row"]["seed"]))
    rewritten(storage, records)
    row = final(storage)["pi"]
    assert row["p_student"] < 0.05  # type: ignore[operator]
    assert row["gain_student_images_low"] < 0 < row["gain_student_images_high"]  # type: ignore[operator]
    assert "is sure of other seeds, not of other images, whose interval holds 0" in shown(storage)
    assert "there the gain is not sure" in report_study.page(storage)


def rewritten(storage: Storage, records: list[Record]) -> None:
    study = report_study.demo()
    plan = {
        stage.name: [r["row"]["trial_id"] for r in records if r["row"]["stage"] == stage.name] for stage in study.stages
    }
    report_study.save(storage, study, plan, records)


@pytest.mark.parametrize("harm", ["missing", "cut", "of another trial", "of an earlier version"])
def test_without_every_runs_counts_there_is_none(counted: tuple[Storage, list[Record]], harm: str) -> None:
    storage, records = counted
    ids = [record["row"]["trial_id"] for record in records if record["row"]["stage"] == "final"]
    place = storage.folder / "checkpoints" / ids[-1]
    content = place.read(IMAGE_COUNTS)
    assert content is not None
    if harm == "missing":
        place.remove(IMAGE_COUNTS)
    elif harm == "cut":
        place.write(IMAGE_COUNTS, content[:-40])
    elif harm == "of another trial":
        place.write(IMAGE_COUNTS, (storage.folder / "checkpoints" / ids[0]).read(IMAGE_COUNTS) or b"")
    else:
        next(record for record in records if record["row"]["trial_id"] == ids[-1])["row"]["image_counts_sha256"] = None
        rewritten(storage, records)
    rows = final(storage)
    assert all(row["gain_student_images_low"] is None for row in rows.values())
    assert rows["pi"]["gain_student_low"] is not None
    words = rows["pi"]["images_student"]
    expected = "damaged" if harm in ("cut", "of another trial") else f"{ids[-1]} has no counts per image"
    assert expected in str(words)
    assert f"--again {ids[-1]}` runs it again" in str(words)
    assert f"no intervals for other images: {words}" in shown(storage)
    assert "On other images" not in report_study.page(storage)


def test_counts_that_are_not_the_rows_are_refused(counted: tuple[Storage, list[Record]]) -> None:
    storage, records = counted
    record = next(record for record in records if record["row"]["stage"] == "final")
    record["row"]["image_counts_sha256"] = storage.write_image_counts(
        record["row"]["trial_id"], drawn([0.3] * 48, len(record["row"]["per_class_iou"]), 1)
    )
    rewritten(storage, records)
    assert "its counts per image do not give its mIoU" in str(final(storage)["pi"]["images_student"])


def test_a_table_that_needs_none_reads_none(
    counted: tuple[Storage, list[Record]], monkeypatch: pytest.MonkeyPatch
) -> None:
    storage, _ = counted
    asked: list[str] = []
    real = query._counts_of
    monkeypatch.setattr(query, "_counts_of", lambda study, trials: asked.append(study.study) or real(study, trials))
    results("demo", storage.root).table("grid")
    assert asked == []
    results("demo", storage.root).table("final")
    assert asked == ["demo"]
    query.summary(storage, styled=False)
    assert asked == ["demo", "demo"]  # once for all that the end of a launch shows


@pytest.mark.parametrize("name", ["../../other", "/etc", "final-1f-s1/..", "final-1f-s1; x", "", "final-1f-s1\n"])
def test_a_name_of_others_leads_nowhere_else(name: str, tmp_path: Path) -> None:
    """Ids come from a table that somebody else may have written, and stand in a command that people copy."""
    with pytest.raises(UserError, match="is no id of a trial"):
        Storage(str(tmp_path), "demo").image_counts(name, "0" * 64)
