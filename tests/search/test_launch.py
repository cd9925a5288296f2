"""The whole protocol on a real Ray: stages chain, tables are right, nothing runs twice."""

import json
import re
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import duckdb
import pandas as pd
import pyarrow.parquet as pq
import pytest

from kdtune.api import results
from kdtune.records.rows import best_config
from tests.support.launching import (
    STUDY,
    TRIALS,
    end,
    essence,
    journals,
    kdtune,
    start,
    until,
    whole,
    workers,
    write_study,
)

pytestmark = pytest.mark.slow


@pytest.fixture
def launched(once: Callable[..., Path]) -> Path:
    """The tiny study, finished; to be read and not changed."""
    return once("whole", whole)


@pytest.fixture
def again(launched: Path, tmp_path: Path) -> Path:
    """The finished study on a storage of the test's own, to be launched again."""
    shutil.copytree(launched, tmp_path / "again", ignore=shutil.ignore_patterns(".ray"))
    return tmp_path / "again"


def rows_of(storage: Path, table: str = "trials") -> list[dict]:
    return results("tiny", str(storage)).table(table).to_pylist()


def test_every_stage_runs_every_trial(launched: Path) -> None:
    rows = rows_of(launched)
    assert Counter(row["stage"] for row in rows) == TRIALS
    assert {row["status"] for row in rows} == {"completed"}
    assert all(row["step"] == row["steps_total"] for row in rows)


def test_the_teacher_is_run_once_for_trials_of_one_seed(launched: Path) -> None:
    """A launch shares its outputs: each of the steps is run, or read, and some are read."""
    rows = [row for row in rows_of(launched) if row["teacher_network"]]
    assert all(row["teacher_steps_run"] + row["teacher_steps_read"] >= row["step"] for row in rows)
    assert sum(row["teacher_steps_read"] for row in rows) > 0
    assert {row["teacher_steps_run"] for row in rows_of(launched) if not row["teacher_network"]} == {None}


def test_one_value_from_yaml_to_parquet(launched: Path) -> None:
    rows = [row for row in rows_of(launched) if row["stage"] == "temperature"]
    assert sorted((row["temperature"], row["seed"]) for row in rows) == [(1, 1), (1, 2), (4, 1), (4, 2)]
    for row in rows:
        assert json.loads(row["config"])["losses"]["pi"]["temperature"] == row["temperature"]
        assert row["trial_id"] == f"temperature-{row['config_id']}-s{row['seed']}"
    students = [row for row in rows_of(launched) if row["stage"] == "student"]
    assert {row["temperature"] for row in students} == {None}
    assert {row["lambda_pi"] for row in students} == {None}


def test_whose_a_trial_is(launched: Path) -> None:
    """``method`` and ``network`` tell the teacher from the student: the best of a method is not the teacher's."""
    rows = rows_of(launched)
    assert {row["stage"] for row in rows if row["method"] == "teacher"} == {"teacher"}
    assert {row["stage"] for row in rows if row["method"] == "student"} == {"student", "final", "initialization"}
    assert {row["network"] for row in rows if row["method"] == "teacher"} == {"pspnet-resnet18-0.125"}
    others = {(row["network"], row["teacher_network"]) for row in rows if row["method"] == "pi"}
    assert others == {("pspnet-resnet18-0.0625", "pspnet-resnet18-0.125")}
    path = launched / "tiny" / "trials.parquet"
    best = duckdb.sql(f"select method, max(miou) from '{path}' group by method").fetchall()
    (teacher,) = [row["miou"] for row in rows if row["stage"] == "teacher"]
    assert dict(best)["teacher"] == teacher


def test_the_best_of_one_stage_starts_the_next(launched: Path) -> None:
    rows = rows_of(launched)
    best = best_config([row for row in rows if row["stage"] == "distill"])[0]
    later = [row for row in rows if row["stage"] == "temperature"]
    assert {(row["lr"], row["weight_decay"]) for row in later} == {(best["lr"], best["weight_decay"])}
    final = [row for row in rows if row["stage"] == "final"]
    assert {(row["start"], row["method"]) for row in final} == {("student", "student"), ("weight-pi", "pi")}
    teacher = next(row for row in rows if row["stage"] == "teacher")
    used = {json.loads(row["config"])["teacher"]["checkpoint"] for row in rows if row["method"] == "pi"}
    assert used == {f"trial:{teacher['trial_id']}"}


def test_temperature_changes_the_loss_and_not_the_first_weights(launched: Path) -> None:
    """Equal seeds, equal batches: what differs between two temperatures is the temperature alone."""
    history = results("tiny", str(launched)).table("history").to_pandas()
    trials = results("tiny", str(launched)).table("trials").to_pandas()
    cold, hot = (
        trials[(trials.stage == "temperature") & (trials.seed == 1) & (trials.temperature == t)].trial_id.item()
        for t in (1, 4)
    )
    first = history[history.step == 2].set_index("trial_id")
    assert first.loc[cold, "loss_pi"] != first.loc[hot, "loss_pi"]
    assert first.loc[cold, "loss_ce"] == pytest.approx(first.loc[hot, "loss_ce"], rel=0.2)


def test_tables_read_by_everyone(launched: Path) -> None:
    for name in ("trials", "history", "optimal", "final", "emissions", "nodes"):
        path = launched / "tiny" / f"{name}.parquet"
        table = pq.read_table(path)
        assert list(pd.read_parquet(path).columns) == table.column_names
        assert duckdb.sql(f"select count(*) from '{path}'").fetchall() == [(table.num_rows,)]
    assert {row["stage"] for row in rows_of(launched, "optimal")} == set(TRIALS) - {"teacher"}
    assert {(row["method"], row["seeds"]) for row in rows_of(launched, "final")} == {("student", 2), ("pi", 2)}


def test_energy_of_trials_and_idle_time_is_that_of_the_node(launched: Path) -> None:
    (node,) = rows_of(launched, "nodes")
    assert node["trials_kwh"] + node["idle_kwh"] == pytest.approx(node["energy_kwh"], rel=1e-9)
    assert node["cpu_kwh"] + node["ram_kwh"] + node["gpu_kwh"] == pytest.approx(node["energy_kwh"], rel=1e-9)
    trials = rows_of(launched)
    assert all(row["energy_kwh"] > 0 for row in trials)
    used = sum(row["energy_kwh"] + (row["inference_kwh"] or 0) for row in trials)
    assert 0 < used <= node["trials_kwh"]  # what they used beside: starting, writing weights
    # four images at up to four evaluations, and those over before the meter can be read again do not count
    assert {row["inference_images"] for row in trials} <= {None, 4, 8, 12, 16}
    assert all((row["inference_images"] is None) == (row["inference_kwh"] is None) for row in trials)
    emissions = {(row["model"], row["phase"]): row for row in rows_of(launched, "emissions")}
    assert len(emissions) == 7  # the distilled training with a whole teacher, and as it was
    assert {row["country"] for row in emissions.values()} == {"DEU"}
    assert all((row["energy_kwh"] or 1) > 0 for row in emissions.values())
    assert all(row["energy_kwh"] for (_, phase), row in emissions.items() if phase == "training")
    final = [row for row in trials if row["stage"] == "final" and row["method"] == "pi"]
    for phase, name in {"training": "energy_alone_kwh", "training, teacher shared": "energy_kwh"}.items():
        used = sum(row[name] for row in final) / len(final)
        assert emissions["student+kd", phase]["energy_kwh"] == pytest.approx(used)
    told = kdtune("status", "tiny", "--storage", launched)
    assert "energy so far: " in told.stdout


def test_history_has_a_row_per_evaluation(launched: Path) -> None:
    history = results("tiny", str(launched)).table("history").to_pandas()
    steps = history.groupby("trial_id").step.apply(list)
    assert all(found == ([2, 4, 6, 8] if name.startswith("teacher") else [2, 4, 6]) for name, found in steps.items())
    last = history[(history.step == 6) & (history.stage != "teacher")]
    assert (last.lr_now == 0).all()  # equation 4 with i = eta
    assert last[last.trial_id.str.startswith("final")].loss_ce.notna().all()


def test_output_goes_where_it_belongs(launched: Path) -> None:
    stdout, stderr = (launched / "stdout").read_text(), (launched / "stderr").read_text()
    assert "best configuration of each stage" in stdout
    assert "Ray dashboard: http://" in stderr
    assert "student: 4 completed" in stderr
    assert re.search(r"; more: kdtune results /\S+/tiny\.yaml --storage ", stderr), "as it was given"
    assert "\x1b" not in stdout + stderr


def test_the_number_of_threads_is_the_studys(launched: Path) -> None:
    """One for all stages, also for that of a single trial; decided where the study began."""
    (number,) = {row["threads"] for row in rows_of(launched)}
    assert results("tiny", str(launched)).storage.read_study()["threads"] == number
    said = f"{number} thread{'s' * (number > 1)} per trial, from now on part of the study"
    assert said in (launched / "stderr").read_text()
    assert {json.loads(row["config"])["threads"] for row in rows_of(launched)} == {number}


def test_launching_again_runs_nothing(again: Path) -> None:
    before = rows_of(again)
    threads = str(before[0]["threads"])
    done = kdtune("launch", again / "tiny.yaml", "--storage", again, "--scheduler", "none", "--threads", threads)
    assert done.stderr.count("nothing left to run") == len(TRIALS)
    done = kdtune("launch", again / "tiny.yaml", "--storage", again, "--scheduler", "none")
    assert done.returncode == 0, done.stderr
    assert rows_of(again) == before  # times too: nothing was run
    assert done.stderr.count("nothing left to run") == len(TRIALS)
    assert "has changed" not in done.stderr


def test_a_launch_that_fails_at_once_changes_nothing(again: Path, tmp_path: Path) -> None:
    """A changed study and a cluster that is not there: no trial is moved, no table, plan or study file is written."""
    study = write_study(tmp_path, STUDY.replace("recipe.lr: [1e-1, 1e-2]", "recipe.lr: [1e-1, 1e-3]"))

    def contents() -> dict[Path, bytes]:
        own = {"launch.json", "launch.log"}  # of the launch that failed
        files = [path for path in (again / "tiny").rglob("*") if path.is_file() and path.name not in own]
        return {path: path.read_bytes() for path in files}

    before = contents()
    refusals = {
        "--address 127.0.0.1:9: no Ray cluster answers": ("--address", "127.0.0.1:9"),
        "--country 'XXX': codecarbon knows no such country": ("--country", "XXX"),
        "no such file 'nowhere.pt'": ("--teacher", "nowhere.pt"),
    }
    for told, words in refusals.items():
        done = kdtune("launch", study, "--storage", again, "--scheduler", "none", *words)
        assert done.returncode == 2, done.stderr
        assert told in done.stderr
        assert contents() == before, told


def test_a_changed_study_runs_only_what_the_change_affects(again: Path, tmp_path: Path) -> None:
    before = {row["trial_id"]: row for row in rows_of(again)}
    study = write_study(tmp_path, STUDY.replace("losses.pi.weight: [1e-1, 2]", "losses.pi.weight: [1e-1, 3]"))
    done = kdtune("launch", study, "--storage", again, "--scheduler", "none", "--stage", "weight-pi")
    assert done.returncode == 0, done.stderr
    assert "stages.weight-pi.grid.losses.pi.weight; only what that affects" in done.stderr
    assert "per trial, as the study began" in done.stderr
    now = {row["trial_id"]: row for row in rows_of(again)}
    assert len(now.keys() - before.keys()) == 1
    assert all(now[name] == row for name, row in before.items() if name in now)
    (old,) = results("tiny", str(again)).storage.table("superseded").to_pylist()
    assert old["lambda_pi"] == 2
    back = kdtune("launch", again / "tiny.yaml", "--storage", again, "--scheduler", "none")
    assert back.returncode == 0, back.stderr
    assert {row["trial_id"]: row for row in rows_of(again)} == before  # the old row was kept, and is back


def test_a_diverged_trial_loses_and_the_study_goes_on(tmp_path: Path) -> None:
    study = write_study(tmp_path, STUDY.replace("recipe.lr: [1e-1, 1e-2]", "recipe.lr: [1e30, 1e-2]"))
    done = kdtune("launch", study, "--storage", tmp_path, "--stage", "student", "--threads", "1")
    assert done.returncode == 0, done.stderr
    rows = rows_of(tmp_path)
    diverged = [row for row in rows if row["lr"] == 1e30]
    assert [row["status"] for row in diverged] == ["diverged", "diverged"]
    assert all(row["step"] < row["steps_total"] and row["miou"] is None for row in diverged)  # NaN did not run on
    (optimal,) = rows_of(tmp_path, "optimal")
    assert optimal["lr"] == 1e-2
    assert "diverged" in done.stdout


def test_the_best_of_nothing_is_an_error_that_says_so(tmp_path: Path) -> None:
    study = write_study(tmp_path, STUDY.replace("recipe.lr: [1e-1, 1e-2]", "recipe.lr: [1e30, 1e31]"))
    args = ("--storage", tmp_path, "--stage", "student", "--stage", "final", "--threads", "1")
    done = kdtune("launch", study, *args, "--set", "recipe.num_steps=2")
    assert done.returncode == 1
    assert "stage 'student' has no completed configuration" in done.stderr
    assert "4 diverged" in done.stderr
    assert "continue with: kdtune launch" in done.stderr
    assert len(journals(tmp_path)) == 4


def test_a_given_teacher_is_evaluated_first_and_a_weak_one_is_named(launched: Path, tmp_path: Path) -> None:
    """Its mIoU is a row, the stage that would train one is left out, and content decides what it is."""
    (trained,) = [row for row in rows_of(launched) if row["stage"] == "teacher"]
    weights = launched / "tiny" / "checkpoints" / trained["trial_id"] / "student.safetensors"
    copy = tmp_path / "anywhere.safetensors"
    copy.write_bytes(weights.read_bytes())
    stages = [word for name in ("teacher", "student", "distill") for word in ("--stage", name)]
    args = ("--storage", tmp_path, "--teacher", copy, "--scheduler", "none", *stages)
    done = kdtune("launch", write_study(tmp_path), *args)
    assert done.returncode == 0, done.stderr
    rows = rows_of(tmp_path)
    (row,) = [row for row in rows if row["stage"] == "teacher"]
    assert (row["step"], row["status"]) == (0, "completed")
    assert row["miou"] == trained["miou"]
    best_student = max(r["miou"] for r in rows if r["stage"] == "student")
    assert ("does not beat the student" in done.stderr) == (row["miou"] <= best_student)
    assert all("sha256:" in r["config"] for r in rows if r["method"] == "pi")
    assert str(copy) not in "".join(r["config"] for r in rows)
    assert essence(tmp_path, "trials") != essence(launched, "trials")


def test_a_teacher_of_another_architecture_is_refused_before_any_step(tmp_path: Path) -> None:
    import torch

    wrong = tmp_path / "wrong.pt"
    torch.save({"classifier.weight": torch.zeros(3, 3), "extra": torch.zeros(1)}, wrong)
    done = kdtune("launch", write_study(tmp_path), "--storage", tmp_path, "--teacher", wrong)
    assert done.returncode == 2
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("kdtune: ")]
    assert "weights of another architecture" in line
    assert "unknown, first extra" in line
    assert not [r for r in journals(tmp_path).values() if r["row"]["method"] == "pi"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system with room for the tables, and for few checkpoints."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", str(disk)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no right to mount a small file system here")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_full_disk_loses_nothing(tmp_path: Path, small_disk: Path) -> None:
    study = write_study(tmp_path)
    args = ("launch", study, "--storage", small_disk, "--stage", "student", "--scheduler", "none", "--threads", "1")
    done = kdtune(*args)
    assert done.returncode == 2, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("kdtune: ")]
    assert "No space left on device" in line
    assert "--storage" in line
    kept = {n: e["row"]["finished_at"] for n, e in journals(small_disk).items() if e["row"]["status"] == "completed"}
    assert len(kept) < 4
    again = kdtune(*args)  # onto a disk that is still full
    (line,) = [line for line in again.stderr.splitlines() if line.startswith("kdtune: ")]
    assert (again.returncode, "No space left on device" in line, "Traceback" in again.stderr) == (2, True, False)
    subprocess.run(["mount", "-o", "remount,size=16m", str(small_disk)], check=True)
    done = kdtune(*args)
    assert done.returncode == 0, done.stderr
    now = journals(small_disk)
    assert len(now) == 4
    assert all(now[name]["row"]["finished_at"] == at for name, at in kept.items())


def test_on_a_running_cluster(tmp_path: Path) -> None:
    """The cluster of another process, with the token that Ray asks for; it goes on when the launch has ended."""
    begin = "ray.init(num_cpus=2, include_dashboard=False).address_info['gcs_address']"
    code = f"import ray; print({begin}, flush=True); input()"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    head = subprocess.Popen([sys.executable, "-c", code], text=True, **pipes)
    assert head.stdin is not None
    assert head.stdout is not None
    try:
        address = head.stdout.readline().strip()
        args = ("--stage", "student", "--storage", tmp_path, "--address", address, "--threads", "1")
        done = kdtune("launch", write_study(tmp_path), *args)
        assert done.returncode == 0, done.stderr
        assert len(rows_of(tmp_path)) == 4
        assert head.poll() is None
        _interrupt_the_look(tmp_path, address, head.pid)
    finally:
        head.communicate("\n", timeout=60)
    done = kdtune("launch", tmp_path / "tiny.yaml", *args)
    assert done.returncode == 0, done.stderr  # nothing is left to run, so no cluster is needed
    done = kdtune("launch", tmp_path / "tiny.yaml", *args, "--storage", tmp_path / "other")
    assert done.returncode == 2
    assert f"--address {address}: no Ray cluster answers there" in done.stderr


def _interrupt_the_look(folder: Path, address: str, head: int) -> None:
    """Ctrl-C while nodes look at more images than they can draw in a minute: an end in order, within seconds."""
    many = ("--set", "dataset.num_train=1000000", "--storage", folder / "interrupted", "--address", address)
    process = start("launch", folder / "tiny.yaml", "--stage", "student", *many)
    try:
        assert process.stderr is not None
        while "reading demo" not in process.stderr.readline():
            assert process.poll() is None
        until(lambda: bool(workers(head, "_look")))
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    finally:
        end(process)
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    assert "interrupted; nothing finished is lost; continue with: kdtune launch" in errors


@pytest.mark.parametrize("search", ["random", "tpe"])
def test_other_searches(tmp_path: Path, search: str) -> None:
    args = ("--stage", "student", "--search", search, "--samples", "3", "--storage", tmp_path)
    done = kdtune("launch", write_study(tmp_path), *args, "--scheduler", "none")
    assert done.returncode == 0, done.stderr
    rows = rows_of(tmp_path)
    assert len(rows) == 3  # of the four of the grid, none twice
    again = kdtune("launch", tmp_path / "tiny.yaml", *args, "--scheduler", "none")
    assert again.returncode == 0, again.stderr
    assert rows_of(tmp_path) == rows
    id_ = rows[0]["trial_id"]
    anew = kdtune("launch", tmp_path / "tiny.yaml", *args, "--scheduler", "none", "--again", id_)
    assert anew.returncode == 0, anew.stderr
    now = {row["trial_id"]: row for row in rows_of(tmp_path)}
    assert [row["trial_id"] for row in rows if now.pop(row["trial_id"])["attempt"] != row["attempt"]] == [id_]
    assert not now
