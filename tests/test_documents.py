"""Documents held to the code: commands parse, studies are valid, links lead somewhere, tables of keys are complete."""

import ast
import re
import shlex
import tomllib
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import click
import pytest
import yaml
from click.testing import CliRunner

from kdtune.cli import main

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("kdtune", "search_spaces", "cluster")
PATHS = [*ROOT.glob("*.md"), *(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.md"))]
DOCUMENTS = {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in sorted(PATHS)}
MAP = DOCUMENTS["kdtune/README.md"]

every_document = pytest.mark.parametrize("name", DOCUMENTS)


def fences(text: str, language: str) -> list[str]:
    """What stands in a document's fenced blocks of a language."""
    found: list[str] = re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    return found


def prose(text: str) -> str:
    """A document without its fenced blocks."""
    return re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)


# -- commands


def commands(text: str) -> Iterator[list[str]]:
    """The words of every ``kdtune ...`` in a document's shell blocks, each as the program would get them."""
    for line in "\n".join(fences(text, "bash")).splitlines():
        words = shlex.shlex(line, posix=True, punctuation_chars=True)
        words.whitespace_split = True
        command: list[str] = []
        for word in [*words, ";"]:
            if set(word) <= set("();<>|&"):
                while command and re.fullmatch(r"\w+=.*", command[0]):  # VARIABLE=value before a command
                    command.pop(0)
                if command and command[0].rsplit("/", 1)[-1] == "kdtune":
                    yield command[1:]
                command = []
            else:
                command.append(word)


def read(words: list[str]) -> click.Context:
    """Reads a command line as the program does, and runs nothing.

    Raises:
        click.ClickException: it would be refused.
    """
    command: click.Command = main
    path, left = ["kdtune"], list(words)
    while isinstance(command, click.Group):
        name = left.pop(0) if left else ""
        if name not in command.commands:
            raise click.UsageError(f"{' '.join(path)} has no command '{name}'")
        command = command.commands[name]
        path.append(name)
    with command.make_context(" ".join(path), left) as context:
        return context


SHOWN = [(name, words) for name, text in DOCUMENTS.items() for words in commands(text)]


@pytest.mark.parametrize("words", [pytest.param(words, id=f"{name}: {' '.join(words)}") for name, words in SHOWN])
def test_every_command_is_one(words: list[str]) -> None:
    read(words)


@pytest.mark.parametrize("line", ["lunch demo", "launch", "launch demo --adress auto", "data", "results --table x"])
def test_a_command_that_is_none_would_be_seen(line: str) -> None:
    (words,) = commands(f"```bash\nX=1 .venv/bin/kdtune {line} | head  # kdtune nothing\n```\n")
    with pytest.raises(click.ClickException):
        read(words)


def test_readme_commands_that_need_no_data_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KDTUNE_STORAGE", str(tmp_path))
    for line, says in {
        "studies list": "camvid-small",
        "losses list": "L_PI",
        "results cityscapes-resnet --published": "72.75",
        "launch cityscapes-resnet --dry-run": "80 trials",
    }.items():
        assert line.split() in [words for _, words in SHOWN], line
        done = CliRunner().invoke(main, line.split())
        assert done.exit_code == 0, done.output
        assert says in done.output
    assert list(tmp_path.iterdir()) == []


# -- studies and keys


def test_every_whole_study_is_valid(tmp_path: Path) -> None:
    from kdtune.study.file import read as read_study

    count = 0
    for name, text in DOCUMENTS.items():
        blocks = [(block, yaml.safe_load(block)) for block in fences(text, "yaml")]
        for block in (block for block, data in blocks if data.get("name") == "folder"):
            (tmp_path / "photographs.yaml").write_text(block, encoding="utf-8")
        for block, data in blocks:
            if {"name", "stages"} <= data.keys():
                count += 1
                (tmp_path / "study.yaml").write_text(block, encoding="utf-8")
                assert read_study(tmp_path / "study.yaml")[0] == [], name
    assert count


def table(document: str, heading: str) -> dict[str, dict[str, str]]:
    """The table below a heading: first column, without its backticks -> column -> cell."""
    below = DOCUMENTS[document].split(f"\n{heading}\n", 1)[1]
    below = re.split(r"^#", below, maxsplit=1, flags=re.MULTILINE)[0]
    lines = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in below.splitlines() if line[:1] == "|"]
    columns, _, *rows = lines
    return {row[0].strip("` "): dict(zip(columns, row, strict=True)) for row in rows}


def default_of(field: Any) -> str:
    """A field's default, as the tables have it."""
    from pydantic_core import to_jsonable_python

    if field.is_required():
        return "required"
    value = yaml.safe_dump(to_jsonable_python(field.default), default_flow_style=True, sort_keys=False, width=1000)
    return value.removesuffix("...\n").strip().replace("''", '""')


STUDY, MODELS = "search_spaces/README.md", "kdtune/models/README.md"


@pytest.mark.parametrize(
    ("document", "heading", "path"),
    [
        (STUDY, "### The study", "kdtune.study.spec:StudySpec"),
        (STUDY, "### A stage", "kdtune.study.stage:Stage"),
        (STUDY, "### `budget`", "kdtune.study.budget:Budget"),
        (STUDY, "### A range", "kdtune.study.stage:Range"),
        (STUDY, "### `scheduler` as a mapping", "kdtune.study.schedulers:SuccessiveHalving"),
        (STUDY, "### `halving`", "kdtune.study.schedulers:Halving"),
        (STUDY, "### `when`: a stage that has to be worth it", "kdtune.study.condition:When"),
        (STUDY, "### `select_on`", "kdtune.study.holdout:Holdout"),
        (STUDY, "### `base`", "kdtune.study.trial_config:TrialConfig"),
        (STUDY, "### `teacher`", "kdtune.study.trial_config:Teacher"),
        (STUDY, "### `warm_start`", "kdtune.study.trial_config:WarmStart"),
        (STUDY, "### `recipe`", "kdtune.study.recipe:Recipe"),
        (MODELS, "## `pspnet`", "kdtune.models.pspnet:PSPNetModel"),
        (MODELS, "## `external`", "kdtune.models.external:ExternalModel"),
        (MODELS, "## Preprocessing", "kdtune.base:Preprocessing"),
    ],
    ids=lambda value: value.rsplit(":", 1)[-1],
)
def test_tables_of_keys_have_every_key_with_its_default_and_no_other(document: str, heading: str, path: str) -> None:
    fields = resolve_name(path).model_fields
    told = table(document, heading)
    assert told.keys() == fields.keys()
    defaults = {key: row["default"].strip("`") for key, row in told.items() if row["default"] != "ImageNet's"}
    assert defaults == {key: default_of(fields[key]) for key in defaults}


def test_the_keys_of_a_family_are_told_with_their_defaults() -> None:
    from kdtune.study.families import OWN

    told = {key: row["default"].strip("`") for key, row in table(STUDY, "## A family of stages").items()}
    assert told == {key: default for key, (_, default) in OWN.items()}


def test_every_field_of_a_dataset_is_told_with_its_default() -> None:
    from kdtune.datasets import DATASETS

    below = DOCUMENTS["kdtune/datasets/README.md"].split("\n## Keys of `dataset`\n")[1].split("\n## ")[0]
    told: dict[tuple[str, str], str] = {}
    for names, key, default in re.findall(r"^\| (.+?) \| `(\w+)` \| `(.+?)` \|", below, re.MULTILINE):
        told |= {(name, key): default for name in re.findall(r"`(\w+)`", names)}
    fields = {name: DATASETS.resolve(name).model_fields for name in DATASETS.table}
    assert told == {(n, key): default_of(f) for n, own in fields.items() for key, f in own.items() if key != "name"}


@pytest.mark.parametrize(
    ("document", "module"), [("kdtune/losses/README.md", "losses"), ("kdtune/datasets/README.md", "datasets")]
)
def test_every_registered_part_has_a_line(document: str, module: str) -> None:
    parts = getattr(import_module(f"kdtune.{module}"), module.upper()).table
    linked = dict(re.findall(r"^\| \[`(\w+)`\]\((\w+)\.py\) \|", DOCUMENTS[document], re.MULTILINE))
    assert linked == {name: where.split(":")[0].rsplit(".", 1)[1] for name, where in parts.items()}


# -- links, lengths, the map


def anchors(text: str) -> set[str]:
    """The anchors that GitHub gives a document's headings."""
    heads = re.findall(r"^#+ (.+)$", prose(text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@every_document
def test_every_relative_link_leads_somewhere(name: str) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(DOCUMENTS[name])):
        if re.match(r"\w+://", target):
            continue
        path, _, anchor = target.partition("#")
        file = (ROOT / name).parent / path if path else ROOT / name
        assert file.exists(), f"{name}: {target}"
        if anchor:
            assert anchor in anchors(file.read_text(encoding="utf-8")), f"{name}: {target}"


@every_document
def test_lines_are_of_a_width_that_can_be_read(name: str) -> None:
    long = [line for line in prose(DOCUMENTS[name]).splitlines() if len(line) > 120 and name != "CHANGELOG.md"]
    assert long == []


def test_the_first_document_is_short() -> None:
    assert len(DOCUMENTS["README.md"].splitlines()) <= 200


def test_the_first_document_names_every_other() -> None:
    linked = set(re.findall(r"\]\(([^)#]+\.md)\)", DOCUMENTS["README.md"]))
    assert linked == DOCUMENTS.keys() - {"README.md"}


def test_the_map_has_every_wing_in_the_order_that_is_checked() -> None:
    wings = {path.parent.name for path in ROOT.glob("kdtune/*/__init__.py")}
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    layers = next(c["layers"] for c in contracts if "layers" in c and c["layers"][-1].startswith("kdtune.registry"))
    named = [[part.strip().removeprefix("kdtune.") for part in re.split(r"[|:]", layer)] for layer in layers]
    assert wings <= {part for parts in named for part in parts}
    (drawn,) = re.findall(r"^```\n(.*?)^```", MAP, re.DOTALL | re.MULTILINE)
    lines = drawn.splitlines()
    assert len(lines) == len(named)
    for line, parts in zip(lines, named, strict=True):
        for part in parts:
            assert part == "__main__" or re.search(rf"\b{part}\b", line), f"{part}: {line}"


def test_what_the_map_names_is_there() -> None:
    """``search/launch.Launch.run`` is a name in ``kdtune/search/launch.py``."""
    named = re.findall(r"`((?:[a-z_]+/)?[a-z_]+)(\.[A-Za-z_.]+)?`", MAP)
    found = 0
    for module, names in named:
        file = ROOT / "kdtune" / f"{module}.py"
        if "/" not in module and not file.is_file():
            continue
        found += 1
        assert file.is_file(), module
        tree = ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        defined = {node.name for node in tree if isinstance(node, ast.ClassDef | ast.FunctionDef)}
        wanted = {name for name in (names or "").removesuffix(".py").split(".") if name and name != "py"}
        assert wanted <= defined, f"{module}: {wanted - defined}"
    assert found > 20


def test_what_is_promised_of_security_names_tests_that_are_there() -> None:
    named = re.findall(r"`(tests/[\w/.]+)`", DOCUMENTS["kdtune/SECURITY.md"])
    assert len(named) > 15
    assert [name for name in named if not (ROOT / name).is_file()] == []
