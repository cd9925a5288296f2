"""A launch: stage after stage, the best of one read back from the journal to start the next."""

import contextlib
import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from kdtune.base import Lost, RunError, UserError
from kdtune.cluster import noticeboard, session
from kdtune.cluster.halt import Halt, interruptible, refuse_halted
from kdtune.cluster.lookout import Lookout
from kdtune.cluster.meters import Meters
from kdtune.cluster.share import has_gpu, share
from kdtune.filesystem.lock import Held
from kdtune.records.logbook import stop_requests
from kdtune.records.progress import Reporter
from kdtune.records.storage import Storage
from kdtune.search import kept_teacher
from kdtune.search.added_seeds import with_kept_seeds
from kdtune.search.anew import asked_anew
from kdtune.search.changes import differences, versions
from kdtune.search.checkpoints import Checkpoints, check_networks
from kdtune.search.conditions import Conditions
from kdtune.search.course import Course
from kdtune.search.data_check import check_data
from kdtune.search.given_teacher import stages_to_run
from kdtune.search.judging import Judging
from kdtune.search.ledger import TAKEN_OVER, Ledger
from kdtune.search.opening import Begun, Opening
from kdtune.search.plans import Plans
from kdtune.search.slots import Slots
from kdtune.search.threads import Threads, known
from kdtune.study import graph
from kdtune.study.spec import StudySpec
from kdtune.study.stage import Stage
from kdtune.training.energy_counter import check_country
from kdtune.training.site import Site
from kdtune.training.trainer import Trainer, train_and_evaluate


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
    stages: dict[str, Stage] = field(init=False)  # of the study; with a given teacher, its evaluation among them

    def run(self) -> None:
        """All stages, or those named.

        Raises:
            UserError, RunError: see ``kdtune.api.launch``.
        """
        before = self.storage.read_study()
        self.study = with_kept_seeds(self.study, before)
        self.stages = {stage.name: stage for stage in stages_to_run(self.study)}
        self.threads = known(self.study, before, self.storage.each_record())
        self.study = self.threads.study
        now = self.study.model_dump(mode="json")
        paths = differences(before, now) if before is not None else []
        same = before is not None and not paths
        stages = [*self.stages.values()]
        self.ledger = Ledger(self.study, self.storage, stages, self.held, self.reporter, unchanged=same)
        past = {id_: each["row"] for name in self._running for id_, each in self.ledger.past(name).items()}
        anew = asked_anew(self.again, past, self.storage.folder, self.reporter)
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
            try:
                left_out = self._run_stages(stack, anew)
                self._begin_writing(self.storage.read_versions())
                if left_out != self.storage.read_left_out():
                    self.storage.write_study(self.study, self.storage.read_versions() or {}, left_out)
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

    def _run_stages(self, stack: contextlib.ExitStack, anew: set[str]) -> list[str]:
        """Opens what can run, has Tune run what the course hands out; returns the stages that are left out."""
        begin = functools.cache(lambda: self._begin(stack))
        judging = Judging(self.study, self.stages, self.storage, self.reporter, self.ledger, anew)
        waits = graph.graph(self.study, [*self.stages.values()])
        conditions = Conditions(self.stages, waits, self.ledger.winners)
        opening = Opening(
            study=self.study,
            stages=self.stages,
            storage=self.storage,
            reporter=self.reporter,
            site=self.site,
            ledger=self.ledger,
            checkpoints=self.checkpoints,
            trainer=self.trainer,
            token=self.held.token,
            begin=begin,
            undecided=self.threads.open,
            followed=bool(self.loggers),
            mixed=self.mixed,
            judging=judging,
            plans=Plans(self.ledger, conditions, unchanged=self.ledger.unchanged and not anew),
        )
        course = Course(
            {name: self._together(each) for name, each in waits.items()},
            self._running,
            opening.open,
            opening.close,
            lambda name: begin().slots.at_once(name),
            widen=opening.widen,
            labels={name: frozenset(stage.labels.items()) for name, stage in self.stages.items()},
            at_once=self.study.max_concurrent,
        )
        if course.advance():
            refuse_halted(self.halt)
            begun = begin()
            left = [self.stages[name] for name in course.undecided]
            for line in graph.told(graph.graph(self.study, left), begun.slots.most):
                self.reporter.note(line)
            from kdtune.search.experiment import Experiment  # with Tune, which a finished study does not need

            Experiment(
                storage=self.storage,
                course=course,
                rules=opening.rules,
                planned=opening.planned,
                shares=begun.slots.shares,
                stages=self.stages,
                halt=self.halt,
                reporter=self.reporter,
                stalls=begun.stalls,
                cut_off=judging.cut_off,
                ended=self.ledger.ended,
                loggers=self.loggers,
            ).run()
        course.refuse_faults()
        self.ledger.refuse_failed(self._running)
        return conditions.known()

    def _together(self, stage: graph.Waits) -> graph.Waits:
        """Who is judged together begins together."""
        if self.study.scheduler_of(self.stages[stage.name]) != "halving":
            return stage
        return replace(stage, starts=dict.fromkeys(stage.starts, stage.stages))

    @property
    def _running(self) -> list[str]:
        """The names of the stages that run."""
        return [name for name in self.stages if not self.only or name in self.only]

    def _begin(self, stack: contextlib.ExitStack) -> Begun:
        """Ray, once there is something to run: a study that is finished needs none."""
        # torch and Tune are imported before Ray starts: the folder of a Ray job may be gone later, and MKL asks for it
        import kdtune.search.experiment  # noqa: F401
        from kdtune.search.stalls import Stalls

        check_country(self.study.country_iso_code)
        joined = self.address is not None
        if not joined:
            self._check_data()
        self.reporter.started(self.study, self.storage.folder.uri)
        dashboard = stack.enter_context(session.cluster(self.address, self.study.name, self.halt))
        # the signals last: Ray takes SIGTERM for itself when it starts
        stack.enter_context(interruptible(self.halt))
        self.reporter.ray_started(self.study, dashboard, has_gpu())
        meters = Meters(self.study.country_iso_code, self.ledger.energy.keep, self.reporter.warn)
        self.meters = stack.enter_context(meters)
        stalls = Stalls(self.storage, self.reporter, self.halt)
        stack.callback(stalls.close)
        stack.enter_context(Lookout(self.meters, self.study.stall_after, self.halt, stalls))
        if joined:
            self._check_data()
        running = [self.stages[name] for name in self._running]
        for stage in running:  # whether any node has its labels
            share(self.study, stage, 1, joined=joined)
        self.threads = self.threads.decided(joined=joined)
        self.study = self.threads.study
        slots = Slots(self.study, joined)
        slots.divide(self.stages.values())
        kept = kept_teacher.told(self.site.store, self.study, joined=joined)
        for line in (*self.threads.lines(running), *([kept] if kept else [])):
            self.reporter.note(line)
        self._begin_writing()
        self.storage.sweep(self.ledger.unfinished)
        stack.callback(self._clear_noticeboard)
        return Begun(self.study, self.site, stalls, slots)

    def _clear_noticeboard(self) -> None:
        if not isinstance(self.halt.error, Lost):  # nobody would answer
            noticeboard.clear(self.held.token)

    def _begin_writing(self, ran_it: Mapping[str, str | None] | None = None) -> None:
        """Everything that can refuse has been asked: a launch that fails before has changed nothing.

        ``ran_it``: the versions that ran the study, where this launch has run nothing of it.
        """
        if not self.ledger.writes:
            self.storage.write_study(self.study, ran_it or versions(self.study))
            self.ledger.begin_writing()

    def _check_data(self) -> None:
        told, joined = (self.reporter, self.halt), self.address is not None
        keys = check_data(self.study, self.only, self.site, self.storage, self.ledger.records, *told, joined=joined)
        self.site = replace(self.site, keys=keys)
