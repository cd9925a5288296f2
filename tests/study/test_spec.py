"""Studies, stages and configurations as values: points, identities, replacing, and what a study refuses."""

import math
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest
import torch
import yaml
from pydantic import ValidationError

from kdtune.base import Model, Tap
from kdtune.models import MODELS
from kdtune.records.trial_record import Planned
from kdtune.search.changes import differences
from kdtune.study.file import dump, read
from kdtune.study.rungs import rungs_of, successive_halving
from kdtune.study.spec import StudySpec
from kdtune.study.stage import Range, Stage, shuffled
from kdtune.study.trial_config import TrialConfig
from kdtune.training.site import Site
from kdtune.training.trial import run
from tests.support.small_study import small, write

LR, DECAY = "recipe.lr", "recipe.weight_decay"


@pytest.fixture
def spec(tmp_path: Path) -> StudySpec:
    return small(tmp_path)


@pytest.fixture
def distilled(spec: StudySpec) -> TrialConfig:
    return spec.templates()["distill"]


# Points


def test_points_in_the_order_of_the_file() -> None:
    stage = Stage(name="s", grid={LR: (1.0, 2.0), DECAY: (0.1, 0.2)}, seeds=(1, 2))
    points = stage.points(["a", "b"], seed=0)
    assert points[:3] == [
        {"start": "a", LR: 1.0, DECAY: 0.1, "seed": 1},
        {"start": "a", LR: 1.0, DECAY: 0.1, "seed": 2},
        {"start": "a", LR: 1.0, DECAY: 0.2, "seed": 1},
    ]
    assert list(points[0]) == ["start", LR, DECAY, "seed"]
    assert points[-1] == {"start": "b", LR: 2.0, DECAY: 0.2, "seed": 2}
    assert len(points) == 16


def test_a_stage_without_grid_has_one_point_per_start_and_seed() -> None:
    assert Stage(name="s", seeds=(4, 5)).points(["a"], seed=0) == [
        {"start": "a", "seed": 4},
        {"start": "a", "seed": 5},
    ]


def test_random_points_are_a_function_of_the_seed() -> None:
    axes: dict[str, Any] = {"search": "random", "samples": 20, "ranges": {LR: Range(low=1e-4, high=1.0, log=True)}}
    stage, other = Stage(name="s", **axes), Stage(name="another", **axes)
    assert stage.points(["base"], seed=3) == stage.points(["base"], seed=3)
    assert stage.points(["base"], seed=3) == other.points(["base"], seed=3)
    assert stage.points(["base"], seed=3) != stage.points(["base"], seed=4)


def test_random_points_keep_to_their_axes() -> None:
    ranges = {LR: Range(low=1e-4, high=1.0, log=True), DECAY: Range(low=2.0, high=4.0)}
    stage = Stage(name="s", search="random", samples=400, grid={"recipe.crop": ((32, 32), (64, 64))}, ranges=ranges)
    points = stage.points(["base"], seed=0)
    assert len(points) == 400
    assert all(1e-4 <= point[LR] <= 1.0 and 2.0 <= point[DECAY] <= 4.0 for point in points)
    decades = Counter(math.floor(math.log10(point[LR])) for point in points)
    assert all(70 <= decades[decade] <= 130 for decade in (-4, -3, -2, -1))
    below = sum(point[DECAY] < 3.0 for point in points)
    assert 160 <= below <= 240
    crops = Counter(point["recipe.crop"] for point in points)
    assert 160 <= crops[32, 32] <= 240


def test_random_points_of_a_grid_do_not_repeat() -> None:
    grid = {LR: (1.0, 2.0, 3.0), DECAY: (0.1, 0.2, 0.3)}
    some = Stage(name="s", search="random", samples=5, grid=grid).points(["base"], seed=0)
    more_than_there_are = Stage(name="s", search="random", samples=50, grid=grid).points(["base"], seed=0)
    assert len({tuple(point.items()) for point in some}) == 5
    assert len({tuple(point.items()) for point in more_than_there_are}) == len(more_than_there_are) == 9


def test_random_points_of_a_huge_grid() -> None:
    grid = {f"recipe.axis{i}": tuple(range(10)) for i in range(15)}
    assert len(Stage(name="s", search="random", samples=3, grid=grid).points(["base"], seed=0)) == 3


TEMPERATURE, WEIGHT = "losses.pi.temperature", "losses.pi.weight"


def test_random_points_of_a_grid_that_cannot_be_numbered() -> None:
    grid = {f"losses.{name}.tau": tuple(range(10)) for name in "abcdefghijklmnopqrst"}
    assert len(Stage(name="s", grid=grid, search="random", samples=30).points(["a"], seed=0)) == 30


@pytest.mark.parametrize("weights", [(0.0, 1.0, 2.0), (1.0, 2.0), (0.0,)])
@pytest.mark.parametrize("starts", [(), ("a", "b")])
def test_trials_of_a_grid_are_counted_as_they_are_listed(weights: tuple[float, ...], starts: tuple[str, ...]) -> None:
    grid: dict[str, tuple[float, ...]] = {
        LR: (0.1, 0.2, 0.3),
        "losses.pi.temperature": (1.0, 2.0),
        "losses.pi.weight": weights,
        "losses.pi.other": (1.0, 2.0),
        "losses.pa.size": (1.0, 2.0),  # its weight is no axis
        "losses.ifv.weight": (0.0, 5.0),
    }
    stage = Stage(name="s", grid=grid, start_from=starts, seeds=(1, 2))
    assert stage.most_trials == len(stage.points(starts or ["base"], seed=0))


HUGE = {f"losses.{name}.weight": [float(i) for i in range(100)] for name in ("pi", "pa", "ho", "ifv", "at")}  # 10^10


@pytest.mark.parametrize(
    ("fields", "trials"),
    [
        ({"grid": HUGE}, 10**10),
        ({"grid": HUGE, "search": "random", "samples": 100_001}, 100_001),
        ({"seeds": list(range(400)), "grid": {LR: [float(i) for i in range(1, 301)]}}, 120_000),
    ],
)
def test_a_stage_of_more_trials_than_can_be_run(fields: dict[str, Any], trials: int) -> None:
    with pytest.raises(ValidationError, match=f"comes to {trials} trials, and a stage has at most 100000: "):
        Stage(name="s", **fields)


def test_many_stages_that_start_from_two_each(spec: StudySpec) -> None:
    """Their ancestors are counted once each, not once for every way to them."""
    data = spec.model_dump(mode="json")
    first = data["stages"][0]
    more = [{"name": f"s{i}", "start_from": [f"s{i - 1}", f"s{i - 2}"], "seeds": [100 + i]} for i in range(2, 60)]
    data["stages"] = [{**first, "name": "s0"}, {**first, "name": "s1"}, *more]
    assert len(StudySpec.model_validate(data).ancestors(Stage(**more[-1]))) == 59


def test_a_temperature_is_tried_only_where_its_term_is_used() -> None:
    """Four temperatures of a term that is not there would be four equal trials."""
    grid = {TEMPERATURE: (1.0, 2.0, 4.0), LR: (0.1, 0.2), WEIGHT: (0.0, 1.0)}
    points = Stage(name="s", grid=grid).points(["base"], seed=0)
    assert len(points) == 2 + 2 * 3
    assert all((TEMPERATURE in point) == (point[WEIGHT] > 0) for point in points)
    assert Stage(name="s", grid=grid | {WEIGHT: (1.0,)}).conditions == {TEMPERATURE: WEIGHT}
    assert Stage(name="s", grid={TEMPERATURE: (1.0, 2.0)}).conditions == {}


def test_random_points_of_a_conditional_space_do_not_repeat() -> None:
    ranges = {TEMPERATURE: Range(low=1.0, high=8.0)}
    stage = Stage(name="s", search="random", samples=20, grid={WEIGHT: (0.0, 1.0)}, ranges=ranges)
    points = stage.points(["base"], seed=0)
    assert len(points) == len({str(point) for point in points}) == 20
    assert sum(TEMPERATURE not in point for point in points) == 1
    assert list(stage.distributions()) == [WEIGHT, TEMPERATURE]


def test_shuffled_is_a_deterministic_permutation() -> None:
    items = list(range(50))
    assert shuffled(items, 0, "student") == shuffled(items, 0, "student")
    assert sorted(shuffled(items, 0, "student")) == items
    assert shuffled(items, 0, "student") != shuffled(items, 0, "distill")
    assert shuffled(items, 0, "student") != shuffled(items, 1, "student")
    assert items == list(range(50))


# Identities


def test_equal_configurations_written_differently_have_one_id(tmp_path: Path) -> None:
    ids = {
        small(tmp_path, ("lr: 1e-2, weight_decay: 5e-4", written)).base.trial_id("student")
        for written in (
            "lr: 1e-2, weight_decay: 5e-4",
            "lr: 0.01, weight_decay: 0.0005",
            "weight_decay: 5.0e-4, lr: .01",
            "lr: '1e-2', weight_decay: 50E-5, momentum: 0.9",
        )
    }
    assert len(ids) == 1


def test_an_integer_where_a_number_is_meant_is_that_number(distilled: TrialConfig) -> None:
    assert (
        distilled.replace({"losses.pi.temperature": 2}).config_id
        == distilled.replace({"losses.pi.temperature": 2.0}).config_id
    )


def test_order_of_the_losses_does_not_matter(distilled: TrialConfig) -> None:
    pa = {"losses.pa": {"weight": 1.0}}
    one = distilled.replace(pa).replace({"losses.ifv": {"weight": 1.0}})
    other = distilled.replace({"losses.ifv": {"weight": 1.0}}).replace(pa)
    assert one.method == other.method == "pi+pa+ifv"
    assert one.config_id == other.config_id


def test_seed_is_in_the_trial_id_only(distilled: TrialConfig) -> None:
    other = distilled.replace({"seed": 7})
    assert other.config_id == distilled.config_id
    assert other.trial_id("distill") == f"distill-{distilled.config_id}-s7"


def test_threads_are_part_of_a_trial_and_without_them_ids_stay(tmp_path: Path, spec: StudySpec) -> None:
    """These ids are those from before a study had a number of threads."""
    made = {name: config.trial_id(name) for name, config in spec.templates().items()}
    assert made == {
        "student": "student-e97385bd92-s0",
        "distill": "distill-3354f48221-s0",
        "final": "final-e97385bd92-s0",
    }
    assert "threads" not in dump(spec)
    two = small(tmp_path, ("name: small", "name: small\nthreads: 2"))
    assert {config.threads for config in two.templates().values()} == {2}
    assert two.with_threads(spec.base) == two.template_starts(two.stages[0])["base"]
    assert not {config.config_id for config in two.templates().values()} & {
        config.config_id for config in spec.templates().values()
    }
    assert StudySpec.model_validate(yaml.safe_load(dump(two))) == two  # what a job is sent, and a launch leaves


def test_threads_in_the_base_are_refused(tmp_path: Path) -> None:
    faults, _ = read(write(tmp_path, ("base:", "base:\n  threads: 2")))
    (line,) = faults
    assert line.endswith(
        "small.yaml:3: base.threads: is one number for the whole study: it stands beside name and stages"
    )


@pytest.mark.parametrize(
    "change",
    [
        {LR: 0.02},
        {"recipe.flip": False},
        {"dataset.seed": 1},
        {"student.dropout": 0.2},
        {"losses.pi.convention": "cirkd"},
        {"teacher.checkpoint": "other"},
    ],
)
def test_every_part_is_in_the_config_id(distilled: TrialConfig, change: dict[str, Any]) -> None:
    assert distilled.replace(change).config_id != distilled.config_id


def test_ids_are_the_same_in_another_process(tmp_path: Path) -> None:
    """Text is hashed differently in every process; a trial that has run must be found again all the same."""
    spec = small(tmp_path)
    own = [config.trial_id(name) for name, config in spec.templates().items()]
    program = (
        "import sys; from kdtune.study.file import load_study\n"
        "for name, config in load_study(sys.argv[1]).templates().items(): print(config.trial_id(name))"
    )
    found = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "small.yaml")],
        env=os.environ | {"PYTHONHASHSEED": "12345"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout.split() == own


# Replacing


def test_templates_are_made_once_and_a_copy_has_its_own(spec: StudySpec, monkeypatch: pytest.MonkeyPatch) -> None:
    made = spec.templates()
    with monkeypatch.context() as patch:
        patch.setattr(TrialConfig, "replace", None)  # it would be called
        assert spec.templates() == made
    spec.templates().clear()
    assert spec.templates() == made
    copied = spec.model_copy(update={"threads": 3})
    assert {config.threads for config in copied.templates().values()} == {3}
    assert copied.model_copy(update={"threads": spec.threads}) == spec


def test_replace_leaves_the_original_alone(distilled: TrialConfig) -> None:
    before = distilled.model_dump_json()
    changed = distilled.replace({LR: 0.5, "losses.pi.temperature": 4, "student.width": 0.25})
    assert changed.at(LR) == 0.5
    assert changed.at("losses.pi.temperature") == 4
    assert distilled.model_dump_json() == before


def test_replace_does_not_reach_into_what_it_is_given(spec: StudySpec) -> None:
    """A part that a stage sets as a whole, and a path inside it that the grid sweeps."""
    part = {"weight": 0.1, "temperature": 1.0}
    spec.templates()["distill"].replace({"losses.pi": part, "losses.pi.temperature": 8})
    assert part == {"weight": 0.1, "temperature": 1.0}
    assert spec.stage("distill").set["losses.pi"] == {"weight": 0.1, "temperature": 1.0}


def test_replace_brings_in_what_is_absent(spec: StudySpec) -> None:
    assert spec.base.replace({"losses.ce.aux_weight": 0.0}).at("losses.ce.aux_weight") == 0.0
    brought = spec.templates()["distill"].replace({"losses.pa.weight": 0.5})
    assert brought.method == "pi+pa"


def test_configurations_are_frozen(distilled: TrialConfig) -> None:
    with pytest.raises(ValidationError, match="frozen"):
        distilled.recipe.lr = 1.0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"recipe.lrr": 1}, r"unknown key \(did you mean 'lr'\?\)"),
        ({"losses.cd.weight": 1}, "unknown loss 'cd'"),
        ({"recipe.lr": 0}, "greater than 0"),
        ({"recipe.lr": float("nan")}, "finite number"),
        ({"recipe.lr.x": 1}, "valid number"),
        ({"teacher": None}, "losses.pi needs a teacher, but teacher is null"),
    ],
)
def test_replace_validates(distilled: TrialConfig, change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        distilled.replace(change)


@pytest.mark.parametrize("path", ["nope", "recipe.lrr", "losses.pa.weight", "recipe.crop.0", "warm_start.checkpoint"])
def test_at_knows_only_paths_that_are_there(distilled: TrialConfig, path: str) -> None:
    with pytest.raises(KeyError):
        distilled.at(path)


# Maps that terms read


class Necked(Model):
    """A network of another package, with a map of its own name."""

    name: Literal["necked"] = "necked"
    tap_names: ClassVar[Sequence[Tap]] = ("layer4", "neck")


def test_both_networks_have_the_maps_that_terms_read(distilled: TrialConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MODELS.table, "necked", f"{__name__}:Necked")  # type: ignore[index]
    there = "stem, layer1, layer2, layer3, layer4, psp, logits, aux"
    told = f"but student has no tap 'layr4' .did you mean 'layer4'..; there are: {there}"
    with pytest.raises(ValidationError, match=told):
        distilled.replace({"losses.at": {"weight": 1.0, "tap": "layr4"}})
    at_neck = {"losses.at": {"weight": 1.0, "tap": "neck"}, "student": {"name": "necked"}}
    with pytest.raises(ValidationError, match=r"reads neck of the teacher, but teacher.model has no tap 'neck'"):
        distilled.replace(at_neck)
    both = distilled.replace({"teacher.model": {"name": "necked"}, **at_neck})
    assert both.losses["at"].taps == both.losses["at"].teacher_taps == {"neck"}
    with pytest.raises(ValidationError, match=r"reads psp of the student, .* there are: layer4, neck"):
        both.replace({"losses.at.tap": "psp"})


# Weight 0


def test_a_term_of_weight_zero_is_not_built(distilled: TrialConfig) -> None:
    config = distilled.replace({"losses.pi.weight": 0, "recipe.num_steps": 0})
    assert config.method == "student"
    assert not config.uses_teacher
    assert config.checkpoints() == {}
    with torch.random.fork_rng():
        ((_, state),) = run(config, Site())  # the teacher's file does not exist, and nobody asks for it
    assert list(state.losses) == ["ce"]


# What a study refuses, beyond what a file's test shows


def stage(**fields: Any) -> Stage:
    return Stage.model_validate({"name": "s", "samples": 3} | fields)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"search": "tpe", "grid": {LR: [1, 2]}, "seeds": [1, 2]}, "tpe takes one seed"),
        ({"search": "tpe", "grid": {LR: [1, 2]}, "start_from": ["a", "b"]}, "tpe takes one stage to start from"),
        ({"ranges": {LR: {"low": 1, "high": 2}}}, "ranges need search: random or tpe"),
        ({"search": "random"}, "needs a grid or ranges to draw from"),
        ({"search": "random", "samples": None, "grid": {LR: [1]}}, "needs samples"),
        ({"search": "random", "ranges": {LR: {"low": 2, "high": 1}}}, "low < high must hold"),
        ({"search": "random", "ranges": {LR: {"low": 0, "high": 1, "log": True}}}, "low > 0 if log"),
        ({"search": "random", "grid": {LR: [1]}, "ranges": {LR: {"low": 1, "high": 2}}}, "in the grid too"),
        ({"scheduler": "asha", "seeds": [1, 2]}, "scheduler must be none"),
        ({"grid": {LR: [1, 1.0]}}, "holds 1.0 twice"),
        ({"grid": {"seed": [1, 2]}}, "the stage's own list"),
        ({"set": {"seed": 1}}, "the stage's own list"),
        ({"grid": {"threads": [1, 2]}}, "one number for the whole study"),
        ({"seeds": [1, 1]}, "seeds must differ"),
        ({"seeds": [-1]}, "greater than or equal to 0"),
    ],
)
def test_a_stage_refuses(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        stage(**fields)


def study_of(spec: StudySpec, *stages: Stage) -> StudySpec:
    return StudySpec(name="s", base=spec.base, stages=stages)


@pytest.mark.filterwarnings("error")
def test_trials_that_are_judged_together(spec: StudySpec) -> None:
    grid: dict[str, Any] = {"grid": {"recipe.lr": [0.1, 0.2]}, "set": {"recipe.num_steps": 12}}
    own = {"name": "halving", "rungs": ["1/3", 0.5], "factor": 3}
    found = StudySpec(name="s", base=spec.base, stages=(stage(**grid),), scheduler=own)  # type: ignore[arg-type]
    assert found.scheduler_of(found.stages[0]) == "halving"
    assert successive_halving(found, found.stages[0]).factor == 3
    assert rungs_of(found, found.stages[0]) == (4, 6)
    assert StudySpec.model_validate(found.model_dump(mode="json")) == found
    named = found.model_copy(update={"stages": (stage(**grid, scheduler="halving"),), "scheduler": "asha"})
    assert rungs_of(named, named.stages[0]) == (3, 6)
    assert rungs_of(found.model_copy(update={"scheduler": "asha"}), found.stages[0]) == ()
    alone = found.model_copy(update={"stages": (stage(set={"recipe.num_steps": 12}),)})
    assert rungs_of(alone, alone.stages[0]) == ()
    tpe = stage(**grid, search="tpe", samples=2)
    with pytest.raises(ValidationError, match="halving judges all of them at once: give asha"):
        StudySpec(name="s", base=spec.base, stages=(tpe,), scheduler="halving")


def test_a_range_for_a_field_of_whole_numbers_is_refused(spec: StudySpec) -> None:
    whole = {"search": "random", "ranges": {"recipe.batch_size": {"low": 2, "high": 8}}}
    with pytest.raises(ValidationError, match="valid integer, got a number with a fractional part"):
        study_of(spec, stage(**whole))


def test_every_start_is_tried(spec: StudySpec) -> None:
    """A change that fits the first start and not the second."""
    distill = spec.stage("distill")
    last = Stage(name="last", start_from=("distill", "student"), set={"losses.pi.temperature": 3})
    with pytest.raises(ValidationError, match=r"losses\.pi\.weight: is missing"):
        study_of(spec, spec.stage("student"), distill, last)


def test_early_stopping_is_for_choices_on_one_seed(spec: StudySpec) -> None:
    again = Stage(name="again", start_from=("student",), seeds=(5,), scheduler="asha")
    study = study_of(spec, Stage(name="student", grid={LR: (1, 2)}), Stage(name="two", seeds=(1, 2)), again)
    assert [study.scheduler_of(stage) for stage in study.stages] == ["asha", "none", "none"]


def test_planned_trials_have_the_ids_of_their_configurations(spec: StudySpec) -> None:
    student = spec.stage("student")
    (first, _) = student.points(["base"], seed=0)
    planned = Planned("small", "student", "base", student.config({"base": spec.base}, first))
    assert planned.trial_id == spec.base.replace({LR: 0.1}).trial_id("student")


def test_how_long_a_stall_lasts_changes_no_trial(tmp_path: Path) -> None:
    """A study on storage from before the field was there has not changed either."""
    plain, given = small(tmp_path), small(tmp_path, ("name: small\n", "name: small\nstall_after: null\n"))
    assert (plain.stall_after, given.stall_after) == (120.0, None)
    ids = [{name: config.trial_id(name) for name, config in spec.templates().items()} for spec in (plain, given)]
    assert ids[0] == ids[1]
    now = plain.model_dump(mode="json")
    before = {key: value for key, value in now.items() if key != "stall_after"}
    assert differences(before, now) == differences(given.model_dump(mode="json"), now) == []


@pytest.mark.parametrize("gpus", [1, 2, 8.0, 0.5, 0.33, 1 / 3, 0.25, 0.2, 0.125, 0.1, 0.05])
def test_gpus_are_whole_or_divided_among_trials(gpus: float, tmp_path: Path) -> None:
    study = small(tmp_path)
    assert StudySpec.model_validate(study.model_dump() | {"gpus_per_trial": gpus}).gpus_per_trial == gpus


@pytest.mark.parametrize(
    ("gpus", "words"),
    [
        (0.4, "2 x 0.4 leaves 20 % of a GPU unused: give 0.33 or 0.5"),
        (0.3, "3 x 0.3 leaves 10 % of a GPU unused: give 0.25 or 0.33"),
        (0.7, "1 x 0.7 leaves 30 % of a GPU unused: give 0.5 or 1"),
        (1.5, "whole GPUs or a share of one, got 1.5: give 1 or 2"),
    ],
)
def test_shares_that_waste_a_gpu_are_refused(gpus: float, words: str, tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match=words):
        StudySpec.model_validate(small(tmp_path).model_dump() | {"gpus_per_trial": gpus})
