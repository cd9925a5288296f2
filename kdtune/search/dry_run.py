"""What a launch would run, for ``--dry-run``: stages, trials, steps, hours. Starts nothing."""

from collections.abc import Iterable

from kdtune.answers import needed_seeds
from kdtune.records.rows import Row
from kdtune.records.storage import Storage
from kdtune.search.added_seeds import with_kept_seeds
from kdtune.study import graph
from kdtune.study.names import FINAL
from kdtune.study.spec import StudySpec


def forecast(study: StudySpec, where: Storage) -> str:
    """What a launch would run: stages, trials, steps; hours where earlier trials of the study tell the speed."""
    study = with_kept_seeds(study, where.read_study())
    templates = study.templates()
    ended = where.finished().values()
    speeds = _speeds(ended)
    lines = [f"study {study.name}: results would be in {where.folder.uri}"]
    total = {"trials": 0, "steps": 0, "hours": 0.0}
    for stage in study.stages:
        trials = study.num_trials(stage)
        recipe = templates[stage.name].recipe
        steps = trials * recipe.num_steps
        stopped = study.scheduler_of(stage)
        early = f", early stopping by {stopped}" if stopped != "none" else ""
        most = stage.extend * len(stage.seeds)
        early += f"; up to {most} more where the best lies at the border" if most else ""
        lines.append(f"  {stage.name:16} {trials:4} trials of {recipe.length}, batch {recipe.batch_size}{early}")
        total["trials"] += trials
        total["steps"] += steps
        speed = speeds.get(stage.name) or speeds.get("")
        total["hours"] += steps * recipe.batch_size / speed / 3600 if speed else 0.0
    lines.append(f"  {'in all':16} {total['trials']:4} trials, at most {total['steps']:,} steps")
    lines += [f"  {line}" for line in graph.told(graph.graph(study, study.stages), study.max_concurrent)]
    if speeds:
        lines.append(f"  at the speed of the trials on record: at most {total['hours']:.1f} hours of one trial slot")
    else:
        lines.append("  no trial is on record yet, so no time can be told; `kdtune bench train` measures a step here")
    final = next((stage for stage in study.stages if stage.name == FINAL and len(stage.start_from) > 1), None)
    if final is not None:
        known = needed_seeds.on_record(ended)
        lines.append(f"  {needed_seeds.before_the_start(len(final.start_from), len(final.seeds), known)}")
    return "\n".join(lines)


def _speeds(ended: Iterable[Row]) -> dict[str, float]:
    """Images per second by stage, and under "" the slowest of all, from the trials that have ended."""
    found: dict[str, list[float]] = {}
    for row in ended:
        if row["images_per_second"]:
            found.setdefault(row["stage"], []).append(row["images_per_second"])
    means = {stage: sum(values) / len(values) for stage, values in found.items()}
    return means | {"": min(means.values())} if means else {}
