"""Seeds added to a finished comparison: nothing runs twice, methods share them, later launches keep them."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from kdtune.api import results
from kdtune.base import UserError
from kdtune.search.added_seeds import with_kept_seeds
from kdtune.search.options import Options, adjusted
from kdtune.study.spec import StudySpec
from tests.support.launching import kdtune, whole, write_study
from tests.support.small_study import small


def seeds(study: StudySpec, stage: str = "final") -> tuple[int, ...]:
    return study.stage(stage).seeds


def asked(number: int, *stages: str) -> Options:
    return Options(stages=stages, seeds=number)


def test_new_seeds_are_those_of_no_other_stage(tmp_path: Path) -> None:
    study = small(
        tmp_path,
        ("  - name: final", "  - name: again\n    start_from: [student]\n    seeds: [13, 15]\n  - name: final"),
    )
    more = adjusted(study, asked(5, "final"))
    assert seeds(more) == (11, 12, 14, 16, 17)
    assert (more.stage("final").added_seeds, seeds(more, "again")) == (3, (13, 15))
    assert seeds(adjusted(study, asked(2, "final"))) == (11, 12)
    assert adjusted(study, asked(2, "final")) == study


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (asked(5), "--seeds 5 needs the stage whose seeds they are: add --stage final"),
        (asked(5, "final", "student"), "--seeds 5: stage 'student' searches"),
        (asked(1, "final"), "--seeds 1: stage 'final' has 2, and the number is that of all"),
    ],
)
def test_what_cannot_have_more_seeds_is_told(tmp_path: Path, options: Options, words: str) -> None:
    with pytest.raises(UserError, match=words):
        adjusted(small(tmp_path), options)


def test_seeds_are_kept_until_the_file_changes_its_own(tmp_path: Path) -> None:
    study = small(tmp_path)
    assert with_kept_seeds(study, None) == study
    five, three = (adjusted(study, asked(number, "final")) for number in (5, 3))
    stored = five.model_dump(mode="json")
    assert seeds(with_kept_seeds(study, stored)) == seeds(with_kept_seeds(three, stored)) == seeds(five)
    assert seeds(with_kept_seeds(five, three.model_dump(mode="json"))) == seeds(five)
    other = small(tmp_path, ("[11, 12]", "[21, 22]"))
    assert seeds(with_kept_seeds(other, stored)) == (21, 22)
    fewer = small(tmp_path, ("[11, 12]", "[11]"))
    assert seeds(with_kept_seeds(fewer, study.model_dump(mode="json"))) == (11,)  # the file's own were not added


@pytest.mark.parametrize(
    ("stored", "left_out"),
    [
        ({"seeds": [11, 12, 0], "added_seeds": 1}, True),  # stage 'student' chooses with it
        ({"seeds": [11, 12, "x"], "added_seeds": 1}, True),
        ({"seeds": [11, 12, 1e99], "added_seeds": 1}, True),
        ({"seeds": [11, 12, 13], "added_seeds": "one"}, False),
        ({"seeds": 7, "added_seeds": 1}, False),
        ({}, False),
    ],
)
def test_seeds_of_others_that_the_study_may_not_have(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, stored: dict[str, object], left_out: bool
) -> None:
    study = small(tmp_path)
    assert with_kept_seeds(study, {"stages": [{"name": "final"} | stored]}) == study
    assert ("its added seeds are left out" in caplog.text) == left_out


@pytest.mark.slow
def test_a_finished_study_gets_seeds_and_keeps_them(once: Callable[..., Path], tmp_path: Path) -> None:
    storage = tmp_path / "again"
    shutil.copytree(once("whole", whole), storage, ignore=shutil.ignore_patterns(".ray"))
    file = write_study(tmp_path)
    before = {row["trial_id"]: row for row in results("tiny", str(storage)).table("trials").to_pylist()}
    for more in (["--stage", "final", "--seeds", "3"], []):
        done = kdtune("launch", file, "--storage", storage, *more)
        assert done.returncode == 0, done.stderr
        rows = {row["trial_id"]: row for row in results("tiny", str(storage)).table("trials").to_pylist()}
        assert {id_: rows[id_] for id_ in before} == before
        assert sorted((row["method"], row["seed"]) for id_, row in rows.items() if id_ not in before) == [
            ("pi", 13),
            ("student", 13),
        ]
    (family,) = {row["seeds"] for row in results("tiny", str(storage)).table("final").to_pylist()}
    assert family == 3
