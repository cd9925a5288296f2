"""What a launch knows of its trials: their records, the plan of each stage, the best of each, and the tables."""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace

from kdtune.base import RunError
from kdtune.filesystem.lock import Held
from kdtune.records import rows
from kdtune.records.journal_files import Record
from kdtune.records.live_tables import TableWriter
from kdtune.records.progress import Reporter
from kdtune.records.settled import settled
from kdtune.records.storage import Storage
from kdtune.search.anew import told
from kdtune.search.node_energy import NodeEnergy
from kdtune.search.stage_context import NoStart, StageContext, point_of
from kdtune.study.spec import StudySpec
from kdtune.study.stage import Stage

NO_STARTS: Mapping[str, str] = {}
TAKEN_OVER = "another launch has taken this study over"


class Ledger:
    """Reads what earlier launches left, then keeps every trial that ends; writes once ``begin_writing`` allows it."""

    def __init__(
        self,
        study: StudySpec,
        storage: Storage,
        stages: Sequence[Stage],
        held: Held,
        reporter: Reporter,
        *,
        unchanged: bool = False,
    ) -> None:
        """``unchanged``: the study is that of the last launch, so tables that follow from it and its trials stand."""
        self._study, self.storage, self._held, self._reporter = study, storage, held, reporter
        self.unchanged = unchanged
        self.energy = NodeEnergy(storage, held)
        past = settled(storage)
        past = replace(past, whole=past.whole and unchanged)
        self._tables = TableWriter(storage, study, past, self.energy.nodes)
        self._starts: dict[str, str] = {}  # trial -> from which of its stage's starts, of stages that have begun
        self._attempts = storage.attempts()
        self._aside = set(past.aside)  # settled, their histories not at hand
        self.records: dict[str, Record] = {
            id_: {"row": row, "history": None, "states": [], "attempt": row["attempt"]}
            for id_, row in {**past.aside, **past.rows}.items()
        }
        self._read(id_ for id_, files in self._attempts.items() if not past.holds(id_, max(files.values())))
        stored = storage.plan()
        self._plan: dict[str, list[str]] = {stage.name: [] for stage in stages}
        self._plan |= {name: ids for name, ids in stored.items() if name in self._plan}
        self._plan_changed = self._plan != stored  # since it was written
        self._planned: dict[str, set[str]] = {}  # stage -> its trials, of the stages that have begun
        self._gone: dict[str, int] = {}  # stage -> trials that left its plan, until that is said
        self.writes = False  # whether the storage is written; not before everything that can refuse has been asked

    def _read(self, trial_ids: Iterable[str]) -> None:
        """Keeps what the journals of these trials say."""
        for record in self.storage.each_of([self._attempts[id_] for id_ in trial_ids if id_ in self._attempts]):
            self._keep(record)

    def begin_writing(self) -> None:
        """From here on plan and tables are written."""
        self.writes = True
        self._write_plan()

    def planned_from(self, name: str, start: str) -> list[str]:
        """The trials of a stage that have begun from one of its starts, as the plan has them now."""
        return [id_ for id_, record in self.past(name).items() if record["row"]["start"] == start]

    def set_plan(self, name: str, ids: list[str], starts: Mapping[str, str] = NO_STARTS) -> None:
        """The stage's trials from now on, on storage too; those that are gone are said.

        ``starts``: from which each starts. One that two starts come to is the first's, whichever was decided first.
        """
        planned = self._planned[name] = set(ids)
        self._starts |= starts
        back = self._aside & planned  # part of the study again
        self._aside -= back
        for id_ in back:
            del self.records[id_]  # it runs again where its journal cannot be read
            self._tables.forget(id_)
        self._read(back)
        self._move(id_ for id_ in ids if id_ in self.records)
        gone = [id_ for id_ in self._plan.get(name, []) if id_ not in planned and id_ in self.records]
        self._gone |= {name: len(gone)} if gone else {}
        self._plan_changed |= self._plan.get(name) != ids
        self._plan[name] = ids
        self._write_plan()

    def _move(self, trial_ids: Iterable[str]) -> None:
        """Has records say from which start their trials are; read anew, for the tables want all of a history."""
        rows_of = {id_: self.records[id_]["row"] for id_ in trial_ids}
        others = [id_ for id_, row in rows_of.items() if row["start"] != self._starts.get(id_, row["start"])]
        newest = {id_: max(self._attempts.get(id_, {}).values(), default=0) for id_ in others}
        before = [id_ for id_ in others if newest[id_] == self.records[id_]["attempt"]]
        self._read(before)
        for id_ in set(others).difference(before):  # attempts of this launch among them
            if (record := self.storage.record(id_)) is not None:
                self._keep(record)

    def past(self, name: str) -> dict[str, Record]:
        """The records of a stage's plan."""
        return {id_: self.records[id_] for id_ in self._plan.get(name, []) if id_ in self.records}

    def past_with_histories(self, name: str) -> dict[str, Record]:
        """The same, with what a scheduler compares."""
        past = self.past(name)
        without = [id_ for id_, record in past.items() if record["history"] is None]
        found = self._tables.history_of(without) if without else {}
        return past | {id_: past[id_] | {"history": history} for id_, history in found.items()}

    def best(self, name: str) -> list[rows.Row]:
        """The rows (seeds) of a stage's best configuration; empty where it has none."""
        seeds = {stage.name: len(stage.seeds) for stage in self._study.stages}
        return rows.best_config([record["row"] for record in self.past(name).values()], seeds=seeds.get(name, 1))

    def winners(self, name: str) -> list[rows.Row]:
        """The same, for a stage that others start from.

        Raises:
            NoStart: it has none.
        """
        best = self.best(name)
        if not best:
            trials = [record["row"] for record in self.past(name).values()]
            counts = {s: sum(r["status"] == s for r in trials) for s in ("completed", "stopped", "diverged", "failed")}
            told = ", ".join(f"{n} {s}" for s, n in counts.items() if n) or "none has run"
            errors = [row["error"] for row in trials if row["error"]]
            first = f"; first error: {errors[0]}" if errors else ""
            raise NoStart(f"stage '{name}' has no completed configuration to go on from ({told}){first}")
        return best

    def refuse_failed(self, names: Iterable[str]) -> None:
        """Nothing, if in each of these stages any trial that has ended came to something.

        Raises:
            RunError: all trials of one failed.
        """
        for name in names:
            ended = [record["row"] for record in self.past(name).values() if record["row"]["status"] in rows.FINISHED]
            if ended and all(row["status"] == "failed" for row in ended):
                which = f"{len(ended)} trials" if len(ended) > 1 else "its only trial"
                raise RunError(
                    f"stage '{name}': {which} failed; {ended[0]['error']}; `kdtune logs {self.storage.words} --trial "
                    f"{ended[0]['trial_id']}` tells more; launched again, the study tries such trials anew"
                )

    def drawn(self, context: StageContext) -> list[str]:
        """The ids of earlier TPE trials that this stage, as it stands, could have drawn."""
        found = []
        for id_, record in self.records.items():
            row = record["row"]
            if row["stage"] == context.stage.name and row["start"] in context.starts:
                point = point_of(record, context.stage)
                if context.stage.holds(point) and context.planned(point).trial_id == id_:
                    found.append(id_)
        return sorted(found, key=lambda id_: self.records[id_]["row"]["finished_at"] or math.inf)

    def ended(self, record: Record) -> None:
        """Keeps a trial that has ended; writes the tables if they are due."""
        row = record["row"]
        self._keep(record)
        if differs := told(record):
            self._reporter.warn(differs)
        if row["trial_id"] not in self._planned[row["stage"]]:  # TPE drew it; ``drawn`` finds it if the plan is lost
            self._planned[row["stage"]].add(row["trial_id"])
            self._plan[row["stage"]].append(row["trial_id"])
            self._plan_changed = True
        if self._tables.due() and not self._held.lost.is_set():
            self.write_tables()

    def goes_on(self, record: Record) -> None:
        """A trial that has ended runs again, or one that runs has paused; until it ends it is in no table."""
        self._keep(record)

    @property
    def unfinished(self) -> list[str]:
        """The trials that have begun and not ended."""
        return [id_ for id_, record in self.records.items() if record["row"]["status"] not in rows.FINISHED]

    def rows_but(self, trial_ids: Collection[str]) -> list[rows.Row]:
        """The rows of all planned trials but these."""
        planned = (id_ for ids in self._plan.values() for id_ in ids if id_ not in trial_ids)
        return [self.records[id_]["row"] for id_ in planned if id_ in self.records]

    def write_tables(self) -> None:
        """Plan and tables, as far as they have changed; neither while nothing is to be written.

        Raises:
            RunError: another launch has taken the study over.
        """
        if self._held.lost.is_set():
            raise RunError(TAKEN_OVER)
        if not self.writes:
            return
        self._write_plan()
        self._tables.used(self.energy.nodes)
        took = self._tables.write(self._plan)
        if took is not None:
            self._reporter.tables_written(took)

    def _keep(self, record: Record) -> None:
        """Of a trial's history the launch needs what a scheduler compares; all of it is in the tables."""
        row = record["row"]
        record = record | {"row": row | {"start": self._starts.get(row["trial_id"], row["start"])}}
        self._tables.add(record)
        short = [{"step": entry["step"], "miou": entry["miou"]} for entry in record["history"]]
        kept = {key: value for key, value in record.items() if key != "traceback"}
        self.records[row["trial_id"]] = kept | {"history": short}

    def _write_plan(self) -> None:
        if not self.writes:
            return
        for name, count in self._gone.items():
            self._reporter.superseded(name, count)
        self._gone = {}
        if self._plan_changed:
            self.storage.write_plan(self._plan)
            self._plan_changed = False
