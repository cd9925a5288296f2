"""Which functions a study may have called: those that are known to return a network, and no other."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Union

import pytest
from click.testing import CliRunner
from torch import nn

from kdtune.base import UserError
from kdtune.cli import main
from kdtune.models import builders
from kdtune.models.builders import find, runtime_env, vouch

HERE = "tests.models.test_builders"


def annotated(num_classes: int) -> nn.Module:
    return nn.Conv2d(3, num_classes, 1)


def in_words(num_classes: int) -> "nn.Conv2d":
    return nn.Conv2d(3, num_classes, 1)


def plain(num_classes):  # type: ignore[no-untyped-def]
    return nn.Conv2d(3, num_classes, 1)


def misspelt(num_classes: int) -> "Modul":  # type: ignore[name-defined]  # noqa: F821
    return None


def either(num_classes: int) -> Union[nn.Module, str]:  # noqa: UP007
    return "none"


class Text(str):
    """A class, and no network."""


class Net(nn.Module):
    """A network."""

    @classmethod
    def make(cls, num_classes: int) -> "Net":
        """One of them."""
        return cls()


@pytest.fixture(autouse=True)
def _as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setenv(builders.VOUCHED, "")
    monkeypatch.setenv("PYTHONPATH", os.environ.get("PYTHONPATH", ""))


@pytest.mark.parametrize(
    "builder",
    [
        f"{HERE}:annotated",
        f"{HERE}:in_words",
        f"{HERE}:Net",
        f"{HERE}:Net.make",
        "torchvision.models.segmentation:deeplabv3_resnet50",
        "segmentation_models_pytorch:Unet",
        "segmentation_models_pytorch:create_model",
    ],
)
def test_what_returns_a_network_is_taken(builder: str) -> None:
    assert callable(find(builder))


@pytest.mark.parametrize(
    ("builder", "word"),
    [
        ("subprocess:call", "part of Python itself"),
        ("os.path:os.system", "part of Python itself"),
        ("builtins:eval", "part of Python itself"),
        ("pty:spawn", "part of Python itself"),
        (f"{HERE}:subprocess.call", "nothing says that it returns a network"),
        (f"{HERE}:plain", f"--py-module {HERE}"),
        (f"{HERE}:misspelt", "nothing says"),
        (f"{HERE}:either", "nothing says"),
        (f"{HERE}:Text", "nothing says"),
        ("torch:load", "nothing says"),
        ("torch.hub:load", "nothing says"),
        ("numpy:load", "nothing says"),
        ("pandas:read_pickle", "nothing says"),
    ],
)
def test_nothing_else_is(builder: str, word: str) -> None:
    with pytest.raises(UserError, match=word):
        find(builder)


def test_a_module_that_the_user_vouches_for() -> None:
    vouch([HERE])
    assert find(f"{HERE}:plain") is plain
    assert runtime_env() == {"env_vars": {builders.VOUCHED: HERE}}
    with pytest.raises(UserError, match="part of Python itself"):
        find("subprocess:call")


@pytest.mark.parametrize("packed", [False, True])
def test_a_file_or_folder_can_be_imported_here_and_elsewhere(tmp_path: Path, packed: bool) -> None:
    """Also by a process that is started from here, as Ray's are."""
    name = f"mine_{packed}".lower()
    file = tmp_path / name / "__init__.py" if packed else tmp_path / f"{name}.py"
    file.parent.mkdir(exist_ok=True)
    file.write_text("import torch\ndef build(num_classes):\n    return torch.nn.Conv2d(3, num_classes, 1)\n")
    vouch([str(file.parent if packed else file)])
    assert find(f"{name}:build")(2).out_channels == 2
    code = f"from kdtune.models.builders import find; print(find('{name}:build')(3).out_channels)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "3\n"
    env = runtime_env()
    assert env["py_modules"] == [str(file.parent if packed else file)]
    assert env["env_vars"] == {builders.VOUCHED: name}


@pytest.mark.parametrize("given", ["no/such/file.py", "a-b", "missing.py", "/"])
def test_what_is_no_module_is_one_line(given: str) -> None:
    with pytest.raises(UserError, match=f"--py-module {given}: "):
        vouch([given])


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("lacking", "import os\nimport no_such_thing\n", "line 2: ModuleNotFoundError: .*; install 'no_such_thing'"),
        ("misspelling", "\ndef x(:\n", "line 2: SyntaxError: .*; mend that file"),
        ("exiting", "import sys\n\nsys.exit('not today')\n", "line 3: SystemExit: not today; mend that file"),
        ("raising", "def f():\n    raise OSError('a\\nb')\nf()\n", "line 2: OSError: a; mend that file"),
    ],
)
def test_a_module_that_is_there_and_fails_says_where(tmp_path: Path, name: str, text: str, says: str) -> None:
    """Not to name it with --py-module, which was done."""
    file = tmp_path / f"{name}_module.py"
    file.write_text(text)
    vouch([str(file)])
    with pytest.raises(
        UserError, match=f"builder {file.stem}:x: cannot import '{file.stem}': {file}, {says}"
    ) as caught:
        find(f"{file.stem}:x")
    assert "\n" not in str(caught.value)


def test_a_package_that_fails_around_a_module_says_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "failing_around").mkdir()
    (tmp_path / "failing_around" / "__init__.py").write_text("import no_such_thing\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match=r"__init__\.py, line 1: ModuleNotFoundError: .* install 'no_such_thing'"):
        vouch(["failing_around.inner"])
    with pytest.raises(
        UserError, match=r"--py-module no_such_thing\.inner: .*; install it, or give its file or folder"
    ):
        vouch(["no_such_thing.inner"])


STUDY = """\
name: theirs
base:
  dataset: {name: demo, size: [32, 48], num_train: 4, num_val: 2}
  student: {name: external, builder: "BUILDER", arguments: {args: [touch, "MADE"]}, classes_argument: shell}
  losses: {ce: {weight: 1.0}}
  recipe: {lr: 1e-2, weight_decay: 5e-4, crop: [32, 48], batch_size: 2, num_steps: 2}
stages:
  - name: student
"""


def kdtune(*words: Any) -> Any:
    return CliRunner().invoke(main, [str(word) for word in words])


@pytest.mark.parametrize("builder", ["subprocess:call", f"{HERE}:subprocess.call"])
@pytest.mark.parametrize("command", ["studies show", "studies validate", "launch", "launch --dry-run", "train"])
def test_a_study_of_somebody_else_calls_nothing(tmp_path: Path, builder: str, command: str) -> None:
    file, made = tmp_path / "theirs.yaml", tmp_path / "made"
    file.write_text(STUDY.replace("BUILDER", builder).replace("MADE", str(made)))
    writes = ["--storage", tmp_path] if command.startswith("launch") else []
    writes += ["-o", tmp_path / "out"] if command == "train" else []
    done = kdtune(*command.split(), file, *writes)
    assert not made.exists()
    if command in ("launch", "train"):
        assert done.exit_code == 2, done.output
        assert f"builder {builder}: " in done.stderr
    if command in ("launch", "studies show"):
        assert f"this study runs code of {builder}" in done.stderr
    subprocess.call(args=["touch", str(made)], shell=False)  # what it would have done
    assert made.exists()
