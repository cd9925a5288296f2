"""Study files: every fault is one exact line with file, line, field and what is allowed; ``--set`` on what is valid."""

import re
from pathlib import Path
from typing import Any

import pytest

from kdtune.base import UserError
from kdtune.losses import LOSSES
from kdtune.study.file import dump, find, load_study, read, study_names
from kdtune.study.settings import kept_searches, override, parse_set
from kdtune.study.spec import StudySpec
from tests.support.small_study import TEXT, small, write

TOP = (
    "name, description, needs_gpu, seed, scheduler, halving, select_on, gpus_per_trial, max_concurrent, threads, "
    "stall_after, country_iso_code, base, stages"
)
RECIPE = (
    "lr, weight_decay, momentum, power, num_steps, budget, batch_size, crop, scale_min, scale_max, scale_step, flip, "
    "eval_every, eval_batch_size, eval_window, absent_classes, bf16, channels_last, compile"
)
STAGE = (
    "name, start_from, set, grid, together, extend, budget, when, longer, ranges, search, samples, seeds, added_seeds, "
    "scheduler, labels"
)
GRID = "recipe.lr: [1e-1, 1e-2]"
RANDOM = "grid:\n      recipe.lr: [1e-1, 1e-2]"
MAPPING = "a study is a mapping with name, base and stages; see `kdtune studies show demo`"


@pytest.fixture
def spec(tmp_path: Path) -> StudySpec:
    return small(tmp_path)


def faults(path: Path) -> list[str]:
    """The file's faults, without its folder."""
    found, spec = read(path)
    assert (spec is None) == bool(found)
    assert all("\n" not in line for line in found)
    return [line.removeprefix(f"{path.parent}/") for line in found]


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        # keys
        ("name: small", "nmae: small", f"1: nmae: unknown key (did you mean 'name'?); allowed: {TOP}"),
        ("{lr: 1e-2", "{rate: 1", f"7: base.recipe.rate: unknown key; allowed: {RECIPE}"),
        ("lr: 1e-2", "l_r: 1", f"7: base.recipe.l_r: unknown key (did you mean 'lr'?); allowed: {RECIPE}"),
        (
            "{weight: 1.0}",
            "{weight: 1, wait: 2}",
            "6: base.losses.ce.wait: unknown key (did you mean 'weight'?); allowed: weight, aux_weight",
        ),
        (RANDOM, "gird: 1", f"11: stages[student].gird: unknown key (did you mean 'grid'?); allowed: {STAGE}"),
        (
            "width: 0.125}",
            "widht: 1}",
            "4: base.student.widht: unknown key (did you mean 'width'?); "
            "allowed: name, init, preprocessing, backbone, stem, variant, width, dropout",
        ),
        (
            "num_train",
            "number",
            "3: base.dataset.number: unknown key (did you mean 'name'?); allowed: name, size, num_train, num_val, seed",
        ),
        ("{weight: 1.0}", "{}", "6: base.losses.ce.weight: is missing"),
        # types
        (
            "{weight: 1.0}",
            "{weight: 1.0}\n  seed: 4294967296",
            "7: base.seed: input should be less than 4294967296; got 4294967296",
        ),
        (
            "batch_size: 2",
            "batch_size: 1",
            "2: base: recipe.batch_size is 1: PSPNet pools each image to one cell, and batch norm cannot train on a "
            "single value; take 2 or more",
        ),
        (
            "[11, 12]",
            "[11, 4294967296]",
            "21: stages[final].seeds[1]: input should be less than 4294967296; got 4294967296",
        ),
        (
            "lr: 1e-2",
            "lr: fast",
            "7: base.recipe.lr: input should be a valid number, unable to parse string as a number; got 'fast'",
        ),
        (
            "num_steps: 2",
            "num_steps: 2.5",
            "7: base.recipe.num_steps: input should be a valid integer, got a number with a fractional part; got 2.5",
        ),
        ("crop: [32, 48]", "crop: 32", "7: base.recipe.crop: needs a list, e.g. [1, 2]; got 32"),
        ("crop: [32, 48]", "crop: [32]", "7: base.recipe.crop[1]: is missing"),
        (
            "seeds: [11, 12]",
            "labels: [a]",
            "21: stages[final].labels: needs a mapping, e.g. {ray.io/accelerator-type: H100}; got ['a']",
        ),
        ("ce: {weight: 1.0}", "ce: 1.0", "6: base.losses.ce: needs a mapping of: weight, aux_weight; got 1.0"),
        ("[student, distill]", "student", "20: stages[final].start_from: needs a list, e.g. [1, 2]; got 'student'"),
        ("seeds: [11, 12]", "seeds: 11", "21: stages[final].seeds: needs a list, e.g. [1, 2]; got 11"),
        ("name: small", "name: 3", "1: name: input should be a valid string; got 3"),
        # ranges of values
        ("lr: 1e-2", "lr: -1", "7: base.recipe.lr: input should be greater than 0; got -1"),
        ("lr: 1e-2", "lr: .inf", "7: base.recipe.lr: input should be a finite number; got inf"),
        ("batch_size: 2", "batch_size: 0", "7: base.recipe.batch_size: input should be greater than 0; got 0"),
        ("batch_size: 2", "scale_min: 3", "7: base.recipe: scale_min <= scale_max must hold, got 3.0 and 2.1"),
        (
            "{weight: 1.0}",
            "{weight: -1}",
            "6: base.losses.ce.weight: input should be greater than or equal to 0; got -1",
        ),
        ("{weight: 1.0}", "{weight: 0}", "2: base: losses has no term with a weight above 0"),
        ("name: small", "name: small\nhalving: {grace: 2}", "2: halving.grace: input should be less than 1; got 2"),
        (
            "name: small",
            "name: small\nscheduler: ahsa",
            "2: scheduler: input should be 'asha', 'halving', 'median' or 'none'; got 'ahsa'",
        ),
        (
            "name: small",
            "name: small\nscheduler: {name: asha}",
            "2: scheduler.name: input should be 'halving'; got 'asha'",
        ),
        (
            "name: small",
            "name: small\nscheduler: {name: halving, rungs: [1/2, 3/2]}",
            "2: scheduler.rungs[1]: input should be less than 1; got '3/2'",
        ),
        (
            "name: small",
            "name: small\nscheduler: {rungs: [1/2, 1/3]}",
            "2: scheduler: rungs must rise, got [0.5, 0.3333333333333333]",
        ),
        # names
        (
            "{name: demo",
            "{name: dmo",
            "3: base.dataset.name: unknown dataset 'dmo' (did you mean 'demo'?); there are: demo, camvid, "
            "cityscapes, voc, ade20k, folder",
        ),
        (
            "name: demo, size: [32, 48], num_train: 4, num_val: 2",
            "size: 3",
            "3: base.dataset: needs a mapping with a 'name', one of: demo, camvid, cityscapes, voc, ade20k, folder, or "
            "its FILE.yaml; got {'size': 3}",
        ),
        (
            "{name: pspnet, backbone: resnet18, width: 0.125}",
            "{name: pspent}",
            "4: base.student.name: unknown model 'pspent' (did you mean 'pspnet'?); there are: pspnet, external",
        ),
        (
            "resnet18, width: 0.125",
            "resnet19",
            "4: base.student.backbone: input should be 'resnet18', 'resnet34', 'resnet50', 'resnet101', "
            "'efficientnet_b0' or 'mobilenet_v3_large'; got 'resnet19'",
        ),
        (
            "ce: {weight: 1.0}",
            "cee: {weight: 1.0}",
            "6: base.losses.cee: unknown loss 'cee' (did you mean 'ce'?); there are: " + ", ".join(LOSSES.table),
        ),
        (
            "[student, distill]",
            "[studnet]",
            "20: stages[final].start_from[0]: starts from unknown stage 'studnet' (did you mean 'student'?); "
            "earlier stages: student, distill",
        ),
        (
            "- name: distill",
            "- name: distill\n    when: {stage: student, beats: studnet}",
            "14: stages[distill].when.beats: is unknown stage 'studnet' (did you mean 'student'?); earlier stages: "
            "student",
        ),
        (
            "- name: distill",
            "- name: distill\n    start_from: [final]",
            "14: stages[distill].start_from[0]: starts from unknown stage 'final'; earlier stages: student",
        ),
        (
            "- name: student",
            "- name: student\n    start_from: [final]",
            "11: stages[student].start_from[0]: starts from unknown stage 'final'; earlier stages: none, it is "
            "the first",
        ),
        ("- name: final", "- name: student", "19: stages[student].name: 'student' is the name of two stages"),
        (
            "- name: final",
            "- name: Final",
            "19: stages[Final].name: string should match pattern '^[a-z][a-z0-9]*(-[a-z0-9]+)*$'; got 'Final'",
        ),
        # grids, set, ranges
        (
            GRID,
            "recipe.lr: []",
            "12: stages[student].grid.recipe.lr: has no values; a grid needs at least one, e.g. [1, 2]",
        ),
        (GRID, "recipe.lr: 1e-1", "12: stages[student].grid.recipe.lr: needs a list, e.g. [1, 2]; got 0.1"),
        (GRID, "recipe.lr: [0.1, 1e-1]", "12: stages[student].grid.recipe.lr: holds 0.1 twice"),
        (
            GRID,
            "recipe.lr: [1, 2, -3]",
            "12: stages[student].grid.recipe.lr[2]: input should be greater than 0; got -3",
        ),
        (
            GRID,
            "recipe.lrr: [1]",
            f"12: stages[student].grid.recipe.lrr: unknown key (did you mean 'lr'?); allowed: {RECIPE}",
        ),
        (
            GRID,
            "recip.lr: [1]",
            "12: stages[student].grid.recip.lr: recip: unknown key (did you mean 'recipe'?); allowed: dataset, "
            "student, teacher, warm_start, losses, recipe, seed, threads, variant, select_on, evaluated_on",
        ),
        (
            GRID,
            "losses.p.weight: [1]",
            "12: stages[student].grid.losses.p.weight: losses.p: unknown loss 'p' (did you mean 'pi'?); there "
            "are: " + ", ".join(LOSSES.table),
        ),
        (
            GRID,
            "losses.pi.weight: [0, 1]",
            "12: stages[student].grid.losses.pi.weight[1]: losses.pi needs a teacher, but teacher is null",
        ),
        (
            GRID,
            "seed: [1, 2]",
            "12: stages[student].grid.seed: seeds stand in the stage's own list, e.g. seeds: [1, 2, 3]",
        ),
        (
            "temperature: 1.0}",
            "temprature: 1.0}",
            "16: stages[distill].set.losses.pi: losses.pi.temprature: unknown key (did you mean 'temperature'?); "
            "allowed: weight, temperature, convention, upsample",
        ),
        (
            "losses.pi: {weight: 0.1, temperature: 1.0}",
            "losses.pi: {}",
            "16: stages[distill].set.losses.pi: losses.pi.weight: is missing",
        ),
        (
            RANDOM,
            "ranges:\n      recipe.lr: {low: 1, high: 2}",
            "10: stages[student]: ranges need search: random or tpe, with samples, here or as --search tpe --samples N",
        ),
        (
            RANDOM,
            "search: random\n    samples: 2\n    ranges:\n      recipe.lr: {low: 2, high: 1}",
            "14: stages[student].ranges.recipe.lr: low < high must hold, and low > 0 if log, got low=2.0, high=1.0",
        ),
        (
            RANDOM,
            "search: random\n    samples: 0\n    grid: {recipe.lr: [1]}",
            "12: stages[student].samples: input should be greater than 0; got 0",
        ),
        # teacher
        (
            "model: {name: pspnet, backbone: resnet18, width: 0.25}, ",
            "",
            "15: stages[distill].set.teacher: teacher.model: is missing",
        ),
        (
            "checkpoint: t.safetensors",
            "checkpoint: 'stage:studnet'",
            "15: stages[distill].set.teacher: teacher.checkpoint is made by unknown stage 'studnet' (did you "
            "mean 'student'?); earlier stages: student",
        ),
        (
            "checkpoint: t.safetensors",
            "checkpoint: 'stage:distill'",
            "15: stages[distill].set.teacher: teacher.checkpoint is made by unknown stage 'distill'; earlier "
            "stages: student",
        ),
        # seeds and early stopping
        ("[11, 12]", "[11, 11]", "19: stages[final]: seeds must differ, got [11, 11]"),
        ("[11, 12]", "[]", "21: stages[final].seeds: needs at least one value; got []"),
        (
            "[11, 12]",
            "[11, 12]\n    scheduler: asha",
            "19: stages[final]: a stage of several seeds runs without early stopping: scheduler must be none",
        ),
        # YAML itself
        ("name: small", "name: small\nname: other", "2: name: this key stands here twice"),
        ("{weight: 1.0}", "{weight: 1.0, weight: 2}", "6: weight: this key stands here twice"),
        ("name: small", "name: small\n1: 2", "2: '1' is no key: keys are text"),
        ("name: small", "name: [small", "2: not valid YAML: expected ',' or ']', but got ':'"),
        (
            "name: small",
            "\tname: small",
            "1: not valid YAML: found character '\\t' that cannot start any token; indent with spaces",
        ),
        (
            "name: small",
            "name: !python/name:os.system",
            "1: not valid YAML: could not determine a constructor for the tag '!python/name:os.system'",
        ),
        ("name: small", "name: *it", "1: not valid YAML: found undefined alias 'it'"),
        ("name: small", "name: sm\x07all", "1: not valid YAML: special characters are not allowed: character #x0007"),
        ("name: small", "name: &me [*me]", "1: this part contains itself"),
    ],
)
def test_a_fault_is_one_exact_line(tmp_path: Path, old: str, new: str, line: str) -> None:
    assert faults(write(tmp_path, (old, new))) == [f"small.yaml:{line}"]


@pytest.mark.parametrize("text", ["", "- a\n- b\n", "just text"])
def test_a_file_that_is_no_mapping(tmp_path: Path, text: str) -> None:
    assert faults(write(tmp_path, text=text)) == [f"small.yaml:1: {MAPPING}"]


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    path = tmp_path / "small.yaml"
    path.write_bytes(b"name: \xff\xfe")
    assert faults(path) == ["small.yaml: cannot be read: not text in UTF-8"]


def test_a_loss_without_its_teacher(tmp_path: Path) -> None:
    teacher = next(line for line in TEXT.splitlines(keepends=True) if "teacher:" in line)
    assert faults(write(tmp_path, (teacher, ""))) == [
        "small.yaml:13: stages[distill]: losses.pi needs a teacher, but teacher is null"
    ]


def test_final_names_every_stage_whose_seed_it_shares(tmp_path: Path) -> None:
    assert faults(write(tmp_path, ("[11, 12]", "[0, 12]"))) == [
        "small.yaml:21: stages[final].seeds: shares seed 0 with stage 'distill' and 'student', whose choice it "
        "repeats; take other seeds",
    ]


def test_a_stage_that_repeats_gets_seeds_that_no_stage_before_has(tmp_path: Path) -> None:
    after = "    start_from: [student, distill]\n  - {name: last, start_from: [final]}\n"
    path = write(tmp_path, ("    start_from: [student, distill]\n    seeds: [11, 12]\n", after))
    spec = load_study(path)
    assert [stage.seeds for stage in spec.stages] == [(0,), (0,), (1, 2, 3), (4, 5, 6)]
    assert "seeds:\n  - 1\n  - 2\n  - 3\n" in dump(spec)
    assert StudySpec.model_validate(spec.model_dump(mode="json")) == spec


def test_a_name_that_two_stages_have_is_all_that_is_said(tmp_path: Path) -> None:
    assert faults(write(tmp_path, ("- name: distill", "- name: student"))) == [
        "small.yaml:13: stages[student].name: 'student' is the name of two stages"
    ]


SHARED = "stages[final].seeds: shares seed {} with stage '{}', whose choice it repeats; take other seeds"
MAKER = """\
stages:
  - name: maker
    seeds: [{seeds}]{more}
"""
WARM = (
    "  recipe: {lr: 1e-2, weight_decay: 5e-4,",
    '  warm_start: {checkpoint: "stage:maker"}\n  recipe: {lr: 1e-2, weight_decay: 5e-4,',
)
CHOICE = "\n    set: {warm_start: null}\n    grid: {recipe.lr: [1e-1, 1e-2]}"


def test_final_shares_no_seed_with_what_chose_the_weights_that_it_starts_with(tmp_path: Path) -> None:
    chosen = MAKER.format(seeds=12, more=CHOICE)
    assert [fault.partition(": ")[2] for fault in faults(write(tmp_path, WARM, ("stages:\n", chosen)))] == [
        SHARED.format(12, "maker")
    ]
    assert not faults(write(tmp_path, WARM, ("stages:\n", MAKER.format(seeds=5, more=CHOICE))))
    single = MAKER.format(seeds=12, more="\n    set: {warm_start: null}")
    assert not faults(write(tmp_path, WARM, ("stages:\n", single)))  # one run: nothing was chosen


def test_final_shares_no_seed_with_what_lies_behind_its_weights(tmp_path: Path) -> None:
    """The teacher is a single run of what a search chose, on a seed of the comparison."""
    before = MAKER.format(seeds=11, more=CHOICE.replace("set: {warm_start: null}", "scheduler: none"))
    before += "  - name: teacher\n    start_from: [maker]\n    seeds: [7]\n"
    path = write(tmp_path, ("stages:\n", before), ("t.safetensors", '"stage:teacher"'))
    assert [fault.partition(": ")[2] for fault in faults(path)] == [SHARED.format(11, "maker")]


@pytest.mark.parametrize(
    "search",
    [
        "grid: {recipe.lr: [1e-1, 1e-2]}",
        "grid: {recipe.lr: [1e-1]}",
        "search: random\n    samples: 3\n    ranges: {recipe.lr: {low: 0.1, high: 1}}",
    ],
)
def test_final_does_not_search(tmp_path: Path, search: str) -> None:
    (fault,) = faults(write(tmp_path, ("    seeds: [11, 12]", f"    {search}\n    seeds: [11, 12]")))
    section = "grid" if "grid" in search else "ranges"
    assert f"stages[final].{section}: stage 'final' compares choices on seeds that made none" in fault
    assert "name that in start_from" in fault


def test_weights_that_lead_in_a_circle_are_told_as_such(tmp_path: Path) -> None:
    circle = MAKER.format(seeds=5, more='\n    set: {warm_start: {checkpoint: "stage:other"}}')
    circle += '  - name: other\n    start_from: [maker]\n    set: {warm_start: {checkpoint: "stage:maker"}}\n'
    assert any("is made by unknown stage 'other'" in fault for fault in faults(write(tmp_path, ("stages:\n", circle))))


@pytest.mark.parametrize(
    ("changes", "lines"),
    [
        (  # a stage that starts from none that is there, and has a value that is none
            [("start_from: [student, distill]", "start_from: [student, distil]\n    set: {recipe.lrr: 1}")],
            ["start_from[1]: starts from unknown stage 'distil'", "set.recipe.lrr: unknown key"],
        ),
        (  # two stages of one name, and a value
            [("- name: distill", "- name: student"), ("recipe.lr: [", "recipe.lr: [-1, ")],
            ["name: 'student' is the name of two stages", "grid.recipe.lr: input should be greater than 0; got -1"],
        ),
        (  # a value of the base, and a name
            [("lr: 1e-2", "lr: -1"), ("start_from: [student, distill]", "start_from: [student, distil]")],
            ["base.recipe.lr: input should be greater than 0; got -1", "starts from unknown stage 'distil'"],
        ),
    ],
)
def test_no_fault_hides_another(tmp_path: Path, changes: list[tuple[str, str]], lines: list[str]) -> None:
    found = faults(write(tmp_path, *changes))
    assert len(found) == len(lines)
    assert [words for words in lines if not any(words in line for line in found)] == []


def test_all_faults_are_told_and_loading_tells_the_first(tmp_path: Path) -> None:
    path = write(tmp_path, ("lr: 1e-2", "lr: -1"), ("batch_size: 2", "batch_size: 0"))
    first, second = faults(path)
    assert first == "small.yaml:7: base.recipe.lr: input should be greater than 0; got -1"
    assert second == "small.yaml:7: base.recipe.batch_size: input should be greater than 0; got 0"
    with pytest.raises(UserError) as caught:
        load_study(path)
    assert str(caught.value) == f"{path.parent}/{first} (and 1 more: kdtune studies validate {path})"


def test_an_unknown_study_lists_those_there_are() -> None:
    with pytest.raises(UserError) as caught:
        find("citiscapes-resnet")
    line = "unknown study 'citiscapes-resnet' (did you mean 'cityscapes-resnet'?); there are: "
    assert str(caught.value) == line + ", ".join(study_names())


def test_a_study_file_that_is_not_there(tmp_path: Path) -> None:
    for name in ("none.yaml", "folder.yaml"):
        (tmp_path / "folder.yaml").mkdir(exist_ok=True)
        with pytest.raises(UserError, match=rf"/{name}: no such study file; give a path to a YAML file or one of: "):
            load_study(tmp_path / name)


# Numbers


@pytest.mark.parametrize("written", ["1e-4", "1E-4", "1.e-4", ".1e-3", "1.0e-4", "+1e-4", "0.0001"])
def test_a_number_is_a_number_everywhere(tmp_path: Path, written: str) -> None:
    spec = small(tmp_path, ("lr: 1e-2", f"lr: {written}"), (GRID, f"recipe.lr: [{written}, 1e-2]"))
    assert spec.base.recipe.lr == 1e-4
    (point, _) = spec.stages[0].points(["base"], seed=0)
    assert isinstance(point["recipe.lr"], float)
    assert point["recipe.lr"] == 1e-4
    assert spec.stages[0].config({"base": spec.base}, point).config_id == spec.base.config_id
    assert parse_set([f"recipe.lr={written}"]) == {"recipe.lr": 1e-4}


def test_text_that_looks_like_a_number_stays_text(tmp_path: Path) -> None:
    spec = small(tmp_path, ("name: small", "name: small\ndescription: '1e-4'"))
    assert spec.description == "1e-4"


def test_dump_and_read_again(tmp_path: Path, spec: StudySpec) -> None:
    assert read(write(tmp_path, text=dump(spec))) == ([], spec)


# --set


@pytest.mark.parametrize(
    ("assignments", "line"),
    [
        (["recipe.num_stesp=1"], "--set recipe.num_stesp: no stage has this path (did you mean 'recipe.num_steps'?)"),
        (["nope.x=1"], "--set nope.x: no stage has this path"),
        (["losses.pi.wait=1"], "--set losses.pi.wait: no stage has this path (did you mean 'losses.pi.weight'?)"),
        (["losses.pa.weight=1"], "--set losses.pa.weight: no stage has this path (did you mean 'losses.pi.weight'?)"),
        (["recipe.num_steps"], "--set recipe.num_steps: needs PATH=VALUE, e.g. --set recipe.num_steps=2000"),
        (["=3"], "--set =3: needs PATH=VALUE, e.g. --set recipe.num_steps=2000"),
        (["recipe.lr=[1"], "--set recipe.lr=[1: not valid YAML: expected ',' or ']', but got '<stream end>'"),
        (
            ["recipe.lr=!!python/object/apply:os.system [true]"],
            "--set recipe.lr=!!python/object/apply:os.system [true]: not valid YAML: could not determine a constructor "
            "for the tag 'tag:yaml.org,2002:python/object/apply:os.system'",
        ),
        *(
            (
                [f"student={value}"],
                f"--set student={value}: the value must be a number, a word or a flat list of them; set a part's "
                "fields one by one, e.g. --set student.width=0.5, or change the study's file",
            )
            for value in ("{width: 1}", "[[1]]", "[{}]")
        ),
        (["threads=4"], "--set threads: one number for the whole study: give --threads N"),
        (["seed=4"], "--set seed: a stage's seeds are its own list; change `seeds` in the study's file"),
        (
            ["recipe.num_steps=-1"],
            "--set recipe.num_steps=-1: input should be greater than or equal to 0; got -1 (stage 'student')",
        ),
        (
            ["recipe.batch_size=4", "recipe.power=x"],
            "--set recipe.power=x: input should be a valid number, unable to parse string as a number; got 'x' "
            "(stage 'student')",
        ),
        (
            ["recipe.lr=-1"],
            "--set recipe.lr=-1: input should be greater than 0; got -1 (stage 'distill')",  # swept in `student`
        ),
        (["teacher=null"], "--set teacher=null: losses.pi needs a teacher, but teacher is null (stage 'distill')"),
        (
            ["student.backbone=resnet19"],
            "--set student.backbone=resnet19: input should be 'resnet18', 'resnet34', 'resnet50', 'resnet101', "
            "'efficientnet_b0' or 'mobilenet_v3_large'; got 'resnet19' (stage 'student')",
        ),
    ],
)
def test_a_bad_set_is_one_exact_line(spec: StudySpec, assignments: list[str], line: str) -> None:
    with pytest.raises(UserError) as caught:
        override(spec, parse_set(assignments))
    assert str(caught.value) == line


@pytest.mark.parametrize(
    ("value", "meaning"),
    [("null", None), ("", None), ("[32, 32]", [32, 32]), ("true", True), ("a=b", "a=b"), ("x", "x"), ("3", 3)],
)
def test_values_are_yaml(value: str, meaning: Any) -> None:
    assert parse_set([f"path={value}"]) == {"path": meaning}


def values(spec: StudySpec, path: str) -> dict[str, set[Any]]:
    """What every trial of every stage that has the path has there."""
    found: dict[str, set[Any]] = {}
    for stage in spec.stages:
        starts = spec.template_starts(stage)
        for point in stage.points(list(starts), spec.seed):
            config = stage.config(starts, point)
            try:
                value = config.at(path)
            except KeyError:
                continue
            found.setdefault(stage.name, set()).add(value)
    return found


def test_set_reaches_every_stage(spec: StudySpec) -> None:
    changed = override(spec, parse_set(["recipe.num_steps=7", "recipe.batch_size=3"]))
    assert values(changed, "recipe.num_steps") == {"student": {7}, "distill": {7}, "final": {7}}
    assert values(changed, "recipe.batch_size") == {"student": {3}, "distill": {3}, "final": {3}}
    assert (changed.base.recipe.num_steps, changed.base.recipe.batch_size) == (7, 3)


def test_a_swept_value_wins_over_set(spec: StudySpec) -> None:
    changes = parse_set(["recipe.lr=0.5"])
    changed = override(spec, changes)
    assert values(changed, "recipe.lr") == {"student": {0.1, 0.01}, "distill": {0.5}, "final": {0.1, 0.5}}
    assert [*kept_searches(spec, changes)] == [
        "--set recipe.lr=0.5: in stage distill only; student searches it, and final starts from what is found"
    ]


@pytest.mark.parametrize("search", ["", "\n    search: tpe\n    samples: 2", "\n    search: random\n    samples: 2"])
def test_what_a_search_has_found_is_not_set_again(tmp_path: Path, search: str) -> None:
    """A grid over the rate, and ``final`` from its winner: whatever the value, ``final`` trains at the winner's."""
    spec = small(
        tmp_path, ("recipe.lr: [1e-1, 1e-2]", f"recipe.lr: [1e-1, 1e-2]{search}"), ("[student, distill]", "[student]")
    )
    changed = override(spec, {"recipe.lr": 0.001, "recipe.momentum": 0.5})
    assert changed.stage("final") == spec.stage("final").model_copy(update={"set": {"recipe.momentum": 0.5}})
    assert changed.stage("student").grid == spec.stage("student").grid
    assert changed.templates()["distill"].recipe.lr == 0.001
    final = {stage.name: stage.set for stage in changed.stages}["final"]
    assert "recipe.lr" not in final


def test_a_stages_own_value_is_no_searchs(tmp_path: Path) -> None:
    """``final`` sets the rate itself: there another value takes its place, as in any other stage."""
    spec = small(tmp_path, ("    seeds: [11, 12]", "    seeds: [11, 12]\n    set: {recipe.lr: 0.3}"))
    assert values(override(spec, {"recipe.lr": 0.5}), "recipe.lr")["final"] == {0.5}


NETWORK = "{{name: pspnet, backbone: resnet18, width: {}}}"


@pytest.mark.parametrize(
    "axis",
    ["student.width: [0.125, 0.25]", f"student: [{NETWORK.format(0.125)}, {NETWORK.format(0.25)}]"],
    ids=["the same path", "the part around it"],
)
def test_what_lies_inside_of_what_is_searched_is_searched(tmp_path: Path, axis: str) -> None:
    spec = small(tmp_path, ("recipe.lr: [1e-1, 1e-2]", axis), ("[student, distill]", "[student]"))
    assert override(spec, {"student.width": 0.5}).stage("final") == spec.stage("final")


def test_a_value_that_would_be_used_nowhere_is_refused(tmp_path: Path) -> None:
    spec = small(tmp_path)
    only = spec.model_copy(
        update={"stages": (spec.stages[0], spec.stages[2].model_copy(update={"start_from": ("student",)}))}
    )
    with pytest.raises(UserError) as caught:
        override(only, {"recipe.lr": 0.5})
    assert str(caught.value) == (
        "--set recipe.lr=0.5: student searches it, and final starts from what is found: the value would be used "
        "nowhere; change the grid in the study's file"
    )


def test_set_comes_after_the_stages_own(spec: StudySpec) -> None:
    changed = override(spec, parse_set(["losses.pi.weight=3"]))
    assert values(changed, "losses.pi.weight")["distill"] == {3}
    assert changed.stage("distill").set["losses.pi"] == {"weight": 3, "temperature": 1.0}
    assert spec.stage("distill").set["losses.pi"] == {"weight": 0.1, "temperature": 1.0}


def test_set_leaves_stages_without_the_path_alone(spec: StudySpec) -> None:
    changed = override(spec, parse_set(["teacher.checkpoint=other.pt"]))
    assert changed.stage("student") == spec.stage("student")
    assert changed.templates()["distill"].checkpoints() == {"teacher.checkpoint": "other.pt"}


@pytest.mark.parametrize("starts", ["[student, distill]", "[distill, student]"])
def test_set_leaves_a_stage_alone_when_one_of_its_starts_lacks_the_path(tmp_path: Path, starts: str) -> None:
    """The student has no L_PI to set a weight of; the other start has its own already."""
    spec = small(tmp_path, ("[student, distill]", starts))
    changed = override(spec, parse_set(["losses.pi.weight=3"]))
    assert changed.stage("final") == spec.stage("final")
    assert values(changed, "losses.pi.weight") == {"distill": {3}, "final": {3}}


def test_set_leaves_the_study_it_is_given_alone(spec: StudySpec) -> None:
    before = dump(spec)
    override(spec, parse_set(["recipe.num_steps=7", "losses.pi.weight=2", "teacher.model.width=0.125"]))
    assert dump(spec) == before


def test_what_is_set_is_what_is_shown(spec: StudySpec) -> None:
    assert re.search(r"recipe\.num_steps: 7", dump(override(spec, {"recipe.num_steps": 7})))


def test_ranges_take_the_search_of_the_command_line(tmp_path: Path) -> None:
    grid = "  - name: student\n    grid:\n      recipe.lr: [1e-1, 1e-2]"
    path = write(tmp_path, (grid, "  - name: student\n    ranges:\n      recipe.lr: {low: 1e-2, high: 1e-1}"))
    with pytest.raises(UserError, match="ranges need search"):
        load_study(path)
    stages = load_study(path, search="tpe", samples=4).stages
    assert [(stage.search, stage.samples) for stage in stages] == [("tpe", 4), ("grid", None), ("grid", None)]
