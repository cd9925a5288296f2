"""Launches that run elsewhere: handed to a cluster, looked at, followed and stopped from any machine.

The study's storage is asked first, Ray's Jobs API where there is a job and its cluster answers.
"""

import os
import time
from collections.abc import Callable
from dataclasses import replace
from ipaddress import ip_address
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from kdtune.base import RunError, UserError
from kdtune.cluster.auth import use_token
from kdtune.filesystem.folder import absolute
from kdtune.filesystem.lock import LEASE
from kdtune.records.holder import holder
from kdtune.records.launched import Launched, asked, now, read_launch, write_launch
from kdtune.records.logbook import LOG_EVERY, STOP, read_log, request_stop, withdraw_stop
from kdtune.records.status import Status, status_of
from kdtune.records.storage import Storage
from kdtune.records.stored_study import storage_root
from kdtune.search.networks import find_builders
from kdtune.search.options import Options, adjusted
from kdtune.study.file import load_study
from kdtune.study.plug_ins import needed_by_nodes
from kdtune.study.settings import kept_searches
from kdtune.study.spec import StudySpec
from kdtune.study.trial_config import STAGE_REFERENCE

if TYPE_CHECKING:
    from kdtune.cluster.jobs import JobState, Submission

QUICK, REAPED_WITHIN = 3.0, 5.0  # seconds: of a look at the cluster; until a killed process is off its machine's list
KILLED_WITHIN = 20.0  # seconds in which Ray ends a job: SIGTERM, SIGKILL three seconds later

Say = Callable[[str], None]


def stored(study: str, storage: str | None) -> Storage:
    """Where a study's results are, by its name or its file."""
    name = load_study(study).name if study.endswith((".yaml", ".yml")) else study
    return Storage(storage_root(storage), name, study)


def detach(
    study: StudySpec,
    *,
    storage: str | None,
    data_root: str | None,
    address: str | None,
    options: Options,
    command: str | None = None,
) -> "Submission":
    """Submits the launch of a study to a cluster as a Ray job; the study is sent as the options leave it.

    Raises:
        UserError: no cluster answers, or the study runs already, or it names what a cluster cannot see.
    """
    if not address:
        raise UserError("--detach needs a cluster: --address http://HOST:8265 (its dashboard), or RAY_ADDRESS")
    kept, study = kept_searches(study, options.changes), adjusted(study, options)
    _refuse_relative(study)
    find_builders(study, options.stages)
    where = Storage(storage_root(storage), study.name)
    _refuse_second(where, address)
    words = ["--storage", where.root]
    folder = data_root or os.environ.get("KDTUNE_DATA_ROOT")
    if folder:  # ~ is the home folder of the node
        words += ["--data-root", folder if folder.startswith("~") else absolute(folder)]
    words += options.words
    use_token()
    from kdtune.cluster import jobs  # Ray is imported now, when it knows of the token

    job = jobs.submit(study, words, address, where.root)
    job = replace(job, notes=(*kept, *needed_by_nodes(study), *job.notes))
    began = now()
    me = Launched(
        started_at=began,
        stages=list(options.stages),
        address=address,
        dashboard=job.dashboard,
        submission_id=job.id,
        command=command,
        asked_at=began if options.again else None,
    )
    try:
        found = read_launch(where.folder)
        if found is None or found.submission_id != job.id:  # else its driver is up already, and knows more
            write_launch(where.folder, asked(where.folder, me))
    except OSError as error:
        told = f"{where.folder.uri} cannot be written from here ({error.strerror or error})"
        return replace(job, notes=(*job.notes, f"{told}: kdtune status, logs and stop need its job's id"))
    return job


def _refuse_relative(study: StudySpec) -> None:
    """A path that means something in this folder only."""
    for stage in study.stages:
        for config in study.loading(stage):
            for path, reference in config.checkpoints().items():
                content = reference.startswith((STAGE_REFERENCE, "trial:", "sha256:", "~"))
                if not content and absolute(reference) != reference:
                    raise UserError(
                        f"{path} is '{reference}', relative to this folder: for --detach give its path on the "
                        "cluster's nodes from / on, or a URI"
                    )


def _refuse_second(where: Storage, address: str) -> None:
    """Whether the study runs already, as far as storage and cluster tell; the lock decides in the end."""
    try:
        launch, runs = read_launch(where.folder), holder(where.folder)
    except OSError:
        return
    by = runs.told if runs.state == "running" else None
    if by is None and launch is not None and launch.submission_id and launch.ended_at is None:
        state, _ = ask(launch, address)
        by = f"job {launch.submission_id}" if state is not None and not state.ended else None
    if by:
        raise UserError(
            f"{where.folder.uri}: this study is being launched by {by}; wait for it, or end it with "
            f"`kdtune stop {where.words}`"
        )


def ask(launch: Launched | None, address: str | None) -> "tuple[JobState | None, str | None]":
    """What the cluster says of a launch's job, or why it was not to be had; neither, if it is no job."""
    if launch is None or not launch.submission_id:
        return None, None
    target = _target(launch, address)
    if target is None:
        return None, _unknown(launch)
    use_token()
    from kdtune.cluster import jobs

    try:
        return jobs.state_of(launch.submission_id, target, QUICK), None
    except jobs.Unreachable as error:
        return None, str(error)


def _target(launch: Launched, address: str | None) -> str | None:
    """Where the cluster is asked, which is sent its token: where the user says, or on this very machine.

    Nowhere else by what a file of the results says: somebody else may have made it.
    """
    noted = next((each for each in (launch.address, launch.dashboard) if each and _is_here(each)), None)
    return address or os.environ.get("RAY_ADDRESS") or noted


def _is_here(address: str) -> bool:
    """Whether it is a dashboard on loopback."""
    try:
        parts = urlsplit(address)
        host = parts.hostname or ""
        return parts.scheme in ("http", "https") and (host == "localhost" or ip_address(host).is_loopback)
    except ValueError:
        return False


def _unknown(launch: Launched) -> str:
    noted = launch.address or launch.dashboard
    said = f"its launch names {noted}; to ask that cluster" if noted else "its cluster's address is not known"
    return f"{said}, give --address or RAY_ADDRESS"


def status(study: str, storage: str | None, address: str | None = None) -> Status:
    """A study's status, with what the cluster says of its job.

    Raises:
        UserError: it has never been launched with this storage.
    """
    found = status_of(stored(study, storage))
    job, why = ask(found.launch, address)
    if job is None:
        return replace(found, notes=(why,)) if why and found.state != "ended" else found
    told = found.told
    if found.state == "submitted" and job.ended:
        lines = (job.message or "").strip().splitlines() or ["no reason given"]
        found = replace(found, state="ended", told=f"not running; its job ended before the launch began: {lines[-1]}")
    elif found.state == "ended" and not job.ended and found.launch and not found.launch.ended_at:
        found = replace(found, state="running", told="running")  # its process cannot be seen from here
    elif found.state == "silent" and job.ended:
        found = replace(found, state="ended", told=f"not running; its job ended: {job.status}; {told}")
    return replace(found, job={"status": job.status, "message": job.message})


def logs(study: str, storage: str | None, address: str | None, *, follow: bool, write: Say, note: Say) -> None:
    """Writes what a study's latest launch said: the job's log where its cluster answers, else the log on storage.

    Raises:
        UserError: it has never been launched with this storage.
    """
    where = stored(study, storage)
    launch = read_launch(where.folder)
    if launch is None and not read_log(where.folder):
        raise UserError(f"{where.folder.uri}: no launch of study '{where.study}' has left a log there")
    if launch is not None and launch.submission_id:
        target = _target(launch, address)
        use_token()
        from kdtune.cluster import jobs

        try:
            if target is not None:
                jobs.tail(launch.submission_id, target, QUICK, write, follow=follow)
                return
            note(f"{_unknown(launch)}; this is {where.folder.uri}/launch.log")
        except jobs.Unreachable as error:
            note(f"{error}; this is {where.folder.uri}/launch.log")
    shown: list[str] = []
    while True:
        ended = not follow or _ended(where, address)  # before the log is read: its last lines are there then
        lines = read_log(where.folder)
        for line in _new(shown, lines):
            write(f"{line}\n")
        shown = lines or shown
        if ended:
            return
        time.sleep(LOG_EVERY / 2)


def _new(shown: list[str], lines: list[str]) -> list[str]:
    """The lines after the last one shown; the log drops old ones when it is full."""
    if not shown:
        return lines
    last = next((i for i in range(len(lines) - 1, -1, -1) if lines[i] == shown[-1]), -1)
    return lines[last + 1 :]


def _ended(where: Storage, address: str | None) -> bool:
    launch = read_launch(where.folder)
    if launch is not None and launch.host is None:  # submitted
        state, _ = ask(launch, address)
        return state is not None and state.ended
    return holder(where.folder).state != "running"


def stop(study: str, storage: str | None, address: str | None, timeout: float, note: Say) -> str:
    """Ends the launch of a study that runs, wherever it does: in order if it does so in time; says what came of it.

    Raises:
        UserError: it has never been launched with this storage.
        RunError: it still runs.
    """
    where = stored(study, storage)
    found = status(study, storage, address)
    launch = found.launch
    if found.state == "ended" or launch is None:
        return f"study {where.study}: {found.told}"
    note(f"study {where.study}: {found.told}; asking it to end")
    request_stop(where.folder, launch.submission_id)
    again = f"continue with: {launch.again or f'kdtune launch {where.words}'}"
    job, _ = ask(launch, address)
    if job is not None and job.status == "PENDING":  # nothing runs that could end in order
        return f"study {where.study}: {_stop_job(where, launch, address)}; {again}"
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        pending = found.state == "submitted"  # it has no lock yet; it takes the request away when it ends
        if not where.folder.exists(STOP) if pending else holder(where.folder).state == "none":
            withdraw_stop(where.folder)  # of a launch that was killed meanwhile
            return f"study {where.study}: stopped; nothing finished is lost; {again}"
        time.sleep(0.5)
    if job is not None:
        note(f"it has not ended within {timeout:.0f} s; having Ray end its job")
        return f"study {where.study}: {_stop_job(where, launch, address)}; {again}"
    raise RunError(f"study '{where.study}' still runs after {timeout:.0f} s: {found.told}; the request stands")


def _stop_job(where: Storage, launch: Launched, address: str | None) -> str:
    """Has Ray end a job, and notes that nobody else will note its end."""
    from kdtune.cluster import jobs

    target, name = _target(launch, address), launch.submission_id
    assert target is not None
    assert name is not None
    jobs.stop_job(name, target, QUICK)
    end = time.monotonic() + KILLED_WITHIN
    while not jobs.state_of(name, target, QUICK).ended:
        if time.monotonic() > end:
            raise RunError(
                f"job {name} of study '{where.study}' has not ended {KILLED_WITHIN:.0f} s after Ray was asked"
            )
        time.sleep(0.5)
    last = read_launch(where.folder) or launch
    if last.ended_at is None:
        write_launch(where.folder, replace(last, ended_at=now(), outcome="its job was stopped"))
    withdraw_stop(where.folder)
    end = time.monotonic() + REAPED_WITHIN
    while (rest := holder(where.folder).state != "none") and time.monotonic() < end:
        time.sleep(0.2)
    return f"job {name} was stopped" + (f"; its lock holds for up to {LEASE:.0f} s more" if rest else "")
