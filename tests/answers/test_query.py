"""``kdtune results`` as a command: all studies of a storage, beside the paper's, in every format, in little time."""

import io
import json
import resource
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result

from kdtune.answers.formats import parquet_bytes
from kdtune.answers.tables import NAMES, table
from kdtune.cli import main
from kdtune.errors import UserError
from kdtune.filesystem.folder import Folder
from kdtune.records.stored_study import TABLES, StoredStudy
from tests.support.finished_study import everything
from tests.support.s3 import Server, proxied, use

STUDY = """
base:
  dataset: {name: DATASET}
  student: {name: pspnet, backbone: resnet18}
  recipe: {lr: 0.01, weight_decay: 5.0e-4}
stages:
  - {name: student, start_from: [], set: {}, search: grid, seeds: [0], grid: {recipe.lr: [0.05, 0.01, 0.005]}}
versions: {kdtune: "0.1.0"}
"""


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A storage of the finished study under two names, one of them the paper's."""
    root = tmp_path_factory.mktemp("answers") / "runs"
    one = everything()
    for name, dataset in (("cityscapes-resnet", "cityscapes"), ("mine", "camvid")):
        for stored in TABLES:
            data = getattr(one, stored)
            data = data.set_column(0, "study", pa.array([name] * data.num_rows, pa.string()))
            Folder(str(root / name)).write(f"{stored}.parquet", parquet_bytes(data))
        Folder(str(root / name)).write("study.yaml", STUDY.replace("DATASET", dataset).encode())
    Folder(str(root / "empty")).write("notes.txt", b"no study")
    return str(root)


def kdtune(*words: str) -> Result:
    return CliRunner().invoke(main, ["results", *words], prog_name="kdtune")


def lines(*words: str) -> list[str]:
    done = kdtune(*words)
    assert done.exit_code == 0, done.stderr
    return [" ".join(line.split()) for line in done.stdout.splitlines()]


def test_a_study_without_tables_yet_is_left_out_and_a_damaged_one_named(runs: str, tmp_path: Path) -> None:
    root = shutil.copytree(runs, tmp_path / "runs")
    before = kdtune("--all", "--storage", str(root)).stdout
    (root / "new").mkdir()
    (root / "new" / "study.yaml").write_text(STUDY)
    assert kdtune("--all", "--storage", str(root)).stdout == before
    (root / "mine" / "optimal.parquet").write_bytes(b"damaged")
    done = kdtune("--all", "--storage", str(root))
    assert (done.exit_code, done.stderr.count("\n")) == (2, 1)
    assert f"{root}/mine/optimal.parquet: damaged" in done.stderr
    (root / "mine" / "optimal.parquet").unlink()
    assert "no results of study 'mine' there" in kdtune("--all", "--storage", str(root)).stderr


def test_requests_of_a_study(runs: str, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with proxied(server) as proxy:
        use(monkeypatch, proxy.address)
        root, counts = f"s3://bucket/{tmp_path.name}", []
        for name in ("mine", "cityscapes-resnet"):
            for file in Path(runs, name).iterdir():
                (Folder(root) / name).write(file.name, file.read_bytes())
            proxy.requests.clear()
            assert kdtune("--all", "--storage", root).exit_code == 0
            counts.append(len(proxy.requests))
    assert counts[1] - counts[0] == 5  # its optima and its study, two each, and that it has no digests


def test_rows_of_studies_that_are_mixed_are_set_apart() -> None:
    def of(study: str, stored: str, first: int, last: int) -> pa.Table:
        data = getattr(everything(), stored).slice(first, last - first)
        return data.set_column(0, "study", pa.array([study] * data.num_rows, pa.string()))

    stored = ("trials", "history", "optimal", "final", "emissions", "nodes")
    mixed, apart = (
        replace(everything(), **{name: pa.concat_tables([of(s, name, *rows) for s, *rows in parts]) for name in stored})
        for parts in (
            [("a", 0, 3), ("b", 0, 3), ("a", 3, 99), ("b", 3, 99)],
            [("a", 0, 99), ("b", 0, 99)],
        )
    )
    for name in set(NAMES) - {"trials"}:
        assert table(name, mixed, None).equals(table(name, apart, None)), name


def test_optima_of_all_studies_whose_stages_extend(runs: str, tmp_path: Path) -> None:
    """Their trials are not read, so nothing is said of borders."""
    root = shutil.copytree(runs, tmp_path / "runs")
    for name in ("mine", "cityscapes-resnet"):
        file = root / name / "study.yaml"
        file.write_text(file.read_text().replace("search: grid,", "search: grid, extend: 1,"))
    found = lines("--all", "--storage", str(root))
    assert "camvid 1e-2 5e-4" in found
    assert not [line for line in found if "tried: add" in line]


def test_optima_of_all_studies_are_a_cross(runs: str) -> None:
    found = lines("--all", "--storage", runs)
    assert found[0] == "all studies: optimal hyperparameters of student and teacher training"
    assert found[1] == "ResNet"
    assert "Cityscapes 1e-2 5e-4" in found
    assert "camvid 1e-2 5e-4" in found
    assert found == lines("mine", "--all", "--storage", runs)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("form", ["text", "markdown", "latex", "csv", "json"])
def test_every_table_of_all_studies_in_every_format(runs: str, name: str, form: str) -> None:
    found = kdtune("--all", "--storage", runs, "--table", name, "--format", form)
    assert found.exit_code == 0
    assert "mine" in found.stdout or "camvid" in found.stdout
    if form == "json":
        assert {row["study"] for row in json.loads(found.stdout)} == {"cityscapes-resnet", "mine"}
    if form == "csv":
        assert set(pd.read_csv(io.StringIO(found.stdout))["study"]) == {"cityscapes-resnet", "mine"}


@pytest.mark.parametrize("name", NAMES)
def test_parquet_is_the_same_data(runs: str, name: str, tmp_path: Path) -> None:
    file = str(tmp_path / "t.parquet")
    for words in (["mine"], ["--all"]):
        assert kdtune(*words, "--storage", runs, "--table", name, "--format", "parquet", "-o", file).exit_code == 0
        data = pq.read_table(file)
        frame = kdtune(*words, "--storage", runs, "--table", name, "--format", "json").stdout
        assert data.num_rows == len(json.loads(frame))
        assert data.column_names == list(json.loads(frame)[0])


def test_planned_cells_are_missing_not_left_out(runs: str) -> None:
    assert "5e-4 68.89 *70.55* -" in lines("mine", "--storage", runs, "--table", "grid")
    found = json.loads(kdtune("mine", "--storage", runs, "--table", "grid", "--format", "json").stdout)
    assert [row["status"] for row in found if row["lr"] == 0.005] == [None]


def test_compared_with_the_paper_one_study_and_all(runs: str) -> None:
    words = ["--storage", runs, "--table", "grid", "--compare", "published", "--format", "json"]
    (row,) = [
        row
        for row in json.loads(kdtune("cityscapes-resnet", *words).stdout)
        if (row["stage"], row["lr"], row["weight_decay"]) == ("distill", 0.01, 5e-4)
    ]
    assert (row["miou"], row["miou_published"]) == (71.641, 71.64)
    assert row["miou_difference"] == pytest.approx(0.001)
    every = json.loads(kdtune("--all", *words).stdout)
    assert {row["study"] for row in every} == {"cityscapes-resnet"}
    assert {key: every[0][key] for key in ("dataset", "student")} == {"dataset": "cityscapes", "student": "resnet18"}
    stopped = next(row for row in every if row["status"] == "stopped")
    assert (stopped["step"], stopped["steps_total"], stopped["miou_difference"]) == (300, 900, None)
    assert any("stopped 300 900" in line for line in lines("--all", *words[:-2]))


def test_what_cannot_be_compared_is_one_line(runs: str) -> None:
    done = kdtune("--all", "--storage", runs, "--table", "trials", "--compare", "published")
    assert (done.exit_code, done.stderr.count("\n")) == (2, 1)
    assert "no study of this storage is one of which the paper prints a table 'trials'" in done.stderr


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ([], "kdtune: Missing argument 'STUDY', or --all; see kdtune results --help\n"),
        (
            ["--all", "--published", "--compare", "published"],
            "kdtune: --published and --compare exclude each other; see kdtune results --help\n",
        ),
        (
            ["--all", "--published", "--table", "trials"],
            "kdtune: the paper prints no table 'trials'; it prints: "
            "optimal, grid, temperature, weights, final, initialization, emissions\n",
        ),
    ],
)
def test_what_is_not_there_is_one_line(words: list[str], line: str) -> None:
    done = kdtune(*words)
    assert (done.exit_code, done.stderr) == (2, line)


def test_published_of_all_studies() -> None:
    assert "x *66.72* ± 0.21" not in lines("--all", "--published", "--table", "final")
    assert sum(line.startswith("x ") for line in lines("--all", "--published", "--table", "final")) == 4


def test_final_has_the_gains_in_the_data(runs: str) -> None:
    rows = json.loads(kdtune("mine", "--storage", runs, "--table", "final", "--format", "json").stdout)
    assert list(rows[0])[:7] == ["study", "method", "miou_mean", "miou_std", "seeds", "best", "within_one_std"]
    assert {"gain_student", "gain_pi_low", "p_student", "paired_pi", "verdict_student", "status"} <= set(rows[0])
    assert table("final", everything(), "s").schema.field("verdict_pi").type == pa.string()


def test_results_import_neither_torch_nor_ray_nor_pandas(runs: str) -> None:
    """And take little: what a command costs on an idle machine is its processor time, which other load changes less."""
    program = (
        "import sys\n"
        "from kdtune.cli import main\n"
        f"main(['results', 'mine', '--storage', {runs!r}, '--table', 'grid'], standalone_mode=False)\n"
        "print([n for n in ('torch', 'ray', 'pandas', 'scipy', 'pydantic') if n in sys.modules], file=sys.stderr)"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.stderr == "[]\n"
    assert after.ru_utime - before.ru_utime < 1.5


def test_a_name_that_leads_elsewhere_is_refused() -> None:
    with pytest.raises(UserError, match="is no name of a study"):
        StoredStudy("runs", "../x")
