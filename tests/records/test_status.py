"""How far a study is, from its storage alone."""

import json
import os
import platform
import shutil
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from kdtune.base import UserError
from kdtune.cli import main
from kdtune.filesystem.lock import LEASE, locked
from kdtune.records.holder import holder
from kdtune.records.launched import Launched, write_launch
from kdtune.records.status import status_of
from kdtune.records.status_lines import lines
from kdtune.records.storage import Record, Storage
from kdtune.records.trouble import Trouble, write
from tests.support.tiny import finished, study, write_tables

VERSIONS = {"kdtune": "0.1.0"}


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(str(tmp_path), "tiny")


def at(seconds_ago: float) -> str:
    return datetime.fromtimestamp(time.time() - seconds_ago, UTC).isoformat()


def trial(stage: str, miou: float | None, lr: float, seed: int = 0, **row: Any) -> Record:
    record = finished(stage, miou, {"recipe.lr": lr, "seed": seed}, **row)
    record["attempt"] = 1
    return record


def put(storage: Storage, records: Mapping[str, list[Record]]) -> None:
    """A study with these trials, by stage, all of them planned."""
    plan = {stage: [r["row"]["trial_id"] for r in of] for stage, of in records.items()}
    storage.write_study(study(), VERSIONS)
    storage.write_plan(plan)
    known = {r["row"]["trial_id"]: r for of in records.values() for r in of if r["row"]["status"] != "planned"}
    for record in known.values():
        storage.write_record(record)
    write_tables(storage, plan, known)


def launched(storage: Storage, seconds_ago: float = 60, **given: Any) -> None:
    facts = {"host": platform.node(), "pid": os.getpid(), "command": "kdtune launch tiny", **given}
    write_launch(storage.folder, Launched(started_at=at(seconds_ago), **facts))


def half_way(storage: Storage) -> None:
    """A teacher, two of the student's trials, the second one on its way, and no distillation yet."""
    put(
        storage,
        {
            "teacher": [trial("teacher", 40.0, 0.05)],
            "student": [
                trial("student", 31.5, 0.1),
                trial("student", 12.0, 0.01, status="running", step=4, steps_total=6, finished_at=None),
            ],
            "distill": [],
            "final": [],
        },
    )


def test_trials_are_counted_by_stage(storage: Storage) -> None:
    half_way(storage)
    found = status_of(storage)
    counts = {s.name: (s.planned, s.completed, len(s.under_way)) for s in found.stages}
    assert counts == {"teacher": (1, 1, 0), "student": (2, 1, 1), "distill": (2, 0, 0), "final": (4, 0, 0)}
    student = next(stage for stage in found.stages if stage.name == "student")
    assert (student.best, student.under_way[0].step, student.under_way[0].steps_total) == (31.5, 4, 6)
    assert student.best_trial is not None
    assert student.best_trial.startswith("student-")
    assert not found.done


def test_every_way_to_end_counts(storage: Storage) -> None:
    ways = ("completed", "stopped", "diverged", "failed")
    put(storage, {"student": [trial("student", 10.0 + i, 0.1 + i, status=way) for i, way in enumerate(ways)]})
    (stage,) = [stage for stage in status_of(storage).stages if stage.name == "student"]
    assert (stage.completed, stage.stopped, stage.diverged, stage.failed, stage.finished) == (1, 1, 1, 1, 4)
    assert stage.best == 10.0  # of completed trials alone


def test_a_best_by_a_term_that_is_our_reconstruction_is_told_as_such(storage: Storage) -> None:
    put(storage, {"teacher": [trial("teacher", 40.0, 0.05)], "student": [trial("student", 31.5, 0.1, method="csc")]})
    told = lines(status_of(storage))
    assert [" 31.50†  student-" in line for line in told].count(True) == 1
    assert [" 40.00  teacher-" in line for line in told].count(True) == 1
    assert told.count("†: our reconstruction of the term, not the authors'") == 1


def test_the_journals_of_finished_trials_are_not_read(storage: Storage) -> None:
    """There may be thousands of them; the table has what they say. Here they say something else."""
    half_way(storage)
    before = status_of(storage).stages
    for record in storage.records().values():
        if record["row"]["status"] == "completed":
            record["row"] |= {"status": "diverged", "miou": None}
            storage.write_record(record)
    assert status_of(storage).stages == before


def test_a_trial_that_ended_since_the_table_was_written_counts(storage: Storage) -> None:
    half_way(storage)
    storage.write_record(trial("student", 33.0, 0.01))
    student = next(stage for stage in status_of(storage).stages if stage.name == "student")
    assert (student.completed, student.under_way, student.best) == (2, (), 33.0)


def test_it_runs_while_its_lock_is_held(storage: Storage) -> None:
    half_way(storage)
    with locked(storage.folder):
        launched(storage)
        found = status_of(storage)
        assert found.state == "running"
        assert f"process {os.getpid()} on {platform.node()}" in found.told
    launched(storage, ended_at=at(0), outcome="stopped on request; nothing finished is lost")
    found = status_of(storage)
    assert found.state == "ended"
    assert "stopped on request" in found.told
    assert "continue with: kdtune launch tiny" in lines(found)


def test_time_left_is_told_from_the_pace_of_this_launch(storage: Storage) -> None:
    """6 + 6 + 4 steps within the minute since it began; 2 + 2 x 6 + 4 x 6 are left."""
    ended = {"started_at": time.time() - 50, "finished_at": time.time() - 10}
    half_way(storage)
    for record in storage.records().values():
        record["row"] |= ended if record["row"]["status"] == "completed" else {"started_at": time.time() - 9}
        storage.write_record(record)
    write_tables(storage, storage.plan(), storage.records())
    launched(storage, 60)
    with locked(storage.folder):
        assert status_of(storage).seconds_left == pytest.approx(60 * 38 / 16, rel=0.05)
        launched(storage, 60, stages=["student"])  # only these
        assert status_of(storage).seconds_left == pytest.approx(60 * 2 / 16, rel=0.05)
    assert status_of(storage).seconds_left is None  # nothing runs


def test_steps_before_this_launch_do_not_count(storage: Storage) -> None:
    """The running trial has trained 4 steps in 5000 s, of which the launch saw one minute; the others ended before."""
    half_way(storage)
    for record in storage.records().values():
        ended = record["row"]["finished_at"] and time.time() - 4000
        record["row"] |= {
            "started_at": time.time() - 6000,
            "finished_at": ended,
            "train_seconds": 1.0 if ended else 5000.0,
        }
        storage.write_record(record)
    write_tables(storage, storage.plan(), storage.records())
    launched(storage, 60)
    with locked(storage.folder):
        assert status_of(storage).seconds_left == pytest.approx(38 * 5000 / 4, rel=0.05)


def other_host(storage: Storage, age: float) -> None:
    lock = Path(storage.folder.uri, "lock.json")
    lock.write_text(json.dumps({"host": "elsewhere", "pid": 7, "created": 1.0, "token": "t", "since": at(age)}))
    os.utime(lock, (time.time() - age, time.time() - age))


@pytest.mark.parametrize(("age", "state"), [(3.0, "running"), (LEASE + 30, "silent")])
def test_a_launch_of_another_host_is_known_by_its_signs_of_life(storage: Storage, age: float, state: str) -> None:
    half_way(storage)
    launched(storage, host="elsewhere", pid=7)
    other_host(storage, age)
    found = status_of(storage)
    assert found.state == state
    assert "process 7 on elsewhere, last seen" in found.told


def test_a_killed_launch_is_told_as_such(storage: Storage) -> None:
    half_way(storage)
    launched(storage, pid=4)
    lock = Path(storage.folder.uri, "lock.json")
    with locked(storage.folder):
        dead = json.loads(lock.read_text()) | {"created": 1.0}  # our pid, but another process
    lock.write_text(json.dumps(dead))
    assert holder(storage.folder).state == "none"
    found = status_of(storage)
    assert found.state == "ended"
    assert "ended without a word" in found.told
    assert any(line.startswith("cut off student-") for line in lines(found))


def test_a_submitted_job_is_known_before_its_driver_is_up(storage: Storage) -> None:
    write_launch(storage.folder, Launched(started_at=at(5), submission_id="tiny-1", address="http://h:8265"))
    found = status_of(storage)
    assert (found.state, found.stages) == ("submitted", ())
    assert "job tiny-1: not asked" in lines(found)


def test_a_finished_study_says_so(storage: Storage) -> None:
    trials = {
        "teacher": [trial("teacher", 40.0, 0.05)],
        "student": [trial("student", 30.0, lr) for lr in (0.1, 0.01)],
        "distill": [trial("distill", 30.0, lr) for lr in (0.1, 0.01)],
        "final": [trial("final", 30.0, lr, seed) for lr in (0.1, 0.01) for seed in (11, 12)],
    }
    put(storage, trials)
    launched(storage, ended_at=at(0), outcome="finished")
    found = status_of(storage)
    assert found.done
    assert lines(found)[0] == "study tiny: finished"
    assert not any("continue" in line for line in lines(found))


def test_a_study_that_was_never_launched(storage: Storage) -> None:
    with pytest.raises(UserError, match="study 'tiny' has not been launched with this storage"):
        status_of(storage)


def test_a_grid_of_ten_thousand_million_points(storage: Storage) -> None:
    """Somebody else's: it is refused in one line, and not listed to be counted."""
    put(storage, {})
    text = yaml.safe_load(storage.folder.read("study.yaml") or b"")
    values = [i / 1e3 for i in range(1, 101)]
    paths = ("recipe.lr", "recipe.weight_decay", *(f"losses.{name}.weight" for name in ("ce", "a", "b")))
    text["stages"][0]["grid"] = {path: values for path in paths}
    storage.folder.write("study.yaml", yaml.safe_dump(text).encode())
    began = time.process_time()
    with pytest.raises(UserError, match=r"study\.yaml: .*comes to 10000000000 trials.* at most 100000"):
        status_of(storage)
    assert time.process_time() - began < 5


def test_on_the_command_line(storage: Storage) -> None:
    half_way(storage)
    launched(storage, ended_at=at(0), outcome="stopped on request; nothing finished is lost")
    done = CliRunner().invoke(main, ["status", "tiny", "--storage", storage.root, "--format", "json"])
    assert done.exit_code == 0, done.output
    data = json.loads(done.stdout)
    assert data["state"] == "ended"
    assert [stage["name"] for stage in data["stages"]] == ["teacher", "student", "distill", "final"]
    assert data["stages"][1]["under_way"][0]["step"] == 4
    text = CliRunner().invoke(main, ["status", "tiny", "--storage", storage.root]).stdout
    assert "stage    planned  completed  stopped  diverged  failed  cut off  best run, mIoU" in text
    shutil.rmtree(storage.folder.uri)
    done = CliRunner().invoke(main, ["status", "tiny", "--storage", storage.root])
    assert done.exit_code == 2
    assert len(done.stderr.splitlines()) == 1


def test_the_log_on_the_command_line(storage: Storage) -> None:
    half_way(storage)
    launched(storage, ended_at=at(0), outcome="finished")
    storage.folder.write("launch.log", b"2026-01-02T03:04:05.000+00:00 student: 2 trials\n")
    for flags in ([], ["-f"]):
        done = CliRunner().invoke(main, ["logs", "tiny", "--storage", storage.root, *flags])
        assert done.stdout == "2026-01-02T03:04:05.000+00:00 student: 2 trials\n", done.output


def test_nothing_to_stop(storage: Storage) -> None:
    half_way(storage)
    launched(storage, ended_at=at(0), outcome="finished")
    done = CliRunner().invoke(main, ["stop", "tiny", "--storage", storage.root])
    assert done.exit_code == 0
    assert "not running" in done.stderr
    assert not storage.folder.exists("stop.json")


def test_a_launch_that_does_not_end_is_named(storage: Storage) -> None:
    half_way(storage)
    launched(storage)
    with locked(storage.folder):  # and does not look for requests
        done = CliRunner().invoke(main, ["stop", "tiny", "--storage", storage.root, "--timeout", "0.5"])
    assert done.exit_code == 1
    assert f"process {os.getpid()}" in done.stderr.splitlines()[-1]
    assert storage.folder.exists("stop.json")


def test_what_hangs_and_what_waits_is_shown_while_the_launch_runs(storage: Storage) -> None:
    half_way(storage)
    running = next(t.trial_id for stage in status_of(storage).stages for t in stage.under_way)
    told = {running: "stalled: no step for 2 min; ended, and tried once more"}
    write(storage.folder, Trouble(told, "waiting for 1 GPU for a trial", time.time() - 125))
    with locked(storage.folder):
        launched(storage)
        shown = lines(status_of(storage))
    assert any(line.startswith(f"running {running}: ") and line.endswith(f", {told[running]}") for line in shown)
    assert "waiting for 1 GPU for a trial since 2 min" in shown
    assert not any(
        "stalled" in line or "waiting" in line for line in lines(status_of(storage))
    )  # of a launch that died


def test_trials_that_wait_to_be_judged_are_not_shown_as_running(storage: Storage) -> None:
    """Rungs of six steps: 2 and 3. What was judged there goes on, what stands between them runs."""
    on_way = {"status": "running", "steps_total": 6, "finished_at": None}
    waits, goes_on, between = (
        trial("student", 9.0, lr, step=step, **on_way) for lr, step in ((0.1, 3), (0.2, 2), (0.3, 1))
    )
    for record in (waits, goes_on, between):
        record["history"] = [{"step": record["row"]["step"], "miou": 9.0}]
    goes_on["history"][0]["rung_cut"] = 8.0
    put(storage, {"student": [waits, goes_on, between]})
    storage.write_study(study().model_copy(update={"scheduler": "halving"}), VERSIONS)
    with locked(storage.folder):
        launched(storage)
        shown = lines(status_of(storage))
    assert f"waiting at rung 2 {waits['row']['trial_id']}: step 3 of 6" in shown
    for record in (goes_on, between):
        assert any(line.startswith(f"running {record['row']['trial_id']}: ") for line in shown)
    head, row = (next(line for line in shown if line.startswith(word)) for word in ("stage ", "student "))
    assert head.split()[6:8] == ["running", "waiting"]
    assert row.split()[-2:] == ["2", "1"]


def test_a_study_of_which_nothing_is_known_is_not_called_finished(tmp_path: Path) -> None:
    where = Storage(str(tmp_path), "tiny")
    write_launch(
        where.folder, Launched("2026-01-02T03:04:05+00:00", host="head", pid=1, outcome="lost", ended_at="2026")
    )
    found = status_of(where)
    assert not found.done
    assert found.told == "not running; the last launch ended at 2026 UTC: lost"


@pytest.mark.parametrize("status", ["stopped", "completed"])
def test_a_trial_that_runs_again_is_under_way(storage: Storage, status: str) -> None:
    """Its row stays in the table until it has ended."""
    before = trial("student", 31.5, 0.1, status=status)
    put(storage, {"student": [before, trial("student", 12.0, 0.01)]})
    launched(storage)
    student = next(stage for stage in status_of(storage).stages if stage.name == "student")
    assert (student.finished, student.done) == (2, True)
    storage.claim(trial("student", 20.0, 0.1, status="running", step=2, finished_at=None))
    student = next(stage for stage in status_of(storage).stages if stage.name == "student")
    assert [each.trial_id for each in student.under_way] == [before["row"]["trial_id"]]
    assert (student.finished, student.done, student.best) == (1, False, 12.0)


def test_a_trial_that_a_search_has_drawn_is_under_way_before_a_plan_has_it(storage: Storage) -> None:
    put(storage, {"student": [trial("student", 31.5, 0.1)]})
    stage = study().stage("student").model_copy(update={"search": "tpe", "samples": 3, "grid": {}})
    ranges = {"recipe.lr": {"low": 1e-3, "high": 1.0, "log": True}}
    data = study().model_dump(mode="json")
    data["stages"] = [data["stages"][0], stage.model_dump(mode="json") | {"ranges": ranges}]
    storage.write_study(type(study()).model_validate(data), VERSIONS)
    launched(storage, 60)
    now = {"status": "running", "step": 2, "finished_at": None}
    storage.claim(trial("student", 12.0, 0.02, **now, started_at=time.time() - 30))
    storage.claim(trial("student", 12.0, 0.03, **now, started_at=time.time() - 300))  # of another search, long ago
    student = next(stage for stage in status_of(storage).stages if stage.name == "student")
    assert [each.trial_id for each in student.under_way] == [trial("student", 12.0, 0.02)["row"]["trial_id"]]
    assert (student.planned, student.completed) == (3, 1)
