"""``models check`` and ``studies validate``: the networks of a study, built once and told of."""

from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from kdtune.base import UserError
from kdtune.cli import main
from kdtune.search.checkpoints import check_networks
from kdtune.study.file import load_study
from tests.models.test_external import LRASPP, OWN
from tests.support.small_study import write

STUDENT = "student: {name: pspnet, backbone: resnet18, width: 0.125}"


def of_student(folder: Path, **fields: object) -> Path:
    """The small study with a student of another package."""
    student = yaml.safe_dump({"name": "external", **fields}, default_flow_style=True, width=10_000).strip()
    return write(folder, (STUDENT, f"student: {student}"))


def run(*words: str | Path) -> tuple[int, list[str]]:
    done = CliRunner().invoke(main, [*map(str, words)], catch_exceptions=False)
    return done.exit_code, done.output.splitlines()


def test_a_network_of_another_package(tmp_path: Path) -> None:
    fields = {key: value for key, value in OWN.items() if key != "classifier"}
    path = of_student(tmp_path, **fields)
    code, lines = run("models", "check", path)
    assert code == 0
    assert lines[:7] == [
        f"student of student, distill, final: {OWN['builder']}",
        "  0.00 million weights",
        "  logits: 12 channels, 16 x 24 of 32 x 48 pixels",
        "  classifier: last, found",
        "  tap layer1: 8 channels, 16 x 24 of 32 x 48 pixels, of first",
        "  tap psp: 8 channels, 16 x 24 of 32 x 48 pixels, of second",
        "  tap logits: 12 channels, 16 x 24 of 32 x 48 pixels",
    ]
    assert "    second.0: 8 channels, 16 x 24 of 32 x 48 pixels" in lines
    assert "teacher of distill: pspnet-resnet18-0.25" in lines

    code, told = run("studies", "validate", path)
    assert (code, told[-1]) == (0, f"{path}: valid, 3 stages")
    assert [line for line in told if "million" not in line][:3] == [lines[0], *lines[2:4]]
    assert not [line for line in told if "second.0" in line or "pspnet" in line]


def test_a_network_that_is_not_what_the_study_says(tmp_path: Path) -> None:
    code, (*_, line) = run("studies", "validate", of_student(tmp_path, **OWN | {"taps": {"psp": "secnd"}}))
    assert code == 2
    assert line.endswith("taps.psp: no submodule 'secnd' (did you mean 'second'?)")


def with_fakd(path: Path) -> Path:
    """The study with L_FAKD in the place of L_PI."""
    text = path.read_text().replace("losses.pi: {weight: 0.1, temperature: 1.0}", "losses.fakd: {weight: 1}")
    path.write_text(text.replace("losses.pi.temperature: [1, 2]", "recipe.lr: [1, 2]"))
    return path


@pytest.mark.parametrize("command", [("models", "check"), ("studies", "validate")])
def test_a_term_that_reads_a_classifier_which_is_not_there(tmp_path: Path, command: tuple[str, str]) -> None:
    path = of_student(tmp_path, **{key: value for key, value in LRASPP.items() if key != "classifier"})
    code, (*_, line) = run(*command, with_fakd(path))
    assert code == 2
    assert "losses.fakd reads the student's classifier" in line
    assert line.endswith("no single 1x1 convolution; name the last one with classifier: PATH")


@pytest.mark.parametrize("command", [("models", "check"), ("studies", "validate")])
def test_a_term_that_runs_what_cannot_be_run_by_itself(tmp_path: Path, command: tuple[str, str]) -> None:
    path = with_fakd(of_student(tmp_path, **OWN | {"taps": {"psp": "first"}, "aux_output": None}))
    code, (*_, line) = run(*command, path)
    assert code == 2
    assert "losses.fakd runs what follows the student's tap 'psp': " in line
    assert "only the classifier can be run by itself, and it does not read 'psp'; name the submodule" in line
    with pytest.raises(UserError, match=r"losses\.fakd runs what follows"):  # as a launch does before its first trial
        check_networks(load_study(path), [])
    path = with_fakd(of_student(tmp_path, **OWN | {"taps": {"psp": "second"}, "aux_output": None}))
    code, _ = run(*command, path)
    assert code == 0
