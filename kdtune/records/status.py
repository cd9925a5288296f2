"""How far a study is, told by its storage alone: any machine that reads it can ask, and Ray need not run there."""

import time
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from importlib import metadata
from typing import Any, Literal

from pydantic import ValidationError

from kdtune.base import UserError
from kdtune.records import trouble
from kdtune.records.holder import Holder, holder
from kdtune.records.launched import Launched, read_launch
from kdtune.records.progress import duration
from kdtune.records.rows import FINISHED, Row
from kdtune.records.storage import Record, Storage
from kdtune.study import graph
from kdtune.study.faults import told as told_of
from kdtune.study.names import stage_of
from kdtune.study.rungs import rungs_of
from kdtune.study.spec import StudySpec

State = Literal["running", "submitted", "silent", "ended"]
FINAL = ("completed", "diverged", "stopped")  # not failed: such a trial is tried again


@dataclass(frozen=True)
class Trial:
    """A trial that is under way."""

    trial_id: str
    step: int
    steps_total: int
    stalled: str | None = None  # since when and where, in words
    rung: int | None = None  # at which it waits to be judged with others, from 1; none: it runs


@dataclass(frozen=True)
class Stage:
    """The trials of a stage, counted."""

    name: str
    planned: int
    completed: int = 0
    stopped: int = 0
    diverged: int = 0
    failed: int = 0
    under_way: tuple[Trial, ...] = ()
    best: float | None = None  # mIoU [percent] of the best completed trial
    best_trial: str | None = None
    best_method: str | None = None
    steps_left: int = 0  # at most: a trial may be stopped early
    left_out: bool = False  # by its ``when``

    @property
    def finished(self) -> int:
        """The trials that have ended, in whatever way."""
        return self.completed + self.stopped + self.diverged + self.failed

    @property
    def done(self) -> bool:
        """Whether all have."""
        return self.left_out or (self.planned > 0 and self.finished >= self.planned)


@dataclass(frozen=True)
class Status:
    """A study, running or not."""

    study: str
    storage: str
    state: State
    told: str  # the state in words
    launch: Launched | None
    stages: tuple[Stage, ...]
    seconds_left: float | None  # at most, of all stages, at the pace of this launch; none: nothing to tell it from
    energy_kwh: float | None = None  # of all nodes and launches until now, idle time included; none: not metered
    co2_kg: float | None = None
    waiting: str | None = None  # for what a trial waits, in words
    graph: tuple[str, ...] = ()  # what its stages wait for, and the longest chain of them, in words
    notes: tuple[str, ...] = ()
    job: Mapping[str, str | None] | None = None  # what the cluster says of it

    @property
    def done(self) -> bool:
        """Whether every trial of every stage has ended; not known of a study whose file is lost."""
        return bool(self.stages) and all(stage.done for stage in self.stages)


def _gone(where: Storage) -> str:
    """The packages that ran the study and are not installed here."""
    gone = []
    for package, version in (where.read_versions() or {}).items():
        try:
            metadata.version(str(package))
        except (metadata.PackageNotFoundError, ValueError):
            gone += [f"{package} {version}"] * (package not in ("python", "cuda"))
    return f"was run with {', '.join(gone)}, not installed here" if gone else ""


def status_of(where: Storage) -> Status:
    """The status of a study.

    Raises:
        UserError: it has never been launched with this storage.
    """
    launch, data = read_launch(where.folder), where.read_study()
    if launch is None and data is None:
        raise UserError(
            f"{where.folder.uri}: study '{where.study}' has not been launched with this storage; "
            "name another one with --storage"
        )
    state, told = _state(holder(where.folder), launch)
    began = datetime.fromisoformat(launch.started_at).timestamp() if launch else 0.0
    waits: list[str] = []
    try:
        study = StudySpec.model_validate(data) if data else None
        stages, pace = _stages(where, study, began) if study else ([], 0.0)
        if study:
            done = {stage.name for stage in stages if stage.done}
            waits = graph.told(
                graph.graph(study, [s for s in study.stages if s.name not in done]), study.max_concurrent
            )
    except ValidationError as error:
        raise UserError(
            f"{where.folder.uri}/study.yaml: {_gone(where) or 'not a study of this version of kdtune'}: "
            f"{told_of(error.errors()[0])}"
        ) from None
    chosen = launch.stages if launch else ()
    left = sum(stage.steps_left for stage in stages if not chosen or stage.name in chosen)
    seconds = left / pace if pace and state == "running" else None
    signs = trouble.read(where.folder) if state == "running" else trouble.Trouble()
    stages = [_with_stalls(stage, signs.stalled) for stage in stages]
    found = Status(where.study, where.folder.uri, state, told, launch, tuple(stages), seconds, *_energy(where))
    found = replace(found, graph=tuple(waits))
    if signs.waiting and signs.since:
        found = replace(found, waiting=f"{signs.waiting} since {duration(time.time() - signs.since)}")
    return replace(found, told="finished") if found.done and state == "ended" else found


def _with_stalls(stage: Stage, stalled: Mapping[str, str]) -> Stage:
    under_way = (replace(trial, stalled=stalled.get(trial.trial_id)) for trial in stage.under_way)
    return replace(stage, under_way=tuple(under_way))


def _energy(where: Storage) -> tuple[float | None, float | None]:
    nodes = [node for launch in where.energy().values() for node in launch]
    if not nodes:
        return None, None
    return sum(node["energy_kwh"] for node in nodes), sum(node["co2_kg"] for node in nodes)


def _state(holder: Holder, launch: Launched | None) -> tuple[State, str]:
    if holder.state != "none":
        since = f", since {launch.started_at[:19]} UTC" if launch else ""
        text = "running" if holder.state == "running" else "not heard of for longer than its lock holds; it may be dead"
        return holder.state, f"{text}: {holder.told}{since}"
    if launch is None:
        return "ended", "not running"
    if launch.outcome is not None:
        return "ended", f"not running; the last launch ended at {(launch.ended_at or '')[:19]} UTC: {launch.outcome}"
    if launch.host is None:
        return "submitted", f"submitted at {launch.started_at[:19]} UTC; its driver has not begun"
    return "ended", f"not running; the last launch, process {launch.pid} on {launch.host}, ended without a word"


def _stages(where: Storage, study: StudySpec, began: float) -> tuple[list[Stage], float]:
    """Every stage, and the steps per second since the launch began.

    Trials that ended are in the table; journals are read for the others only, since there may be thousands: of those
    with a later attempt than the table has, too, for they run again.
    """
    gone, table = where.read_left_out(), where.finished()
    plan, records = _open(where, study, table, began)
    rows = table | {id_: record["row"] for id_, record in records.items()}
    waiting = {id_ for id_, record in records.items() if record["history"] and "rung_cut" not in record["history"][-1]}
    names = dict.fromkeys([*plan, *(stage.name for stage in study.stages)])
    order = {stage.name: i for i, stage in enumerate(study.stages)}
    stages: list[Stage] = []
    for name in sorted(names, key=lambda n: order.get(n, -1)):
        done = {stage.name for stage in stages if stage.done}
        ids = plan.get(name, [])
        there = ids or name not in gone
        stages.append(_stage(name, study, ids, rows, done, waiting) if there else Stage(name, 0, left_out=True))
    planned = [rows[id_] for ids in plan.values() for id_ in ids if id_ in rows]
    elapsed = time.time() - began
    return stages, sum(_made(row, began) for row in planned) / elapsed if elapsed > 0 else 0.0


def _open(
    where: Storage, study: StudySpec, table: Mapping[str, Row], began: float
) -> tuple[dict[str, list[str]], dict[str, Record]]:
    """The plan, and the journals of those of its trials whose row is not their last word.

    A trial that a search has drawn is in no plan until it has ended. One that began before this launch may be another
    search's.
    """
    plan, files = where.plan(), where.attempts()
    drawn = {stage.name for stage in study.stages if stage.search == "tpe"}
    planned = {id_ for ids in plan.values() for id_ in ids}
    newest = {id_: max(attempts.values()) for id_, attempts in files.items()}
    final = {
        id_ for id_, row in table.items() if row["status"] in FINAL and newest.get(id_, 0) <= (row["attempt"] or 0)
    }
    wanted = [id_ for id_ in files if id_ not in final and (id_ in planned or stage_of(id_) in drawn)]
    records = {record["row"]["trial_id"]: record for record in where.each_of([files[id_] for id_ in wanted])}
    for id_ in records.keys() - planned:
        row = records[id_]["row"]
        if row["status"] == "running" and (row["started_at"] or 0.0) >= began:
            plan.setdefault(row["stage"], []).append(id_)
    return plan, records


def _stage(
    name: str,
    study: StudySpec,
    ids: Sequence[str],
    rows: Mapping[str, Row],
    done: Collection[str],
    unjudged: Collection[str],
) -> Stage:
    """``unjudged``: trials of whose last evaluation nothing was decided; at a rung they wait for that."""
    rungs = next((rungs_of(study, stage) for stage in study.stages if stage.name == name), ())
    known = [rows[id_] for id_ in ids if id_ in rows]
    counts = Counter(row["status"] for row in known)
    under_way = [
        Trial(row["trial_id"], row["step"] or 0, row["steps_total"] or 0, rung=_rung(row, rungs, unjudged))
        for row in known
        if row["status"] == "running"
    ]
    ended: dict[str, Any] = {status: counts[status] for status in FINISHED}
    completed = [row for row in known if row["status"] == "completed" and row["miou"] is not None]
    best = max(completed, key=lambda row: row["miou"], default=None)
    planned, steps = _planned(name, study, len(ids), done)
    return Stage(
        name,
        planned,
        **ended,
        under_way=tuple(under_way),
        best=best["miou"] if best else None,
        best_trial=best["trial_id"] if best else None,
        best_method=best["method"] if best else None,
        steps_left=max(0, (planned - sum(ended.values())) * steps - sum(trial.step for trial in under_way)),
    )


def _rung(row: Row, rungs: Sequence[int], unjudged: Collection[str]) -> int | None:
    return rungs.index(row["step"]) + 1 if row["step"] in rungs and row["trial_id"] in unjudged else None


def _planned(name: str, study: StudySpec, ids: int, done: Collection[str]) -> tuple[int, int]:
    """How many trials a stage has, and steps each. The evaluation of a given teacher is in the plan alone.

    Until all is ``done`` that a stage starts from, its plan may lack trials; two of its starts may come to the same.
    """
    found = [stage for stage in study.stages if stage.name == name]
    if not found:
        return ids, 0
    stage, steps = found[0], study.templates()[name].recipe.num_steps
    if stage.search == "tpe":
        return max(ids, stage.samples or 0), steps
    whole = ids and all(start in done for start in stage.start_from)
    return ids if whole else max(ids, study.num_trials(stage)), steps


def _made(row: Row, began: float) -> float:
    """The steps that a trial made since the launch began; of one that went on, by the share of its time."""
    if not row["step"] or not row["train_seconds"]:
        return 0.0
    end = row["finished_at"] or time.time()
    return float(row["step"] * min(1.0, max(0.0, end - began) / row["train_seconds"]))
