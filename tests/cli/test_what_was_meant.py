"""What a user gets wrong in the first days: one line that says what was meant, and hints that can be pasted."""

import os
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from kdtune.cli import main
from kdtune.records.storage import Storage
from kdtune.study.file import dump
from tests.support import report_study
from tests.support.launching import command


def kdtune(*words: str | Path) -> Result:
    return CliRunner().invoke(main, [*map(str, words)], prog_name="kdtune")


def refused(*words: str | Path) -> str:
    """The one line of bad input."""
    done = kdtune(*words)
    assert done.exit_code == 2, done.output
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    return done.stderr.removeprefix("kdtune: ").rstrip("\n")


@pytest.fixture
def finished(tmp_path: Path) -> Storage:
    """The demo under another name, with all of its tables and a file of its own."""
    study = report_study.demo(name="mine")
    where = Storage(str(tmp_path / "storage"), "mine")
    report_study.write(where, study)
    (tmp_path / "studies").mkdir()
    (tmp_path / "studies/mine.yaml").write_text(dump(study))
    return where


@pytest.mark.parametrize(
    ("given", "meant"), [("s3:/x", "s3://x"), ("s3:x/y", "s3://x/y"), ("GS:/x", "gs://x"), ("file:/x", "file://x")]
)
def test_a_uri_with_a_slash_too_few(tmp_path: Path, given: str, meant: str) -> None:
    for words in (["launch", "demo", "--dry-run"], ["results", "demo"], ["status", "demo"]):
        line = refused(*words, "--storage", given)
        assert line == f"{given}: is no URI, which has two slashes: {meant}; a folder of that name is ./{given}"
    assert refused("pull", given, tmp_path / "x").startswith(f"{given}: is no URI")


@pytest.mark.parametrize("given", ["XX", "deu", "Germany", ""])
def test_a_country_has_three_letters(given: str) -> None:
    for words in (["launch", "demo", "--dry-run"], ["evaluate", "x.safetensors", "--data", "demo"]):
        line = refused(*words, "--country", given)
        told = f"--country {given}: needs three capital letters (ISO 3166-1 alpha-3), such as DEU; see "
        assert line.startswith(told)


def test_weights_that_are_not_there() -> None:
    line = refused("evaluate", "nofile", "--data", "demo")
    assert line == "nofile: no such file, nor the folder of a trial's checkpoint, which has a student.safetensors"


def test_files_and_folders_of_another_kind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text("hello\n")
    (tmp_path / "emptydir").mkdir()
    for words in (["launch"], ["launch", "--dry-run"], ["train"]):
        for given in ("text.txt", "./text.txt"):
            assert refused(*words, given) == "text.txt: is no study's file, which ends in .yaml"
        for given in ("emptydir", "./emptydir"):
            assert refused(*words, given).startswith("emptydir: is a folder; give a study's file, which ends in .yaml")
    line = refused("launch", "demo", "--storage", "runs", "--teacher", "emptydir")
    assert line.startswith("teacher.checkpoint: 'emptydir' is a folder without a config.json and a model.safetensors")
    assert kdtune("launch", "demo", "--storage", "runs", "--teacher", "emptydir", "--dry-run").stdout.endswith(
        line + "\n"
    )
    imported = ["teacher", "import", "text.txt", "--layout", "skd", "-o", "o.safetensors"]
    for words in (["launch", "demo", "--teacher", "text.txt"], imported):
        assert refused(*words).endswith("(safetensors or a plain state dict): it is another kind of file")


def test_a_table_of_a_stage_that_the_study_does_not_have(tmp_path: Path) -> None:
    study = report_study.demo(name="short", stages=report_study.demo().model_dump(mode="json")["stages"][:3])
    where = Storage(str(tmp_path), "short")
    report_study.write(where, study)
    line = refused("results", "short", "--storage", tmp_path, "--table", "final")
    assert line.startswith("study 'short' has no stage 'final', of which this table is; its stages: teacher, ")
    assert kdtune("results", "short", "--storage", tmp_path, "--table", "grid").exit_code == 0
    for table, searched in {"temperature": "the temperature", "weights": "loss weights"}.items():
        line = refused("results", "short", "--storage", tmp_path, "--table", table)
        assert line.startswith(f"study 'short' has no stage that searches {searched}, of which this table is; its ")


def test_a_stage_that_is_still_to_come_is_no_fault(tmp_path: Path) -> None:
    where = Storage(str(tmp_path), "demo")
    report_study.write(where, report_study.demo(), stages=3)
    done = kdtune("results", "demo", "--storage", tmp_path, "--table", "final")
    assert (done.exit_code, done.stdout) == (0, "demo: no trial of table 'final' has finished yet\n")
    for table in ("temperature", "weights"):
        assert kdtune("results", "demo", "--storage", tmp_path, "--table", table).exit_code == 0


def test_parquet_is_not_printed_on_a_terminal(finished: Storage) -> None:
    window, terminal = os.openpty()
    words = command("results", "mine", "--storage", finished.root, "--format", "parquet")
    done = subprocess.run(words, stdout=terminal, stderr=subprocess.PIPE, text=True, check=False)
    os.close(terminal)
    os.close(window)
    assert done.returncode == 2
    assert done.stderr.startswith("kdtune: --format parquet: would fill the terminal with bytes; give -o FILE")
    piped = subprocess.run(words, capture_output=True, check=False)
    assert piped.stdout.startswith(b"PAR1")


def test_a_dry_run_of_a_finished_study(finished: Storage, tmp_path: Path) -> None:
    done = kdtune("launch", tmp_path / "studies/mine.yaml", "--storage", finished.root, "--dry-run")
    assert done.exit_code == 0, done.output
    assert "if runs deviate by" in done.stdout
    assert "as in stage 'final'" in done.stdout or "as in stage 'temperature'" in done.stdout


def test_hints_name_the_study_and_its_storage_as_they_were_given(finished: Storage, tmp_path: Path) -> None:
    """``launch mine`` would not know the study, which no folder of kdtune has."""
    file = tmp_path / "studies/mine.yaml"
    told = refused("best", file, "--storage", finished.root, "-o", tmp_path / "x.safetensors")
    assert f"`kdtune launch {file} --storage {finished.root} --again final-" in told
    shown = kdtune("results", file, "--storage", finished.root, "--table", "final")
    assert shown.exit_code == 0, shown.output
    assert f"kdtune launch {file} --storage {finished.root} --again" in " ".join(shown.stdout.split())
    asked = ["--set", "recipe.num_steps=7", "--data-root", f"{tmp_path}/my data"]
    dry = kdtune("launch", file, "--storage", tmp_path / "new", "--dry-run", *asked)
    assert f"`kdtune bench train {file} --data-root '{tmp_path}/my data' --set recipe.num_steps=7`" in dry.stdout
