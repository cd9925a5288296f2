"""What a launch would run, for ``--dry-run``: stages, trials, searches, time. Starts nothing."""

import shlex
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from kdtune.answers import needed_seeds
from kdtune.records.progress import duration
from kdtune.records.rows import Row
from kdtune.records.storage import Storage
from kdtune.search.added_seeds import with_kept_seeds
from kdtune.search.anew import named
from kdtune.search.changes import differences
from kdtune.search.given_teacher import stages_to_run
from kdtune.search.outlook import Looking, Outlook
from kdtune.study import graph
from kdtune.study.names import FINAL
from kdtune.study.rungs import rungs_of
from kdtune.study.spec import StudySpec
from kdtune.study.stage import Range, Stage
from kdtune.text import filled
from kdtune.training import step_times

NAME = 16  # characters of a stage's name, where none is longer
MANY = 8  # values of an axis that are named


def forecast(
    study: StudySpec,
    where: Storage,
    only: Sequence[str] = (),
    again: Sequence[str] = (),
    lacking: Sequence[str] = (),
    bench: str | None = None,
) -> str:
    """What a launch of these stages (none: all) would run, and in what time.

    ``again``: patterns of trials that run anew. ``lacking``: lines for what it would need and that is not here.
    ``bench``: the command that measures a step of each stage; none: of the study as it is given.

    Raises:
        UserError: there is no trial for one of the patterns.
    """
    before = where.read_study()
    study = with_kept_seeds(study, before)
    if before is not None and study.threads is None:
        study = study.model_copy(update={"threads": before.get("threads")})
    changed = differences(before, study.model_dump(mode="json")) if before is not None else []
    stages = stages_to_run(study)
    looking = Looking(study, where, same=before is not None and not changed, only=only, again=again)
    found = looking.stages(stages)
    chosen = [stage for stage in stages if not only or stage.name in only]
    named(again, looking.on_record(chosen) if again else [])
    times = _times(study, stages, looking.rows.values())
    lines = [f"study {study.name}: results would be in {where.folder.uri}"]
    lines += filled(f"changed since the last launch: {', '.join(changed)}", 2) if changed else []
    width = max([NAME, *(len(stage.name) for stage in chosen)])
    for stage in chosen:
        lines += _stage(study, stage, found[stage.name], times.get(stage.name), width)
    lines += [f"  {line}" for line in _in_all(study, [s for s in chosen if s in study.stages], found, width)]
    to_run = [stage for stage in chosen if found[stage.name].left]
    for line in graph.told(graph.graph(study, to_run), study.max_concurrent):
        lines += filled(line, 2)
    bench = bench or shlex.join(["kdtune", "bench", "train", where.given or study.name])
    lines += [f"  {line}" for line in _whole(study, to_run, found, times, bench)]
    final = next((stage for stage in chosen if stage.name == FINAL and len(stage.start_from) > 1), None)
    if final is not None:
        known = needed_seeds.on_record(looking.rows.values())
        methods = len(final.start_from) + bool(final.longer)
        lines.append(f"  {needed_seeds.before_the_start(methods, len(final.seeds), known)}")
    lines += [f"  missing: {line}" for line in lacking]
    return "\n".join(lines)


def _in_all(study: StudySpec, stages: Sequence[Stage], found: Mapping[str, Outlook], width: int) -> Iterator[str]:
    recipes = {stage.name: study.templates()[stage.name].recipe for stage in stages}
    trials = sum(found[stage.name].trials for stage in stages)
    longer = {stage.name: _longer(stage, found[stage.name].trials) for stage in stages}
    known = {name: found[name].trials - longer[name] for name in recipes}
    steps = sum(known[name] * recipe.num_steps for name, recipe in recipes.items() if not recipe.budget)
    limited = sum(known[name] for name, recipe in recipes.items() if recipe.budget)
    done = sum(found[stage.name].finished for stage in stages)
    finished = f"; {done} finished, {trials - done} to run" if done else ""
    size = [f"at most {steps:,} steps"] if steps else []
    size += [f"{limited} of them as long as a budget says"] if limited else []
    size += [f"{sum(longer.values())} of them as long as the dearest method"] if any(longer.values()) else []
    yield f"{'in all':{width}} {trials:4} trials, {', '.join(size)}{finished}"


# a stage


def _stage(study: StudySpec, stage: Stage, outlook: Outlook, time: "Time | None", width: int) -> Iterator[str]:
    template = study.templates().get(stage.name)
    if stage not in study.stages or template is None:
        yield f"  {stage.name:{width}}    1 evaluation of the given teacher{': finished' if not outlook.left else ''}"
        return
    if outlook.left_out:
        yield from filled(f"{stage.name:{width}}    left out, since {outlook.left_out}", 2)
        return
    recipe = template.recipe
    word = "trial" if outlook.trials == 1 else "trials"
    size = f"{outlook.trials:4} {word} of {recipe.length}, batch {recipe.batch_size}"
    if longer := _longer(stage, outlook.trials):
        size += f" ({longer} of them as long as the dearest of the others take)"
    done = "" if outlook.left else f": finished{_gone(outlook)}"
    most = stage.extend * len(stage.seeds)
    more = f"; up to {most} more where the best lies at the border" if most and outlook.left else ""
    yield f"  {stage.name:{width}} {size}{_stopping(study, stage, outlook.trials)}{more}{done}"
    time = None if recipe.budget else time
    told = [_searched(stage), _state(stage, outlook, time, recipe.num_steps) if outlook.left else ""]
    for line in told:
        yield from filled(line, width + 3) if line else []


def _stopping(study: StudySpec, stage: Stage, trials: int) -> str:
    """Early stopping; none for a trial that has no other beside it."""
    rule = study.scheduler_of(stage)
    if rule == "none" or trials < 2:
        return ""
    rungs = f" at {' and '.join(map(str, rungs_of(study, stage)))}" if rule == "halving" else ""
    return f", early stopping by {rule}{rungs}"


def _searched(stage: Stage) -> str:
    axes = [f"{path} {_values(values)}" for path, values in stage.grid.items()]
    axes += [f"{path} {_range(axis)}" for path, axis in stage.ranges.items()]
    axes += [f"{len(stage.together)} x {', '.join(stage.together[0])} together"] if stage.together else []
    how = "" if stage.search == "grid" else f" ({stage.search}, {stage.samples} samples)"
    told = [f"searches {' x '.join(axes)}{how}"] if axes else []
    told += [f"seeds {', '.join(map(str, stage.seeds))}"] if len(stage.seeds) > 1 else []
    return "; ".join([*told, *([stage.when.told] if stage.when else [])])


def _values(values: Sequence[object]) -> str:
    named = [str(value) if not isinstance(value, dict) else "{...}" for value in values]
    return f"[{', '.join(named)}]" if len(named) <= MANY else f"[{named[0]}, ... {len(named)} values ..., {named[-1]}]"


def _range(axis: Range) -> str:
    return f"{axis.low:g} to {axis.high:g}{' (log)' if axis.log else ''}"


def _longer(stage: Stage, trials: int) -> int:
    """How many of these trials of a stage are of its student that is trained longer: they come last."""
    return min(trials, len(stage.seeds)) if stage.longer else 0


def _state(stage: Stage, outlook: Outlook, time: "Time | None", steps: int) -> str:
    """What is finished of a stage that is not, what runs and why, in what time."""
    parts = [f"{outlook.finished} finished"] if outlook.finished else []
    parts += [f"{outlook.left} to run{_of_these(outlook)}"] if parts or outlook.begun or outlook.anew else []
    if outlook.perhaps:
        stand = f"stand if {', '.join(outlook.after)} come{'s' * (len(outlook.after) == 1)} to the same again"
        parts += [f"{outlook.perhaps} on record, which {stand if outlook.after else 'could not be compared'}"]
    others = outlook.left - _longer(stage, outlook.left)
    if time is not None and others:
        parts += [f"{'the others ' if others < outlook.left else ''}at most {time.told(others * steps)}"]
    return f"{'; '.join(parts)}{_gone(outlook)}"


def _of_these(outlook: Outlook) -> str:
    words = [f"{outlook.begun} begun or failed before"] if outlook.begun else []
    words += [f"{outlook.anew} anew as --again says"] if outlook.anew else []
    return f" ({', '.join(words)})" if words else ""


def _gone(outlook: Outlook) -> str:
    return f"; {outlook.gone} on record are no longer of the study" if outlook.gone else ""


# time and energy


@dataclass(frozen=True)
class Time:
    """Of a step of a stage's trials."""

    seconds: float
    kwh: float | None  # none: never metered
    source: str  # "own" trials, "bench", or "others"

    def told(self, steps: int) -> str:
        """Of so many steps."""
        kwh = f", {self.kwh * steps:.2g} kWh" if self.kwh else ""
        return f"{duration(max(1.0, self.seconds * steps))}{kwh}"


def _times(study: StudySpec, stages: Sequence[Stage], ended: Iterable[Row]) -> dict[str, Time]:
    """Of the stages: as their trials on record took, else as a bench here, else as the slowest stage on record."""
    seconds, kwh = _per_step(ended, "train_seconds"), _per_step(ended, "energy_kwh")
    found: dict[str, Time] = {}
    for stage in stages:
        kept = (
            [step_times.kept(template) for template in study.templates_of(stage)] if stage.name not in seconds else []
        )
        known = [each for each in kept if each is not None]
        measured = max(each.seconds for each in known) if known and len(known) == len(kept) else None
        dear = kwh.get(stage.name) or max(kwh.values(), default=None)
        if stage.name in seconds:
            found[stage.name] = Time(seconds[stage.name], dear, "own")
        elif measured is not None:
            metered = [each.kwh for each in known if each.kwh is not None]
            own = max(metered) if len(metered) == len(known) else None
            found[stage.name] = Time(measured, own or dear, "bench")
        elif seconds:
            found[stage.name] = Time(max(seconds.values()), dear, "others")
    return found


def _per_step(ended: Iterable[Row], column: str) -> dict[str, float]:
    """Stage -> the mean of a column over its trials, by step."""
    found: dict[str, list[float]] = {}
    for row in ended:
        if row["step"] and row[column]:
            found.setdefault(row["stage"], []).append(row[column] / row["step"])
    return {stage: statistics.fmean(values) for stage, values in found.items()}


def _whole(
    study: StudySpec, stages: Sequence[Stage], found: Mapping[str, Outlook], times: Mapping[str, Time], bench: str
) -> Iterator[str]:
    """Time and energy of all that is left, but for trials whose number of steps is not known yet: stages tell these."""
    recipes = {name: config.recipe for name, config in study.templates().items()}
    left = {stage.name: found[stage.name].left for stage in stages if stage.name in recipes}
    if not left:
        yield "nothing is left to run"
        return
    left = {stage.name: left[stage.name] - _longer(stage, left[stage.name]) for stage in stages if stage.name in left}
    known = {name: count for name, count in left.items() if count and not recipes[name].budget}
    steps = {name: count * recipes[name].num_steps for name, count in known.items()}
    if not steps:
        return
    unknown = [name for name in steps if name not in times]
    if unknown:
        which = "no trial is on record" if len(unknown) == len(steps) else f"nothing is known of {', '.join(unknown)}"
        yield (
            f"{which} yet, so no time can be told: `{bench}`, run once, measures a step of each stage on this machine"
        )
        return
    seconds = sum(times[name].seconds * count for name, count in steps.items())
    metered = [times[name].kwh for name in steps]
    kwh = sum((times[name].kwh or 0.0) * count for name, count in steps.items()) if all(metered) else None
    energy = f", {kwh:.2g} kWh" if kwh else ", energy not metered yet"
    sources = {times[name].source for name in steps}
    how = {"own": "trials on record", "bench": "`kdtune bench train` here", "others": "the slowest stage on record"}
    told = " and ".join(words for source, words in how.items() if source in sources)
    yield (
        f"what is left takes at most {duration(max(1.0, seconds))} of one trial after the other{energy}, by the step "
        f"times of {told}; evaluations come on top"
    )
