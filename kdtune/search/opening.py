"""A stage of a launch begins and ends: its plan, what is left of it, the best of it."""

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from kdtune.cluster import noticeboard
from kdtune.cluster.share import has_gpu
from kdtune.records.journal_files import Record
from kdtune.records.progress import Reporter
from kdtune.records.storage import Storage
from kdtune.records.trial_record import Planned
from kdtune.search import longer, widening
from kdtune.search.anew import damaged, refuse_mixing, restart
from kdtune.search.checkpoints import Checkpoints
from kdtune.search.course import Listed, MadeAgain, Offer, Source
from kdtune.search.judging import Judging
from kdtune.search.ledger import Ledger
from kdtune.search.plans import Plans
from kdtune.search.remarks import absent_classes, weak_teacher
from kdtune.search.slots import Slots
from kdtune.search.stage_context import Point, StageContext, handed, point_of
from kdtune.search.starts import begun_from
from kdtune.study.rungs import rungs_of
from kdtune.study.spec import StudySpec
from kdtune.study.stage import Stage, shuffled
from kdtune.training.site import Site
from kdtune.training.trainer import Trainer

if TYPE_CHECKING:
    from ray.tune.schedulers import TrialScheduler

    from kdtune.search.stalls import Stalls


@dataclass(frozen=True)
class Begun:
    """What is known once Ray is there."""

    study: StudySpec  # with its number of threads
    site: Site  # with the content of every split
    stalls: "Stalls"
    slots: Slots


@dataclass
class Opening:
    """Opens and closes the stages of a launch, for ``course.Course``."""

    study: StudySpec
    stages: Mapping[str, Stage]
    storage: Storage
    reporter: Reporter
    site: Site
    ledger: Ledger
    checkpoints: Checkpoints
    trainer: Trainer
    token: str  # of the launch
    begin: Callable[[], Begun]  # starts Ray, at the first trial to run; the same after that
    undecided: bool  # whether the number of threads is, on which the ids of trials depend
    followed: bool  # whether a tool beside the journal is told of every evaluation
    mixed: bool  # whether trials of other numerics may stand beside those of this kdtune
    judging: Judging
    plans: Plans
    rules: "dict[str, TrialScheduler]" = field(default_factory=dict)  # stage -> its early stopping
    _widened: dict[str, set[str]] = field(default_factory=dict)  # stage -> those of them that this launch has looked at
    _told: dict[str, StageContext] = field(default_factory=dict)  # by its key on the noticeboard
    _sound: set[str] = field(default_factory=set)  # trials whose weights were seen to be what they wrote
    _named: set[str] = field(default_factory=set)  # datasets whose absent classes were named
    _weak: bool = False  # whether the teacher was said to be

    def open(self, name: str, starts: Sequence[str]) -> Source:
        """Plans the trials of a stage from these of its starts, and gives what is left to run.

        Raises:
            NoStart: one of the starts has come to nothing.
            UserError: the trials of the study were computed by another version.
            MadeAgain: weights that the trials load are damaged.
        """
        stage = self.stages[name]
        starts, gone = self.plans.without_left_out(stage, starts)
        if gone:
            self.reporter.note(gone)
        if not starts:
            return Listed()
        context = self._context(stage, starts)
        if self.undecided:
            self._begin()
            context = self._context(stage, starts)
        drawn = stage.search == "tpe"
        points = {} if drawn else self.plans.plan(context, self.study)
        if drawn:
            self.ledger.set_plan(name, self.ledger.drawn(context))
        past = self.ledger.past(name)
        kept = self.judging.kept(stage, past, self.plans.ids(name))
        left = {id_: point for id_, point in points.items() if id_ not in kept}
        if more := bool(left) or (drawn and len(kept) < (stage.samples or 0)):
            self._prepare(context, left if not drawn else {i: point_of(past[i], stage) for i in past}, past)
            past = self.ledger.past(name)  # those that run again have begun anew
        self._report(stage, starts, len(kept) if drawn else len(kept & points.keys()))
        return self._source(context, left, self.plans.ids(name), past) if more else Listed()

    def widen(self, name: str) -> Source | None:
        """More trials of a stage whose others have ended.

        Where the best of them lies at the border of its axis, those beyond it, one step after the other; they are
        judged apart from the others. Where it compares a student that is trained longer, that one's.
        """
        stage = self.stages[name]
        starts = [start for start, points in self.plans.points.get(name, {}).items() if points]
        if not (stage.extend or stage.longer) or not starts:
            return None
        context = self._context(stage, starts)
        self.plans.plan(context, self.study)
        seen = self._widened.setdefault(name, set())
        new = {id_: point for id_, point in self.plans.further[name].items() if id_ not in seen}
        if not new:
            return None
        past = self.ledger.past(name)
        left = {id_: point for id_, point in new.items() if id_ not in self.judging.kept(stage, past, [id_])}
        if left:
            self._prepare(context, left, past)
            self.reporter.note(longer.told(stage, left) if stage.longer else widening.told(stage, left, past))
        seen.update(new)
        self.reporter.stage_grew(name, len(self.plans.ids(name)) + len(self.plans.further[name]), len(new) - len(left))
        return self._source(context, left, list(left), past) if left else Listed()

    def _prepare(self, context: StageContext, points: Mapping[str, Point], past: Mapping[str, Record]) -> None:
        """Trials of a stage are about to run, these points among them."""
        if not self.mixed:
            refuse_mixing(self.ledger.rows_but(self.judging.anew), self.study.name)
        self._refuse_damaged(context)
        self._begin()
        self._restart(context, points, past)

    def close(self, name: str) -> None:
        """A stage's trials have all ended."""
        self.ledger.write_tables()
        if self.ledger.past(name):  # else it was left out
            self.reporter.stage_ended(name, self.ledger.best(name))
        weak = None if self._weak else weak_teacher(name, self.ledger)
        if weak:
            self._weak = True
            self.reporter.warn(weak)
        if absent := absent_classes(name, self.ledger, self._named):
            self.reporter.note(absent)

    def planned(self, given: Mapping[str, Any]) -> Planned:
        """The trial of what Tune was handed."""
        return self._told[given["context"]].at(given)

    def _begin(self) -> None:
        begun = self.begin()
        self.study, self.site, self.undecided = begun.study, begun.site, False

    def _report(self, stage: Stage, starts: Sequence[str], done: int) -> None:
        """How much there is to do, as far as it is known; so much of what these starts add is done."""
        opened = self.plans.points.get(stage.name, {})
        known = {start for start, points in opened.items() if points}
        waiting = [start for start in stage.start_from if known and start not in opened]
        to_follow = len(stage.seeds) if stage.longer else 0
        each = (self.study.num_trials(stage) - to_follow) // max(1, len(stage.start_from))
        size = len(self.plans.ids(stage.name)) + each * len(waiting) + to_follow if known else stage.samples or 0
        if known <= set(starts):
            template = self.study.templates().get(stage.name)
            steps = template.recipe.num_steps if template else 0
            self.reporter.stage_started(stage.name, size, done, steps)
        else:
            self.reporter.stage_grew(stage.name, size, done)

    def _source(
        self, context: StageContext, left: Mapping[str, Point], together: Iterable[str], past: Mapping[str, Record]
    ) -> Source:
        """Gives what is left. ``together``: the trials that it is judged among, where a stage judges all at once."""
        from kdtune.search import early_stopping, searchers  # Tune is imported once there is a trial to run

        stage, begun = context.stage, self.begin()
        share = begun.slots.of(stage)
        if share.gpus and not has_gpu():
            self.reporter.warn(f"{stage.name}: no node has a GPU yet; trials wait until an autoscaler starts some")
        site = replace(context.site, keys=begun.site.keys, rungs=rungs_of(self.study, stage))
        threads = self.study.threads or share.threads
        context = replace(context, site=site, threads=threads, gpus=share.gpus, followed=self.followed)
        key = f"{self.token}/{stage.name}/{len(self._told)}"
        noticeboard.put(key, context)
        self._told[key] = context
        begun.stalls.begin(share.resources, stage)

        def offer(trial_id: str, point: Point) -> Offer:
            return Offer(trial_id, handed(self.study.name, stage, trial_id, key, point))

        # worst first, ASHA would stop nothing: the grid's order says nothing about quality, so it must not lead
        order = dict(shuffled([*left.items()], self.study.seed, stage.name))
        rule = self.study.scheduler_of(stage)
        if rule == "halving":
            halves = self.judging.halves(stage, together, order, lambda id_: offer(id_, order[id_]))
            self.rules[stage.name] = early_stopping.AtRungs(halves)
            return halves
        if stage.name not in self.rules:
            template = self.study.templates().get(stage.name)
            steps = template.recipe.num_steps if template else 0
            compared = {k: r for k, r in self.ledger.past_with_histories(stage.name).items() if r["history"]}
            self.rules[stage.name] = early_stopping.scheduler(rule, self.study, steps, compared)
        if stage.search == "tpe":
            return searchers.FromOptuna(context, self.study.seed, past, self.judging.kept(stage, past, together), offer)
        return Listed(deque(offer(trial_id, point) for trial_id, point in order.items()))

    def _restart(self, context: StageContext, points: Mapping[str, Point], past: Mapping[str, Record]) -> None:
        """Those of these trials that have ended and run again."""
        for id_ in self.judging.anew & points.keys():
            self.ledger.goes_on(restart(context.planned(points[id_]), past[id_], self.storage))
        self.judging.anew.difference_update(points)

    def _refuse_damaged(self, context: StageContext) -> None:
        """Has trials run again whose weights a stage is about to load, and finds damaged."""
        loaded = {ref.removeprefix("trial:") for ref in context.site.files if ref.startswith("trial:")}
        makers = set()
        for id_ in sorted(loaded & self.ledger.records.keys() - self._sound):
            row = self.ledger.records[id_]["row"]
            fault = damaged(id_, row, self.storage)
            if fault is None:
                self._sound.add(id_)
                continue
            self.reporter.warn(f"{fault}; trial {id_} is run again")
            self.judging.anew.add(id_)
            makers.add(row["stage"])
        if makers:
            self.checkpoints.locate(self.study, sorted(makers))  # they may be none of the stages that run
            for name in makers:
                self.plans.points.pop(name, None)
                self._widened.pop(name, None)
            raise MadeAgain(makers)

    def _context(self, stage: Stage, starts: Iterable[str]) -> StageContext:
        found, references, files = begun_from(self.study, stage, starts, self.ledger, self.checkpoints)
        return StageContext(
            study=self.study.name,
            stage=stage,
            starts=found,
            references=references,
            site=replace(self.site, files=files),
            storage=self.storage,
            threads=1,
            token=self.token,
            trainer=self.trainer,
        )
