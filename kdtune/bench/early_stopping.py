"""``kdtune bench asha``: ASHA against the full grid, in share of the steps and in mIoU of what is found.

On a processor a trial's curve depends on its configuration, its seed and its number of threads, never on when it runs.
One full grid therefore tells what ASHA would have done in every order of its trials: Ray's own scheduler is asked again
at each recorded evaluation. That the replay is right is seen beside it, where the same stages are launched with ASHA.
"""

import contextlib
import itertools
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Self

from ray.tune.schedulers import TrialScheduler

from kdtune.api import launch
from kdtune.base import RunError, UserError
from kdtune.bench.figures import told
from kdtune.records.progress import Lines
from kdtune.records.rows import Row, best_config
from kdtune.records.storage import WEIGHTS, Record, Storage
from kdtune.search.early_stopping import Known, Rungs
from kdtune.search.options import Options, adjusted
from kdtune.search.stage_context import SCORE, WORST
from kdtune.study.file import load_study
from kdtune.study.schedulers import Halving
from kdtune.study.spec import StudySpec
from kdtune.study.stage import Stage, shuffled
from kdtune.study.trial_config import STAGE_REFERENCE, Value
from kdtune.text import did_you_mean

CANDIDATES = tuple(Halving(grace=g, reduction_factor=f) for f in (2.0, 3.0, 4.0) for g in (0.1, 0.2, 0.34, 0.5))


@dataclass(frozen=True)
class Setting:
    """What is measured, and how often."""

    stages: Sequence[str] = ()  # empty: the stages of one seed whose grid has two axes or more
    seeds: Sequence[int] = ()  # of trials, beside the stage's own: each is one more grid to replay
    candidates: Sequence[Halving] = CANDIDATES  # beside the study's own
    orders: int = 50  # replays of each grid
    within: float = 0.5  # points of mIoU that count as no loss
    every: Sequence[int] = ()  # further distances of evaluations [steps], multiples of the recorded one
    launched: bool = True  # whether the stages are launched with ASHA, too


@dataclass(frozen=True)
class Curve:
    """A trial of a full grid: what it reported, evaluation by evaluation, until it ended by itself."""

    trial_id: str
    reports: tuple[tuple[int, float], ...]  # step, mIoU [percent] or WORST
    completed: bool  # else it diverged

    @property
    def steps(self) -> int:
        """Of the whole trial."""
        return self.reports[-1][0]

    @property
    def miou(self) -> float:
        """What it is compared by: the last evaluation [percent]."""
        return self.reports[-1][1]

    def thinned(self, every: int) -> Self:
        """The same trial, evaluated at multiples of so many steps and at its end alone."""
        kept = [(step, score) for step, score in self.reports[:-1] if step % every == 0]
        return replace(self, reports=(*kept, self.reports[-1]))


@dataclass(frozen=True)
class Found:
    """What a search of a grid cost and found."""

    share: float  # of the full grid's steps
    regret: float  # mIoU points that the full grid's best has over the best found
    same: bool  # the very same configuration


def asha(
    study: str,
    setting: Setting,
    *,
    data_root: str | None = None,
    settings: Mapping[str, Value] | None = None,
    storage: str | None = None,
    output: str | None = None,
) -> str:
    """Stages in full (no early stopping), then with ASHA: launched, and replayed in other orders.

    A row per stage, distance of evaluations and pair of ``grace`` and ``reduction_factor``. ``share``: of the full
    grid's steps. ``same``: share of the orders that find the full grid's best; ``within``: that find one at most so
    many points below it. ``regret``: mIoU points below it, mean over the orders; ``worst``: the largest;
    ``unsearched``: the mean regret of taking the first trials of the order instead, as many as the same steps pay for,
    to their ends. Without the last, a small regret could be the grid's flatness and none of ASHA's merit.

    ``storage``: where the full grids are, or are to be kept; none: they are made and forgotten.

    Raises:
        UserError: a stage is not there or has no grid of one seed; ``every`` is no multiple of what was recorded.
        RunError: a trial failed, or all of a grid diverged.
    """
    spec = adjusted(load_study(study), Options(settings=settings or {}))
    stages = _searched(spec, setting.stages)
    names = [stage.name for stage in stages]
    before = needed(spec, names)
    with contextlib.ExitStack() as stack:
        folder = storage or stack.enter_context(tempfile.TemporaryDirectory())
        options = Options(stages=[*before, *names], scheduler="none")
        full = launch(
            _over_seeds(spec, names, setting.seeds),
            storage=folder,
            data_root=data_root,
            options=options,
            reporter=Lines(),
        )
        records = full.records()
        grids = {s.name: _grids(full.plan()[s.name], records, own=s.seeds[0]) for s in stages}
        fresh = _launched(spec, names, before, full, data_root) if setting.launched else None
    measured: list[Row] = []
    for stage in stages:
        measured += _rows(spec, stage, grids[stage.name], fresh, setting)
    number = " and ".join(str(n) for n in sorted({len(grid) for each in grids.values() for grid in each}))
    title = f"ASHA on {study}: grids of {number} trials x {len(next(iter(grids.values())))} seeds"
    return told(f"{title}, {setting.orders} orders each", measured, output)


def _searched(spec: StudySpec, names: Sequence[str]) -> list[Stage]:
    """The stages to measure."""
    known = [stage.name for stage in spec.stages]
    for name in names:
        if name not in known:
            raise UserError(f"--stage {name}: study '{spec.name}' has no such stage{did_you_mean(name, known)}")
    grids = [s for s in spec.stages if len(s.seeds) == 1 and s.search == "grid" and s.grid]
    chosen = [s for s in grids if s.name in names or (not names and len(s.grid) > 1)]
    missing = [name for name in names if name not in [stage.name for stage in chosen]]
    if missing or not chosen:
        which = f"--stage {missing[0]}: this stage" if missing else f"study '{spec.name}': no stage"
        there = ", ".join(s.name for s in grids) or "none"
        raise UserError(f"{which} has a grid of one seed for ASHA to search; such stages: {there}")
    return chosen


def needed(spec: StudySpec, names: Sequence[str]) -> list[str]:
    """The stages whose results these need, in the study's order: those they start from, those that make weights."""
    templates = spec.templates()
    found: set[str] = set()
    left = list(names)
    while left:
        stage = spec.stage(left.pop())
        references = templates[stage.name].checkpoints().values()
        made = {r.removeprefix(STAGE_REFERENCE) for r in references if r.startswith(STAGE_REFERENCE)}
        new = (made | spec.ancestors(stage)) - found
        found |= new
        left += new
    return [stage.name for stage in spec.stages if stage.name in found - set(names)]


def _over_seeds(spec: StudySpec, names: Sequence[str], seeds: Sequence[int]) -> StudySpec:
    """The study whose named stages run over further seeds, too."""

    def changed(stage: Stage) -> Stage:
        more = tuple(dict.fromkeys([*stage.seeds, *seeds]))
        return stage.model_copy(update={"seeds": more, "scheduler": "none"}) if stage.name in names else stage

    return spec.model_copy(update={"stages": tuple(changed(stage) for stage in spec.stages)})


def _grids(plan: Sequence[str], records: Mapping[str, Record], own: int) -> list[list[Curve]]:
    """The curves of a stage in the order of its plan, one list per seed, the stage's own seed first."""
    seeds: dict[int, list[Curve]] = {own: []}
    for trial_id in plan:
        row, history = records[trial_id]["row"], records[trial_id]["history"]
        if row["status"] not in ("completed", "diverged"):
            raise RunError(f"trial {trial_id} of the full grid has {row['status']}: {row['error']}")
        reports = tuple((e["step"], WORST if e["miou"] is None else e["miou"]) for e in history)
        seeds.setdefault(row["seed"], []).append(Curve(trial_id, reports, row["status"] == "completed"))
    for seed, grid in seeds.items():
        if not any(curve.completed for curve in grid):
            raise RunError(f"every trial of seed {seed} diverged, e.g. {grid[0].trial_id}: there is nothing to find")
    return list(seeds.values())


def _launched(
    spec: StudySpec, names: Sequence[str], before: Sequence[str], full: Storage, data_root: str | None
) -> dict[str, list[Row]]:
    """The rows of the stages, launched with ASHA where nothing but the earlier stages' results is known."""
    with tempfile.TemporaryDirectory() as folder:
        fresh = Storage(folder, full.study)
        plan = {name: full.plan()[name] for name in before}
        for trial_id in itertools.chain.from_iterable(plan.values()):
            record = full.record(trial_id)
            weights = (full.folder / "checkpoints" / trial_id).read(WEIGHTS)
            if record is None or weights is None:
                raise RunError(f"{full.folder.uri}: trial {trial_id} has left no weights")
            fresh.write_record(record)
            (fresh.folder / "checkpoints" / trial_id).write(WEIGHTS, weights)
        fresh.write_plan(plan)
        threads = (full.read_study() or {}).get("threads")  # decided by the stages of that launch
        options = Options(stages=names, scheduler="asha", threads=threads)
        launch(spec, storage=folder, data_root=data_root, options=options, reporter=Lines())
        made, records = fresh.plan(), fresh.records()
        return {name: [records[trial_id]["row"] for trial_id in made[name]] for name in names}


def _rows(
    spec: StudySpec,
    stage: Stage,
    grids: Sequence[Sequence[Curve]],
    launched: Mapping[str, Sequence[Row]] | None,
    setting: Setting,
) -> list[Row]:
    """A stage's table: as launched, the replay of that order, the replays of all orders."""

    def row(how: str, every: int, halving: Halving, results: Sequence[Found], unsearched: Sequence[Found]) -> Row:
        return {
            "stage": stage.name,
            "how": how,
            "every": every,
            "grace": halving.grace,
            "factor": halving.reduction_factor,
            "share": statistics.fmean(f.share for f in results),
            "same": statistics.fmean(f.same for f in results),
            "within": statistics.fmean(f.regret <= setting.within for f in results),
            "regret": statistics.fmean(f.regret for f in results),
            "worst": max(f.regret for f in results),
            "unsearched": statistics.fmean(f.regret for f in unsearched),
        }

    own, first = spec.halving, grids[0]
    distance = min(curve.reports[0][0] for curve in first)
    for every in setting.every:
        if every % distance:
            raise UserError(
                f"--every {every}: stage '{stage.name}' is evaluated every {distance} steps; give a multiple"
            )
    rows = []
    order = shuffled(first, spec.seed, stage.name)  # as a launch shuffles the plan
    again = found(first, replay(order, own))
    if launched is not None:
        real = _of_rows(first, launched[stage.name])
        rows.append(row("launched", distance, own, [real], [unsearched(first, order, real.share)]))
    rows.append(row("replayed", distance, own, [again], [unsearched(first, order, again.share)]))
    for every, halving in itertools.product([distance, *setting.every], dict.fromkeys([own, *setting.candidates])):
        results, blind = [], []
        for grid, number in itertools.product(grids, range(setting.orders)):
            order = [curve.thinned(every) for curve in shuffled(grid, number, stage.name)]
            results.append(found(grid, replay(order, halving)))
            blind.append(unsearched(grid, order, results[-1].share))
        rows.append(row("any order", every, halving, results, blind))
    return rows


def replay(order: Sequence[Curve], halving: Halving) -> dict[str, int]:
    """The steps that each trial makes under ASHA, one trial after the other.

    So many side by side as may be, trials that are equally fast come to every rung in the order in which they began,
    and a rung knows nothing of the others: the decisions are the same. Where one overtakes another, as if the order
    had been a little different.
    """
    rungs = Rungs(halving, max(curve.steps for curve in order), {})
    made: dict[str, int] = {}
    for curve in order:
        trial = Known(curve.trial_id)
        rungs.on_trial_add(None, trial)
        for step, score in curve.reports:
            status = "ended" if step == curve.steps else "running"
            made[curve.trial_id] = step
            report = {"trial": curve.trial_id, "step": step, SCORE: score, "status": status}
            if rungs.on_trial_result(None, trial, report) == TrialScheduler.STOP:
                break
    return made


def found(grid: Sequence[Curve], made: Mapping[str, int]) -> Found:
    """What is found if trials go so far: the best of those that completed; of equal ones the grid's earlier."""
    best = max((c for c in grid if c.completed), key=lambda c: c.miou)
    ended = [c for c in grid if c.completed and made.get(c.trial_id, 0) == c.steps]
    winner = max(ended, key=lambda c: c.miou, default=None)
    share = sum(made.values()) / sum(c.steps for c in grid)
    return Found(share, best.miou - (winner.miou if winner is not None else 0.0), winner is best)


def unsearched(grid: Sequence[Curve], order: Sequence[Curve], share: float) -> Found:
    """The first trials of an order, run to their ends: as many as this share of the grid's steps pays for, rounded."""
    number = max(1, round(share * len(grid)))
    return found(grid, {curve.trial_id: curve.steps for curve in order[:number]})


def _of_rows(grid: Sequence[Curve], rows: Sequence[Row]) -> Found:
    """What a launch found; its own mIoU counts, not the full grid's, for on a GPU they may differ."""
    best = max((c for c in grid if c.completed), key=lambda c: c.miou)
    share = sum(row["step"] or 0 for row in rows) / sum(c.steps for c in grid)
    winner = best_config(rows)
    if not winner:
        return Found(share, best.miou, False)
    return Found(share, best.miou - winner[0]["miou"], winner[0]["trial_id"] == best.trial_id)
