"""A study that chooses on images on which it does not train: what each of its trials is told, and what they see."""

from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from kdtune.answers.planned_grid import planned_study
from kdtune.answers.rendering import render
from kdtune.search.given_teacher import stages_to_run
from kdtune.study.file import dump, read
from kdtune.study.spec import StudySpec
from kdtune.training.site import Site, load_splits
from kdtune.training.trial import run
from tests.support.finished_study import grid, tables
from tests.support.small_study import small, write

NAME = "name: small\n"
IMAGES = ("num_train: 4", "num_train: 20")


def held(folder: Path, choice: str = "holdout") -> StudySpec:
    return small(folder, (NAME, f"{NAME}select_on: {choice}\n"), IMAGES)


def test_searches_are_evaluated_on_the_holdout_and_repeats_on_validation(tmp_path: Path) -> None:
    study = held(tmp_path)
    made = study.templates()
    assert {name: config.evaluated_on for name, config in made.items()} == {
        **dict.fromkeys(("student", "distill"), "holdout"),
        "final": "val",
    }
    assert {config.select_on for config in made.values()} == {study.select_on}
    assert study.select_on.model_dump() == {"holdout": 0.1, "seed": 0}
    again = StudySpec.model_validate(yaml.safe_load(dump(study)))
    assert again == study


def test_it_is_part_of_what_a_trial_is_and_val_changes_nothing(tmp_path: Path) -> None:
    usual = small(tmp_path, IMAGES)
    ids = {
        study.templates()["final"].config_id
        for study in (
            usual,
            held(tmp_path),
            held(tmp_path, "{holdout: 0.2}"),
            held(tmp_path, "{holdout: 0.1, seed: 1}"),
        )
    }
    assert len(ids) == 4
    assert held(tmp_path, "val") == usual
    assert "select_on" not in dump(usual)
    assert "evaluated_on" not in dump(usual)


def test_no_trial_trains_on_what_is_held_out(tmp_path: Path) -> None:
    made = held(tmp_path).templates()
    site = Site(pack="never")
    train, held_out = load_splits(made["student"], site)
    final, val = load_splits(made["final"], site)
    whole = load_splits(small(tmp_path, IMAGES).templates()["final"], site)
    assert final.names == train.names
    assert (len(train), len(held_out), len(val)) == (18, 2, 2)
    assert {*train.names, *held_out.names} == {*whole[0].names}
    assert (held_out.image(0) == whole[0].image(whole[0].names.index(held_out.names[0]))).all()
    assert val.names == whole[1].names
    *_, (last, _) = run(made["student"], site)
    assert last.images is not None
    assert last.images.names == held_out.names


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ((NAME, f"{NAME}select_on: test\n"), "select_on: needs 'val', 'holdout' or {holdout: SHARE}; got 'test'"),
        ((NAME, f"{NAME}select_on: {{holdout: 1.5}}\n"), "select_on.holdout: input should be less than 1"),
        (("base:\n", "base:\n  select_on: holdout\n"), "base.select_on: is one for the whole study"),
        (("seeds: [11, 12]", "set: {select_on: holdout}"), "select_on: is one for the whole study"),
        (("seeds: [11, 12]", "set: {evaluated_on: holdout}"), "evaluated_on is holdout, but nothing is held out"),
    ],
)
def test_what_does_not_fit_is_one_line(tmp_path: Path, change: tuple[str, str], message: str) -> None:
    faults, _ = read(write(tmp_path, change))
    assert len(faults) == 1
    assert message in faults[0]


def test_results_say_it_in_a_line(tmp_path: Path) -> None:
    plan = planned_study("s", yaml.safe_load(dump(held(tmp_path, "{holdout: 0.2}"))))
    given = replace(tables(grid()), planned={"s": plan})
    told = render("grid", given, "s", "text")
    assert told.count("chosen on 20% of the training images, on which no trial trains") == 1
    assert "measured on the validation images: teacher, final; on these: all other stages" in told
    assert [plan.images(name) for name in ("student", "final")] == [
        "training images that are held out",
        "validation images",
    ]
    usual = planned_study("s", yaml.safe_load(dump(small(tmp_path))))
    assert (usual.chosen_on, usual.images("student")) == (None, "validation images")


def test_a_teacher_is_measured_where_final_is(tmp_path: Path) -> None:
    """Trained by a stage or given as a file; a search for one is a search."""
    trained = "stages:\n  - name: teacher\n"
    for more, images in (("", "val"), ("    grid: {recipe.lr: [0.1, 0.2]}\n", "holdout")):
        study = small(tmp_path, (NAME, f"{NAME}select_on: holdout\n"), IMAGES, ("stages:\n", f"{trained}{more}"))
        assert study.templates()["teacher"].evaluated_on == images
    given = held(tmp_path)
    assert [stage.set.get("evaluated_on") for stage in stages_to_run(given) if stage.name == "teacher"] == [None]
    assert planned_study("s", yaml.safe_load(dump(given))).on_val == ("teacher", "final")
