"""How much of a study stands as it was run, and how much a launch would run now. Reads; needs neither torch nor Ray."""

import contextlib
import fnmatch
import functools
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from pydantic import ValidationError

from kdtune.base import UserError
from kdtune.records.rows import FINISHED, Row, best_config
from kdtune.records.storage import Storage
from kdtune.search.checkpoints import Checkpoints, made_weights
from kdtune.search.conditions import Conditions
from kdtune.search.widening import points_at
from kdtune.study.graph import Waits, graph
from kdtune.study.names import LONGER
from kdtune.study.schedulers import SchedulerName, stands
from kdtune.study.spec import StudySpec
from kdtune.study.stage import Stage
from kdtune.study.trial_config import TrialConfig, Value
from kdtune.study.widening import all_beyond


@dataclass(frozen=True)
class Outlook:
    """Of one stage."""

    trials: int  # at most
    finished: int = 0  # of them
    begun: int = 0  # of those to run: cut off, or failed, and tried again
    anew: int = 0  # of those to run: named by ``--again``
    gone: int = 0  # on record, and no longer of the study
    perhaps: int = 0  # on record; they stand if the stages before choose again what they chose
    after: tuple[str, ...] = ()  # stages that must be decided before it is known which trials these are
    left_out: str | None = None  # why it has no trials

    @property
    def left(self) -> int:
        """The trials that a launch would run, at most."""
        return self.trials - self.finished


@dataclass
class Looking:
    """Goes through the stages in their order."""

    study: StudySpec
    storage: Storage
    same: bool  # whether the study is that of the last launch, so that its plan stands
    only: Sequence[str] = ()  # the stages that would run; none: all. The others are taken as they are
    again: Sequence[str] = ()  # patterns of trials that run anew
    rows: Mapping[str, Row] = field(init=False)
    _plan: Mapping[str, list[str]] = field(init=False)
    _waits: Mapping[str, Waits] = field(init=False)
    _conditions: Conditions = field(init=False)
    _weights: Checkpoints = field(default_factory=Checkpoints)
    _winners: dict[str, list[Row]] = field(default_factory=dict)  # of the stages that are decided

    def __post_init__(self) -> None:
        self.rows, self._plan = self.storage.finished(), self.storage.plan()

    def on_record(self, stages: Sequence[Stage]) -> set[str]:
        """The trials of these stages' plans that have begun or ended."""
        planned = {id_ for stage in stages for id_ in self._plan.get(stage.name, [])}
        return (planned & self.rows.keys()) | {*self.storage.records(planned - self.rows.keys())}

    def stages(self, stages: Sequence[Stage]) -> dict[str, Outlook]:
        """Of each of these stages: all of the study, in their order."""
        self._waits = graph(self.study, stages)
        known = {stage.name: stage for stage in stages}
        self._conditions = Conditions(known, self._waits, self._winners.__getitem__)
        return {stage.name: self._stage(stage) for stage in stages}

    def _stage(self, stage: Stage) -> Outlook:
        if self.only and stage.name not in self.only:
            return self._as_it_is(stage)
        if why := self._left_out(stage.name):
            return Outlook(0, left_out=why)
        before = [id_ for id_ in self._plan.get(stage.name, []) if id_ in self.rows]
        size, after = self.study.num_trials(stage), self._undecided(stage)
        ids: list[str] | None = None
        if before and not after:
            ids = self._ids(stage)
        if ids is None:  # nothing on record, or it cannot be compared
            named = sum(map(self._named, before))
            return Outlook(size, anew=named, perhaps=len(before) - named, after=after)
        rule = self.study.scheduler_of(stage)
        anew = {id_ for id_ in ids if id_ in self.rows and self._named(id_)}
        done = [id_ for id_ in ids if id_ in self.rows and id_ not in anew and self._stands(id_, ids, rule)]
        trials = max(size, len(ids)) if stage.search == "tpe" or stage.longer else len(ids)
        if len(done) >= trials:
            self._decide(stage, ids)
        begun = len(self._begun(stage, ids) - anew - {*done})
        return Outlook(trials, len(done), begun, len(anew), len({*before} - {*ids}))

    def _named(self, id_: str) -> bool:
        """Whether ``--again`` names it."""
        return any(fnmatch.fnmatch(id_, each) for each in self.again)

    def _as_it_is(self, stage: Stage) -> Outlook:
        ids = self._plan.get(stage.name, [])
        self._decide(stage, ids)
        return Outlook(len(ids), len(ids))

    def _decide(self, stage: Stage, ids: Sequence[str]) -> None:
        winners = best_config([self.rows[id_] for id_ in ids if id_ in self.rows], len(stage.seeds))
        if winners:
            self._winners[stage.name] = winners

    def _stands(self, id_: str, ids: Collection[str], rule: SchedulerName) -> bool:
        if rule == "halving":  # a stopped one may go on where others of its stage have left
            return self.rows[id_]["status"] in FINISHED[:-1] and all(each in self.rows for each in ids)
        return stands(self.rows[id_]["status"], rule)

    def _begun(self, stage: Stage, ids: Sequence[str]) -> set[str]:
        """Those that have a journal and no end, and those that have failed."""
        open_ = {id_ for id_ in ids if id_ not in self.rows}
        return {*self.storage.records(open_)} | {
            i for i in ids if i in self.rows and self.rows[i]["status"] == "failed"
        }

    def _left_out(self, name: str) -> str | None:
        """Why a stage is; none if it runs, or that is not known yet."""
        with contextlib.suppress(KeyError):
            return self._conditions.left_out(name)
        return None

    def _undecided(self, stage: Stage) -> tuple[str, ...]:
        needed = self._waits[stage.name].stages - self._winners.keys()  # of ``only`` one may have come to nothing
        return tuple(name for name in self._waits if name in needed and not self._left_out(name))

    def _ids(self, stage: Stage) -> list[str] | None:
        """The ids of its trials, whose starts are all decided; none where a file is missing that they load."""
        try:
            own = stage in self.study.stages  # a given teacher's evaluation is not
            self._weights.locate(self.study, [stage.name] if own else [])
            from_ = [name for name in stage.start_from if not self._left_out(name)]
            starts = {name: self._recorded(name) for name in from_} or {"base": self.study.base}
        except (UserError, ValidationError):
            return None
        starts = {name: self.study.with_threads(config) for name, config in starts.items()}
        made = made_weights(self.study, stage, starts, self._winners.__getitem__)
        references = self._weights.references | made

        def trial(point: Mapping[str, Value]) -> str:
            return stage.config(starts, point).resolved(references).trial_id(stage.name)

        if stage.search == "tpe":
            return [*self._drawn(stage, starts, trial)]
        points = stage.points([*starts], self.study.seed)
        planned = self._plan.get(stage.name, [])
        if self.same and all(trial(p) in planned for p in {p["start"]: p for p in reversed(points)}.values()):
            return planned
        beyond = all_beyond(stage.one_axis, stage.extend) if stage.extend else ()
        if stage.longer is not None:
            others = dict.fromkeys(map(trial, points))
            more = (id_ for id_ in planned if id_ not in others and id_ in self.rows)
            return [*others, *(id_ for id_ in more if self._config(id_).variant == LONGER)]
        widened = [trial(point) for entry in beyond for point in points_at(stage, next(iter(starts)), entry)]
        return list(dict.fromkeys([*map(trial, points), *(id_ for id_ in widened if id_ in planned)]))

    def _drawn(
        self, stage: Stage, starts: Mapping[str, TrialConfig], trial: Callable[[Mapping[str, Value]], str]
    ) -> Iterator[str]:
        """The trials that its search drew, and could draw as it stands."""
        for id_, row in self.rows.items():
            if row["stage"] == stage.name and row["start"] in starts:
                config = self._config(id_)
                axes = stage.live({path: config.at(path) for path in (*stage.grid, *stage.ranges)})
                if stage.holds(axes) and trial({"start": row["start"], **axes, "seed": config.seed}) == id_:
                    yield id_

    def _recorded(self, stage: str) -> TrialConfig:
        return self._config(self._winners[stage][0]["trial_id"])

    def _config(self, trial_id: str) -> TrialConfig:
        return TrialConfig.model_validate_json(self._configs[trial_id])

    @functools.cached_property
    def _configs(self) -> dict[str, str]:
        table = self.storage.table_if_there("trials", columns=["trial_id", "config"])
        return dict(zip(*(table[name].to_pylist() for name in ("trial_id", "config")), strict=True)) if table else {}
