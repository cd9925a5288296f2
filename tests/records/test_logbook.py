"""What a launch leaves on storage for those who watch it: its log, who it is, and the request to end it."""

import inspect
import json
import os
import platform
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kdtune.base import Interrupted
from kdtune.filesystem.folder import Folder
from kdtune.filesystem.lock import Held
from kdtune.records import logbook as logbooks
from kdtune.records.launched import Launched, asked, here, read_launch, write_launch
from kdtune.records.logbook import LOG_LINES, STOP, logbook, read_log, request_stop, stop_requests
from kdtune.records.progress import Reporter, Several
from kdtune.text import without_credentials

JOB = json.dumps({"metadata": {"job_submission_id": "tiny-1", "job_name": "tiny"}, "runtime_env": {}})


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(str(tmp_path / "tiny"))


class Heard(Reporter):
    """Notes the name of everything that it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __getattribute__(self, name: str) -> Any:
        if name in events():
            object.__getattribute__(self, "names").append(name)
        return object.__getattribute__(self, name)


def events() -> list[str]:
    """What a launch tells a reporter."""
    return [name for name in vars(Reporter) if not name.startswith("_") and name != "due"]


def test_several_reporters_are_told_everything() -> None:
    first, second = Heard(), Heard()
    both = Several(first, second)
    for name in events():
        given = inspect.signature(getattr(Reporter, name)).parameters
        getattr(both, name)(*[None] * (len(given) - 1))
    assert first.names == second.names == events()


def test_the_log_has_every_line_with_its_time_and_goes_on(folder: Folder) -> None:
    for number in (1, 2):
        with logbook(folder, here((), None, None), Held("t"), Reporter()) as told:
            told.note(f"line {number}")
            told.warn("look at this")
    lines = read_log(folder)
    texts = [line.split(" ", 1)[1] for line in lines]
    assert texts[1:4] == ["line 1", "warning: look at this", "ended: finished"]
    assert texts[5:] == ["line 2", "warning: look at this", "ended: finished"]
    assert f"process {os.getpid()} on {platform.node()}" in texts[0]
    assert all(line.split(" ", 1)[0].endswith("+00:00") for line in lines)
    stamps = [line.split(" ", 1)[0] for line in lines]
    assert stamps == sorted(stamps)


def test_the_log_is_bounded(folder: Folder) -> None:
    with logbook(folder, here((), None, None), Held("t"), Reporter()) as told:
        for number in range(LOG_LINES + 10):
            told.note(f"line {number}")
    lines = read_log(folder)
    assert len(lines) == LOG_LINES
    assert lines[-2].endswith(f"line {LOG_LINES + 9}")


def test_the_log_is_there_while_the_launch_runs(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logbooks, "LOG_EVERY", 0.05)
    with logbook(folder, here((), None, None), Held("t"), Reporter()) as told:
        told.note("early")
        until(lambda: any(line.endswith("early") for line in read_log(folder)))


def test_no_storage_failure_ends_a_launch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Here the folder's name is that of a file for a while: reading and writing fail; then it is whole again."""
    monkeypatch.setattr(logbooks, "LOG_EVERY", 0.02)
    folder = Folder(str(tmp_path / "tiny"))
    (tmp_path / "tiny").write_text("no folder")
    with logbook(folder, here((), None, None), Held("t"), Reporter()) as told:
        told.note("said while the storage was away")
        time.sleep(0.2)
        (tmp_path / "tiny").unlink()
        until(lambda: len(read_log(folder)) > 1)
    assert any("while the storage was away" in line for line in read_log(folder))
    launch = read_launch(folder)
    assert launch is not None
    assert launch.outcome == "finished"


def test_a_launch_that_has_lost_the_study_leaves_its_files_alone(folder: Folder) -> None:
    held = Held("t")
    with logbook(folder, here((), None, None), held, Reporter()) as told:
        write_launch(folder, Launched(started_at="2026-01-02T03:04:05+00:00", host="other", pid=1))
        held.lost.set()
        told.note("a line of the wrong one")
    launch = read_launch(folder)
    assert launch is not None
    assert (launch.host, launch.outcome) == ("other", None)
    assert read_log(folder) == []


def test_who_runs_is_on_storage_and_why_it_ended(folder: Folder) -> None:
    def run() -> None:
        with logbook(folder, here(["student"], "h:6379", "kdtune launch tiny"), Held("t"), Reporter()):
            launch = read_launch(folder)
            assert launch is not None
            assert (launch.host, launch.pid, launch.stages) == (platform.node(), os.getpid(), ["student"])
            assert (launch.address, launch.ended_at) == ("h:6379", None)
            raise Interrupted("stopped on request; nothing finished is lost")

    with pytest.raises(Interrupted):
        run()
    launch = read_launch(folder)
    assert launch is not None
    assert launch.ended_at is not None
    assert launch.outcome == "stopped on request; nothing finished is lost"
    assert launch.command == "kdtune launch tiny"


def test_a_job_knows_its_id_and_keeps_what_its_submitter_wrote(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    write_launch(
        folder,
        Launched(started_at="2026-01-02T03:04:05+00:00", submission_id="tiny-1", address="http://h:8265", command="c"),
    )
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", JOB)
    with logbook(folder, here((), "auto", "kdtune launch study.yaml"), Held("t"), Reporter()):
        launch = read_launch(folder)
    assert launch is not None
    assert (launch.submission_id, launch.address, launch.command) == ("tiny-1", "http://h:8265", "c")
    assert launch.pid == os.getpid()


def test_stage_and_progress_are_published(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logbooks, "PUBLISH_EVERY", 0.02)
    published: list[dict[str, str]] = []
    with logbook(folder, here((), None, None), Held("t"), Reporter(), lambda facts: published.append(dict(facts))) as t:
        t.stage_started("student", 9, 2, 100)
        t.trial_started("student-1")
        until(lambda: bool(published))
        time.sleep(0.1)
    assert published[0] == {"stage": "student", "progress": "2/9 done, 1 running"}
    assert published[-1] == {"progress": "finished"}
    assert len(published) == 2  # nothing changed in between


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("s3://KEY:SECRET@bucket/runs", "s3://bucket/runs"),
        ("kdtune launch x --storage 's3://KEY:S@b/r?region=eu'", "kdtune launch x --storage 's3://b/r?region=eu'"),
        ("s3://b/r?access_key=KEY&secret_key=S&scheme=http", "s3://b/r?access_key=...&secret_key=...&scheme=http"),
        ("http://me:KEY@SECRET@head:8265", "http://head:8265"),
        ("see http://me:KEY/SECRET@head:8265/x, a@b", "see http://head:8265/x, a@b"),
        ("http://KEY@head:8265", "http://head:8265"),
        ("http://head:8265", "http://head:8265"),
        ("http://head:8265/a@b", "http://head:8265/a@b"),
        ("abfss://container@account/runs", "abfss://container@account/runs"),
        ("head:6379", "head:6379"),
    ],
)
def test_no_credentials_on_storage(folder: Folder, given: str, kept: str) -> None:
    assert without_credentials(given) == kept
    with logbook(folder, here((), given, given), Held("t"), Reporter()):
        pass
    text = (folder.read("launch.json") or b"").decode()
    assert "KEY" not in text
    assert "SECRET" not in text


def until(condition: Any, seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


def test_a_request_to_end_is_seen_and_taken_away(folder: Folder) -> None:
    asked: list[str] = []
    seen = threading.Event()

    def ask(reason: str) -> None:
        asked.append(reason)
        seen.set()

    with logbook(folder, here((), None, None), Held("t"), Reporter()), stop_requests(folder, ask, every=0.02):
        time.sleep(0.1)
        assert not asked
        request_stop(folder, None)
        assert seen.wait(20)
    assert asked[0] == "stopped on request"
    assert not folder.exists(STOP)


@pytest.mark.parametrize(("meant_for", "kept"), [(None, False), ("tiny-0", False), ("tiny-1", True)])
def test_an_old_request_does_not_end_a_new_launch(folder: Folder, meant_for: str | None, kept: bool) -> None:
    """But one that was made before the job's driver began does."""
    request_stop(folder, meant_for)
    me = replace(here((), None, None), submission_id="tiny-1")
    with logbook(folder, me, Held("t"), Reporter()):
        assert folder.exists(STOP) is kept


FIRST, NOW = "2026-01-02T03:00:00.000+00:00", "2026-01-03T00:00:00.000+00:00"


@pytest.mark.parametrize(
    ("before", "since"),
    [
        ({"outcome": "interrupted; nothing finished is lost"}, FIRST),
        ({}, FIRST),  # it ended without a word
        ({"outcome": "finished"}, NOW),
        ({"outcome": "interrupted", "command": "kdtune launch tiny --again '*'"}, NOW),
        ({"outcome": "interrupted", "command": "kdtune launch tiny", "asked_at": None}, NOW),
        ({"submission_id": "tiny-1", "command": "as it was submitted"}, FIRST),
        ({"submission_id": "tiny-1", "started_at": FIRST}, NOW),  # by the clock of the machine that submitted it
        (None, NOW),
    ],
)
def test_what_a_command_asks_for_outlives_a_launch_that_was_cut_off(
    tmp_path: Path, before: dict[str, Any] | None, since: str
) -> None:
    folder, command = Folder(str(tmp_path)), "kdtune launch tiny --again 'final-*'"
    if before is not None:
        told = {"started_at": "2026-01-02T03:04:05.000+00:00", "command": command, "asked_at": FIRST}
        write_launch(folder, Launched(**told | before))
    me = Launched(started_at=NOW, asked_at=NOW, command=command, submission_id="tiny-1")
    assert asked(folder, me).asked_at == since
    never = replace(me, asked_at=None, submission_id=None, command="kdtune launch tiny")
    assert asked(folder, never) == never
