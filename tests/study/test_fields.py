"""The keys of a study as ``kdtune studies fields`` tells them, against the classes and the READMEs."""

import re

import pytest
from click.testing import CliRunner
from pydantic import BaseModel

from kdtune.cli import main
from kdtune.datasets import DATASETS
from kdtune.losses import LOSSES
from kdtune.models import MODELS
from kdtune.study.fields import lines
from kdtune.study.meanings import MEANINGS
from kdtune.study.recipe import Recipe
from kdtune.study.spec import StudySpec
from kdtune.study.stage import Stage
from kdtune.study.trial_config import TrialConfig
from tests.test_documents import DOCUMENTS, STUDY, table
from tests.test_documents import MODELS as MODELS_README


def paths(kind: type[BaseModel], at: str = "") -> set[str]:
    return {f"{at}{key}" for key in kind.model_fields}


def test_every_key_has_a_line() -> None:
    told = {line.split(": ")[0] for line in lines(None)}
    wanted = paths(StudySpec) | paths(Stage, "stages.") | paths(TrialConfig, "base.") | paths(Recipe, "base.recipe.")
    for at, registry in {"base.dataset": DATASETS, "base.student": MODELS, "base.losses": LOSSES}.items():
        for name in registry.table:
            wanted |= paths(registry.resolve(name), f"{at}.{name}.")
    assert wanted <= told


def test_every_line_says_what_the_key_means_and_sends_nobody_to_what_is_not_there() -> None:
    bare = [line for line in lines(None) if line.count("; ") < 2]
    assert bare == []
    assert [line for line in lines(None) if line.endswith("below") or "see below" in line] == []


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("recipe.lr", "base.recipe.lr: number > 0; required; learning rate before the first step"),
        (
            "halving.grace",
            "halving.grace: number > 0 < 1; default 0.5; share of its steps before a trial can be stopped",
        ),
        ("stages.samples", "stages.samples: whole number > 0 or null; default null; trials of a random or TPE search"),
        (
            "losses.pi.temperature",
            "base.losses.pi.temperature: number > 0; default 1.0; tau: distributions are those of values divided by it",
        ),
        ("stages.when.by", "stages.when.by: number >= 0; default 0.0; mIoU points; the gain is to be larger"),
        (
            "stages.weights",
            "stages.weights: whole number > 0 or list of numbers > 0; default 5; "
            "how many weights of each around the published one, or the factors on it",
        ),
        (
            "base.dataset.ade20k",
            "base.dataset.ade20k.name: ade20k; required; "
            "ADE20K (Zhou et al. 2017), the 150 classes of the Scene Parsing Challenge 2016",
        ),
    ],
)
def test_a_key_by_its_path(path: str, line: str) -> None:
    done = CliRunner().invoke(main, ["studies", "fields", path])
    assert (done.exit_code, done.output) == (0, f"{line}\n")


def test_paths_as_set_has_them_and_unknown_ones() -> None:
    assert [line.split(":")[0] for line in lines("student.width")] == ["base.student.pspnet.width"]
    done = CliRunner().invoke(main, ["studies", "fields", "recipe.lrr"])
    assert done.exit_code == 2
    assert done.stderr == (
        "kdtune: recipe.lrr: no key of a study (did you mean 'recipe.lr'?); `kdtune studies fields` lists all\n"
    )


def plain(cell: str) -> str:
    """A cell of a README as a terminal shows it."""
    cell = re.sub(r"\[([^\]]+)\]\([^)]+\)", r"\1", cell).replace("`", "")
    return cell.replace(", below", "").replace("see Seeds", "see search_spaces/README.md")


@pytest.mark.parametrize(
    ("document", "heading", "kind"),
    [
        (STUDY, "### The study", "StudySpec"),
        (STUDY, "### A stage", "Stage"),
        (STUDY, "## A family of stages", "Family"),
        (STUDY, "### `when`: a stage that has to be worth it", "When"),
        (STUDY, "### A range", "Range"),
        (STUDY, "### `scheduler` as a mapping", "SuccessiveHalving"),
        (STUDY, "### `halving`", "Halving"),
        (STUDY, "### `base`", "TrialConfig"),
        (STUDY, "### `teacher`", "Teacher"),
        (STUDY, "### `warm_start`", "WarmStart"),
        (STUDY, "### `recipe`", "Recipe"),
        (MODELS_README, "## `pspnet`", "PSPNetModel"),
        (MODELS_README, "## `external`", "ExternalModel"),
        (MODELS_README, "## Preprocessing", "Preprocessing"),
    ],
)
def test_the_meanings_are_those_of_the_readmes(document: str, heading: str, kind: str) -> None:
    told = {key: plain(row["meaning"].removesuffix(" |").strip()) for key, row in table(document, heading).items()}
    assert told == MEANINGS[kind]


def test_the_meanings_of_a_datasets_keys_are_those_of_the_readme() -> None:
    below = DOCUMENTS["kdtune/datasets/README.md"].split("\n## Keys of `dataset`\n")[1].split("\n## ")[0]
    for names, key, meaning in re.findall(r"^\| (.+?) \| `(\w+)` \| `.+?` \| (.*?) \|$", below, re.MULTILINE):
        for name in re.findall(r"`(\w+)`", names):
            assert MEANINGS[DATASETS.resolve(name).__name__][key] == plain(meaning)
