"""A launch: stage after stage, the best of one read back from the journal to start the next."""

import contextlib
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from kdtune.base import Lost, RunError, UserError
from kdtune.cluster import session
from kdtune.cluster.halt import Halt, interruptible, refuse_halted
from kdtune.cluster.lookout import Lookout
from kdtune.cluster.meters import Meters
from kdtune.cluster.share import has_gpu, share
from kdtune.filesystem.lock import Held
from kdtune.records.journal_files import Record
from kdtune.records.logbook import stop_requests
from kdtune.records.progress import Reporter
from kdtune.records.storage import Storage
from kdtune.search import kept_teacher
from kdtune.search.added_seeds import with_kept_seeds
from kdtune.search.anew import damaged, named, refuse_mixing, restart
from kdtune.search.changes import differences, versions
from kdtune.search.checkpoints import Checkpoints, check_networks, made_weights, weights_files
from kdtune.search.data_check import check_data, datasets_of
from kdtune.search.given_teacher import stages_to_run
from kdtune.search.ledger import TAKEN_OVER, Ledger
from kdtune.search.remarks import absent_classes, weak_teacher
from kdtune.search.stage import StageRun, finished, run_stage
from kdtune.search.stage_context import Point, StageContext, point_of, recorded, refuse_other_code
from kdtune.search.stalls import Stalls
from kdtune.search.threads import Threads, known
from kdtune.study.spec import StudySpec
from kdtune.study.stage import Stage
from kdtune.training.energy_counter import check_country
from kdtune.training.site import Site
from kdtune.training.trial import Trainer
from kdtune.training.trial import run as train_and_evaluate


@dataclass
class Launch:
    """One launch of a study, from the lock to the last table."""

    study: StudySpec
    storage: Storage
    reporter: Reporter
    held: Held
    site: Site  # with the content of every split, once the nodes were asked
    address: str | None = None  # of a cluster that was there, whose nodes may come and go; none: Ray starts here
    only: Sequence[str] = ()  # the stages that run; empty: all
    trainer: Trainer = train_and_evaluate
    loggers: Sequence[str] = ()  # see ``cluster.loggers``
    again: Sequence[str] = ()  # trials that run anew, though they have ended: ids, or patterns of them
    mixed: bool = False  # whether trials of other numerics may stand beside those of this kdtune
    halt: Halt = field(default_factory=Halt)
    ledger: Ledger = field(init=False)
    checkpoints: Checkpoints = field(default_factory=Checkpoints)
    meters: Meters | None = None
    threads: Threads = field(init=False)
    stalls: Stalls = field(init=False)
    _named: set[str] = field(default_factory=set)  # datasets whose absent classes were named
    _anew: set[str] = field(default_factory=set)  # trials that have ended, and are yet to run again
    _sound: set[str] = field(default_factory=set)  # trials whose weights were seen to be what they wrote

    def run(self) -> None:
        """All stages, or those named.

        Raises:
            UserError, RunError: see ``kdtune.api.launch``.
        """
        before = self.storage.read_study()
        self.study = with_kept_seeds(self.study, before)
        stages = stages_to_run(self.study)
        self.threads = known(self.study, before, self.storage.each_record())
        self.study = self.threads.study
        now = self.study.model_dump(mode="json")
        paths = differences(before, now) if before is not None else []
        same = before is not None and not paths
        ledger = Ledger(self.study, self.storage, stages, self.held, self.reporter, unchanged=same)
        self.ledger = ledger
        self._anew = named(self.again, [id_ for s in stages if self._wanted(s) for id_ in ledger.past(s.name)])
        if paths:
            self.reporter.changed(paths)
        self.checkpoints.locate(self.study, self.only)
        if builders := self.study.builders:
            self.reporter.note(f"this study runs code of {', '.join(builders)}")
        check_networks(self.study, self.only)
        with contextlib.ExitStack() as stack:
            stack.callback(self.reporter.close)
            stack.enter_context(stop_requests(self.storage.folder, self.halt.end))
            self.held.when_lost(lambda: self.halt.end("taken over", RunError(TAKEN_OVER)))
            begin = functools.cache(lambda: self._begin(stack))
            try:
                for stage in stages:
                    if self._wanted(stage):
                        refuse_halted(self.halt)
                        self._stage(stage, begin)
                self._begin_writing()
                self.ledger.energy.keep_last(self.meters)
                self.ledger.write_tables()
            except OSError as error:
                if not self.storage.refused(error):
                    raise
                raise self.storage.unusable(error) from error
            except (RunError, UserError) as error:
                with contextlib.suppress(OSError):  # the tables follow from the journal, and can be written again
                    if not isinstance(error, Lost) and self.ledger.writes:
                        self.ledger.energy.keep_last(self.meters)
                    self.ledger.write_tables()
                raise

    def _wanted(self, stage: Stage) -> bool:
        return not self.only or stage.name in self.only

    def _begin(self, stack: contextlib.ExitStack) -> None:
        """Ray, once there is something to run: a study that is finished needs none."""
        check_country(self.study.country_iso_code)
        if self.address is None:
            self._check_data()
        self.reporter.started(self.study, self.storage.folder.uri)
        dashboard = stack.enter_context(session.cluster(self.address, self.study.name, self.halt))
        # the signals last: Ray takes SIGTERM for itself when it starts
        stack.enter_context(interruptible(self.halt))
        self.reporter.ray_started(self.study, dashboard, has_gpu())
        meters = Meters(self.study.country_iso_code, self.ledger.energy.keep, self.reporter.warn)
        self.meters = stack.enter_context(meters)
        self.stalls = Stalls(self.storage, self.reporter, self.halt)
        stack.callback(self.stalls.close)
        stack.enter_context(Lookout(self.meters, self.study.stall_after, self.halt, self.stalls))
        if self.address is not None:
            self._check_data()
        running = [stage for stage in self.study.stages if self._wanted(stage)]
        for stage in running:  # whether any node has its labels
            share(self.study, stage, 1, joined=self.address is not None)
        self.threads = self.threads.decided(joined=self.address is not None)
        self.study = self.threads.study
        kept = kept_teacher.told(self.site.store, self.study, joined=self.address is not None)
        for line in (*self.threads.lines(running), *([kept] if kept else [])):
            self.reporter.note(line)
        self._begin_writing()
        self.storage.sweep(self.ledger.unfinished)

    def _begin_writing(self) -> None:
        """Everything that can refuse has been asked: a launch that fails before has changed nothing."""
        if not self.ledger.writes:
            self.storage.write_study(self.study, versions())
            self.ledger.begin_writing()

    def _check_data(self) -> None:
        configs, records = datasets_of(self.study, self.only), self.ledger.records
        joined = self.address is not None
        told = (self.reporter, self.halt)
        stall_after = self.study.stall_after
        keys = check_data(configs, self.site, self.storage, records, *told, joined=joined, stall_after=stall_after)
        self.site = replace(self.site, keys=keys)

    def _stage(self, stage: Stage, begin: Callable[[], None]) -> None:
        """Plans a stage, runs what is left of it, and says which configuration is its best."""
        context = self._context(stage)
        if self.threads.open:  # the ids of the trials depend on them
            begin()
            context = self._context(stage)
        points: dict[str, Point] = {}
        if stage.search != "tpe":
            for point in stage.points(list(context.starts), self.study.seed):
                points.setdefault(context.planned(point).trial_id, point)
        self.ledger.set_plan(stage.name, list(points) if stage.search != "tpe" else self.ledger.drawn(context))
        name, past = self.study.scheduler_of(stage), self.ledger.past(stage.name)
        kept = {id_ for id_, record in past.items() if id_ not in self._anew and finished(record, name)}
        left = [p for id_, p in points.items() if id_ not in kept]
        size, done = len(points) or stage.samples or 0, len(kept)
        template = self.study.templates().get(stage.name)
        num_steps = template.recipe.num_steps if template else 0
        more = bool(left) or (stage.search == "tpe" and done < size)
        if more:
            if not self.mixed:
                refuse_mixing(self.ledger.rows_but(self._anew), self.study.name)
            self._mend_weights(context, begin)
            begin()
            self._restart(context, past)
        self.reporter.stage_started(stage.name, size, done, num_steps)
        if more:
            shared = share(self.study, stage, size, joined=self.address is not None)
            if shared.gpus and not has_gpu():
                self.reporter.warn(f"{stage.name}: no node has a GPU yet; trials wait until an autoscaler starts some")
            site = replace(context.site, keys=self.site.keys)
            followed = bool(self.loggers)
            threads = self.study.threads or shared.threads
            context = replace(context, site=site, threads=threads, gpus=shared.gpus, followed=followed)
            report = (self.reporter, self.stalls, self.ledger.ended, self.loggers)
            compared = self.ledger.past_with_histories(stage.name)
            run_stage(StageRun(self.study, context, compared, shared, self.halt, *report), left, num_steps)
        self.ledger.write_tables()
        self.reporter.stage_ended(stage.name, self.ledger.best(stage.name))
        if weak := weak_teacher(stage.name, self.ledger):
            self.reporter.warn(weak)
        if absent := absent_classes(stage.name, self.ledger, self._named):
            self.reporter.note(absent)

    def _restart(self, context: StageContext, past: Mapping[str, Record]) -> None:
        """The trials of a stage that have ended and run again."""
        for id_ in self._anew & past.keys():
            planned = context.planned(point_of(past[id_], context.stage))
            self.ledger.restarted(restart(planned, past[id_], self.storage))
        self._anew -= past.keys()

    def _mend_weights(self, context: StageContext, begin: Callable[[], None]) -> None:
        """Trains anew what a stage is about to load, where that is damaged."""
        loaded = {ref.removeprefix("trial:") for ref in context.site.files if ref.startswith("trial:")}
        for id_ in sorted(loaded & self.ledger.records.keys() - self._sound):
            row = self.ledger.records[id_]["row"]
            fault = damaged(id_, row, self.storage)
            if fault is not None:
                self.reporter.warn(f"{fault}; trial {id_} is run again")
                self._anew.add(id_)
                self.checkpoints.locate(self.study, [row["stage"]])  # it may be none of the stages that run
                self._stage(self.study.stage(row["stage"]), begin)
            self._sound.add(id_)

    def _context(self, stage: Stage) -> StageContext:
        """The best of the stages that it starts from, and where the weights are that its trials load."""
        winners = self.ledger.winners
        starts = {name: recorded(winners(name)[0]) for name in stage.start_from}
        refuse_other_code(self.study, starts)
        starts = {n: self.study.with_threads(c) for n, c in (starts or {"base": self.study.base}).items()}
        references = self.checkpoints.references | made_weights(self.study, stage, winners)
        configs = [*starts.values(), *self.study.loading(stage)]
        files = self.checkpoints.files | weights_files(self.storage, configs, references.values())
        return StageContext(
            study=self.study.name,
            stage=stage,
            starts=starts,
            references=references,
            site=replace(self.site, files=files),
            storage=self.storage,
            threads=1,
            token=self.held.token,
            trainer=self.trainer,
        )
