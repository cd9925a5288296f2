"""Which trials of a stage are final, which were stopped, and which only pause: what the rule of their stage says."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from kdtune.records.journal_files import Record
from kdtune.records.progress import Reporter
from kdtune.records.storage import Storage
from kdtune.records.trial_record import stop
from kdtune.search.course import Offer
from kdtune.search.halving import Decided, Halves, looked_at, nothing
from kdtune.search.ledger import Ledger
from kdtune.study.rungs import rungs_of, successive_halving
from kdtune.study.schedulers import stands
from kdtune.study.spec import StudySpec
from kdtune.study.stage import Stage


@dataclass
class Judging:
    """Of one launch."""

    study: StudySpec
    stages: Mapping[str, Stage]
    storage: Storage
    reporter: Reporter
    ledger: Ledger
    anew: set[str]  # trials that have ended, and are yet to run again
    _failed: dict[str, int] = field(default_factory=dict)  # trials that had failed when their stage began -> attempt

    def kept(self, stage: Stage, past: Mapping[str, Record], plan: Iterable[str]) -> set[str]:
        """The trials of a stage that do not run again. ``past``: what is known of them."""
        rule = self.study.scheduler_of(stage)
        kept = {id_ for id_, record in past.items() if id_ not in self.anew and stands(record["row"]["status"], rule)}
        if rule != "halving":
            return kept
        failed = {id_: record for id_, record in past.items() if record["row"]["status"] == "failed"}
        self._failed |= {id_: record["attempt"] for id_, record in failed.items()}
        left = [id_ for id_ in plan if id_ not in kept]
        going_on = {*self._halves(stage, plan, left, _no_offer, nothing).open}
        return kept | {id_ for id_ in left if id_ not in going_on}

    def halves(self, stage: Stage, plan: Iterable[str], order: Iterable[str], offer: Callable[[str], Offer]) -> Halves:
        """The trials of a stage that are judged together, when it begins. ``order``: in which those left begin."""
        return self._halves(stage, plan, order, offer, self._decided)

    def cut_off(self, record: Record) -> Record | None:
        """A trial that was stopped: noted as that; none if it only pauses, to be judged with others."""
        if self.study.scheduler_of(self.stages[record["row"]["stage"]]) != "halving":
            return stop(record, self.storage)
        self.ledger.goes_on(record)
        return None

    def _halves(
        self, stage: Stage, plan: Iterable[str], order: Iterable[str], offer: Callable[[str], Offer], decided: Decided
    ) -> Halves:
        self.ledger.records.update(self.ledger.past_with_histories(stage.name))

        def known(trial: str) -> Record | None:
            """None of a trial that has ended and runs again, for its name or for its failure, until it has done so."""
            record = self.ledger.records.get(trial)
            again = trial in self.anew or (record is not None and self._failed.get(trial) == record["attempt"])
            return None if again else record

        def told(line: str) -> None:
            self.reporter.note(f"{stage.name}: {line}")

        rungs, factor = rungs_of(self.study, stage), successive_halving(self.study, stage).factor
        return Halves(order, plan, rungs, factor, known, offer, decided, told)

    def _decided(self, trial: str, rung: int, cut: float, goes_on: bool) -> bool:
        """Notes what became of a trial at a rung; whether it was not noted before."""
        known = self.ledger.records.get(trial)
        record = self.storage.record(trial) if known and known["row"]["status"] == "running" else None
        if record is None:
            return False
        at = looked_at(record["history"], rung)
        if at is None or ("rung_cut" in record["history"][at] and goes_on):
            return False
        record["history"][at]["rung_cut"] = cut
        if goes_on:
            self.storage.write_record(record, changed=at)
            self.ledger.goes_on(record)
        else:
            record = stop(record, self.storage)
            self.ledger.ended(record)
            self.reporter.trial_ended(record["row"])
        return True


def _no_offer(trial: str) -> Offer:
    raise AssertionError(f"{trial}: nothing is offered before its stage begins")
