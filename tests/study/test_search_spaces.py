"""Every study that comes with kdtune: it loads, plans what the paper ran, and its first trials can be built."""

import functools
from typing import Any

import pytest
import torch
import yaml

from kdtune.answers.published import STUDIES, published
from kdtune.base import Model, SegNet
from kdtune.losses import LOSSES
from kdtune.study.file import dump, load_study, read, search_spaces, study_names
from kdtune.study.spec import StudySpec
from kdtune.study.stage import Stage
from kdtune.study.trial_config import STAGE_REFERENCE, TrialConfig

WEIGHTS = ("weight-pa", "weight-ho", "weight-ifv")
STAGES = ("student", "distill", "temperature", "weight-pi", *WEIGHTS, "final", "initialization")
TRIALS = {  # per stage, in the order of STAGES
    "cityscapes-resnet": (9, 9, 18, 4, 5, 4, 8, 15, 8),
    "cityscapes-effnet": (12, 12, 18, 4, 5, 4, 8, 15, 8),
    "voc-resnet": (9, 9, 18, 4, 5, 4, 8, 15, 8),
    "voc-effnet": (12, 12, 18, 4, 5, 4, 8, 15, 8),
    "ade20k-resnet": (9, 9, 6, 4, 5, 4, 8, 5, 2),
    "ade20k-effnet": (12, 12, 6, 4, 5, 4, 8, 5, 2),
}
PATHS = {
    "lr": "recipe.lr",
    "weight_decay": "recipe.weight_decay",
    "temperature": "losses.pi.temperature",
    **{f"lambda_{loss}": f"losses.{loss}.weight" for loss in ("pi", "pa", "ho", "ifv")},
}
NOT_IN_THE_PAPER = ("num_steps", "momentum", "scale_min", "scale_max", "scale_step", "flip", "losses.pi.weight")

study = functools.cache(load_study)


def plan(spec: StudySpec, stage: Stage) -> list[TrialConfig]:
    """Every trial of a stage, its starts being templates."""
    starts = spec.template_starts(stage)
    return [stage.config(starts, point) for point in stage.points(list(starts), spec.seed)]


@functools.cache
def built(model: Model, num_classes: int) -> SegNet:
    """A network without memory."""
    with torch.device("meta"):
        return model.build(num_classes)


def shapes(network: SegNet) -> dict[str, Any]:
    return {key: value.shape for key, value in network.state_dict().items()}


def test_the_papers_six_studies_are_there() -> None:
    assert set(STUDIES) == set(TRIALS)
    assert set(STUDIES) < set(study_names())


@pytest.mark.parametrize("name", study_names())
def test_says_what_it_is(name: str) -> None:
    spec = study(name)
    assert spec.name == name
    assert spec.description
    assert "\n" not in spec.description
    assert spec.needs_gpu == (name not in ("demo", "camvid-small", "camvid-terms", "demo-terms"))


@pytest.mark.parametrize("name", study_names())
def test_first_trials_build(name: str) -> None:
    """Student, teacher and losses of every stage, on the meta device."""
    spec = study(name)
    for stage in spec.stages:
        for start in spec.template_starts(stage):
            point = next(p for p in stage.points([start], spec.seed))
            config = stage.config(spec.template_starts(stage), point)
            classes = config.dataset.num_classes
            student = built(config.student, classes)
            teacher = built(config.teacher.model, classes) if config.teacher and config.uses_teacher else None
            with torch.device("meta"):
                losses = [term.build(student, teacher) for term in config.active_losses.values()]
            assert losses


@pytest.mark.parametrize("name", study_names())
def test_a_teacher_trained_here_fits_the_network_it_is_loaded_into(name: str) -> None:
    spec = study(name)
    made = spec.templates()
    for config in made.values():
        if config.teacher is not None and config.teacher.checkpoint.startswith(STAGE_REFERENCE):
            maker = made[config.teacher.checkpoint.removeprefix(STAGE_REFERENCE)]
            classes = config.dataset.num_classes
            assert shapes(built(maker.student, classes)) == shapes(built(config.teacher.model, classes))


@pytest.mark.parametrize("name", study_names())
def test_what_chooses_shares_no_seed_with_what_compares(name: str) -> None:
    spec = study(name)
    stages = {stage.name: stage for stage in spec.stages}
    for stage in spec.stages:
        if stage.repeats:
            chosen = {seed for ancestor in spec.ancestors(stage) for seed in stages[ancestor].seeds}
            assert not chosen & set(stage.seeds)
            assert spec.scheduler_of(stage) == "none"


@pytest.mark.parametrize("name", study_names())
def test_shown_with_every_default_it_is_the_same_study(name: str, tmp_path: Any) -> None:
    path = tmp_path / f"{name}.yaml"
    path.write_text(dump(study(name)))
    assert read(path) == ([], study(name))


@pytest.mark.parametrize(("name", "counts"), TRIALS.items())
def test_number_of_trials(name: str, counts: tuple[int, ...]) -> None:
    spec = study(name)
    assert {stage.name: len(plan(spec, stage)) for stage in spec.stages} == dict(zip(STAGES, counts, strict=True))


def test_number_of_trials_of_camvid() -> None:
    spec = study("camvid-resnet")
    counts = {stage.name: len(plan(spec, stage)) for stage in spec.stages}
    assert counts == {"teacher": 1} | dict(zip(STAGES, TRIALS["cityscapes-resnet"], strict=True))


SMALL = {  # teacher, pretrain, (untuned,) then as STAGES
    "demo": (1, 1, 9, 9, 6, 2, 2, 2, 2, 15, 4),
    "camvid-small": (1, 1, 5, 9, 9, 9, 3, 2, 2, 2, 25, 4),
}


@pytest.mark.parametrize(("name", "counts"), SMALL.items())
def test_number_of_trials_of_the_reduced_protocols(name: str, counts: tuple[int, ...]) -> None:
    spec = study(name)
    found = {stage.name: len(plan(spec, stage)) for stage in spec.stages}
    before = ["teacher", "pretrain", *(["untuned"] if name == "camvid-small" else [])]
    assert found == dict(zip([*before, *STAGES], counts, strict=True))


@pytest.mark.parametrize("name", TRIALS)
def test_trials_are_all_different(name: str) -> None:
    for stage in study(name).stages:
        ids = [config.trial_id(stage.name) for config in plan(study(name), stage)]
        assert len(set(ids)) == len(ids)


@pytest.mark.parametrize("name", TRIALS)
def test_seeds_of_the_papers_studies(name: str) -> None:
    several = {"temperature": (1, 2, 3), "final": (11, 12, 13), "initialization": (21, 22, 23, 24)}
    first_only = name.startswith("ade20k")  # the paper ran ADE20K once
    for stage in study(name).stages:
        seeds = several.get(stage.name, (0,))
        assert stage.seeds == (seeds[:1] if first_only else seeds)


@pytest.mark.parametrize("name", TRIALS)
def test_what_the_paper_says_of_every_trial(name: str) -> None:
    """Section 5.2 and the decisions on what it leaves open."""
    dataset, student = name.split("-")
    crop = 512 if dataset == "cityscapes" else 473
    for stage, config in study(name).templates().items():
        assert config.dataset.name == dataset
        assert config.student.model_dump()["backbone"] == {"resnet": "resnet18", "effnet": "efficientnet_b0"}[student]
        assert config.student.init == ("random" if stage == "initialization" else "imagenet")
        assert config.recipe.crop == (crop, crop)
        assert (config.recipe.batch_size, config.recipe.power, config.recipe.num_steps) == (8, 0.9, 40_000)
        if config.teacher is not None:
            teacher = config.teacher.model.model_dump()
            assert (teacher["backbone"], teacher["stem"]) == ("resnet101", "deep")
            assert teacher["variant"] == ("skd" if dataset == "cityscapes" else "semseg")
    assert study(name).templates()["distill"].at("losses.pi.weight") == 0.1


@pytest.mark.parametrize("name", [*TRIALS, *SMALL])
def test_methods_of_the_final_comparison(name: str) -> None:
    spec = study(name)
    methods = [config.method for config in plan(spec, spec.stage("final"))]
    assert list(dict.fromkeys(methods)) == ["student", "pi", "pi+pa", "pi+ho", "pi+ifv"]


@pytest.mark.parametrize("name", TRIALS)
def test_published_optima_lie_on_the_grids(name: str) -> None:
    spec = study(name)
    for row in published(name, "optimal").to_pylist():
        stage = spec.stage(row["stage"])
        family = [stage, *(spec.stage(ancestor) for ancestor in spec.ancestors(stage))]
        for column, path in PATHS.items():
            if row.get(column) is not None:
                swept = {value for member in family for value in member.grid.get(path, ())}
                fixed = spec.templates()[stage.name].at(path)
                assert row[column] in swept | {fixed}, f"{stage.name}: {path}"


@pytest.mark.parametrize("name", TRIALS)
def test_grids_are_the_published_ones(name: str) -> None:
    spec = study(name)
    temperatures = published(name, "temperature")["temperature"].to_pylist()
    assert list(spec.stage("temperature").grid["losses.pi.temperature"]) == temperatures
    if name.startswith("cityscapes"):  # the only dataset whose grids the paper prints
        for stage in ("student", "distill"):
            rows = [row for row in published(name, "grid").to_pylist() if row["stage"] == stage]
            swept = {(config.recipe.lr, config.recipe.weight_decay) for config in plan(spec, spec.stage(stage))}
            assert swept == {(row["lr"], row["weight_decay"]) for row in rows}
    as_cityscapes = f"cityscapes-{name.split('-')[1]}"
    rows = published(as_cityscapes, "weights").to_pylist()
    for loss in ("pa", "ho", "ifv"):
        weights = [row[f"lambda_{loss}"] for row in rows if row.get(f"lambda_{loss}") is not None]
        assert sorted(spec.stage(f"weight-{loss}").grid[f"losses.{loss}.weight"]) == sorted(weights)


@pytest.mark.parametrize("name", TRIALS)
def test_what_the_paper_does_not_print_is_marked(name: str) -> None:
    lines = (search_spaces() / f"{name}.yaml").read_text().splitlines()
    for key in NOT_IN_THE_PAPER:
        line = next(line for line in lines if line.strip().startswith(f"{key}:"))
        assert "# not in the paper" in line


@pytest.mark.parametrize("name", TRIALS)
def test_the_papers_own_order_is_one_line_away(name: str, tmp_path: Any) -> None:
    """The deviation's comment gives the line; with it in the three stages the study is valid, of equal size."""
    text = (search_spaces() / f"{name}.yaml").read_text()
    assert text.count("#   start_from: [distill]") == 1
    data = yaml.safe_load(text)
    for stage in data["stages"]:
        if stage["name"] in WEIGHTS:
            assert stage["start_from"] == ["weight-pi"]
            stage["start_from"] = ["distill"]
    path = tmp_path / "restored.yaml"
    path.write_text(yaml.safe_dump(data))
    faults, restored = read(path)
    assert restored is not None, faults
    for stage_name in WEIGHTS:
        stage = restored.stage(stage_name)
        assert len(plan(restored, stage)) == len(plan(study(name), study(name).stage(stage_name)))
        assert all(config.at("losses.pi.temperature") == 1 for config in plan(restored, stage))


TERMS = {  # weights of each term, groups of terms, trials in all
    "cityscapes-resnet-terms": (5, 10, 374),
    "voc-resnet-terms": (5, 10, 374),
    "ade20k-resnet-terms": (5, 10, 374),
    "camvid-terms": (3, 10, 276),
    "demo-terms": (1, 1, 111),
}


COMPARED = {stage.name.removeprefix("weight-").replace("-", "_") for stage in study("demo-terms").stages} & {
    *LOSSES.table
}


@pytest.mark.parametrize(("name", "sizes"), TERMS.items())
def test_terms_are_compared_with_one_budget_and_by_name(name: str, sizes: tuple[int, int, int]) -> None:
    spec, (weights, groups, trials) = study(name), sizes
    own = [stage for stage in spec.stages if stage.name.startswith("weight-")]
    alone = [stage for stage in own if stage.grid]
    terms = [next(iter(stage.grid)).split(".")[1] for stage in alone]
    assert terms == [name for name in LOSSES.table if name in COMPARED]
    assert len(terms) == len(COMPARED) == 31
    assert [stage.name for stage in alone] == [f"weight-{term.replace('_', '-')}" for term in terms]
    assert {spec.num_trials(stage) for stage in alone} == {weights}
    assert {stage.start_from for stage in own} == {("temperature",)}
    assert len(own) - len(alone) == groups
    final = spec.stage("final")
    assert final.start_from == ("student", "untuned", *(stage.name for stage in own))
    assert final.longer == "student"
    methods = [config.method for config in plan(spec, final)][:: len(final.seeds)]
    assert methods[: len(terms) + 2] == ["student", "untuned", *terms]
    assert len(set(methods)) == len(methods) == len(own) + 2
    untuned = spec.templates()["untuned"].recipe
    assert (untuned.lr, untuned.weight_decay) == (1e-2, 5e-4)
    assert sum(spec.num_trials(stage) for stage in spec.stages) == trials


def test_weights_of_terms_lie_around_the_published_ones() -> None:
    spec = study("cityscapes-resnet-terms")
    for name in COMPARED:
        published = LOSSES.resolve(name).published_weight
        middle = spec.stage(f"weight-{name.replace('_', '-')}").grid[f"losses.{name}.weight"][2]
        assert middle == pytest.approx(published.weight if published else 1.0, rel=1e-5)


def test_camvid_is_whole_images_and_a_teacher_of_its_own() -> None:
    spec = study("camvid-resnet")
    made = spec.templates()
    assert spec.stages[0].name == "teacher"
    assert made["teacher"].student.model_dump()["backbone"] == "resnet101"
    assert made["teacher"].method == "student"
    assert made["student"].dataset.model_dump()["size"] is None
    assert made["student"].dataset.num_classes == 11
    assert made["distill"].checkpoints() == {"teacher.checkpoint": "stage:teacher"}
