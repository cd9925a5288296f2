"""The status of a study as text."""

from collections.abc import Mapping

from kdtune.losses.marks import DAGGER, FOOTNOTE, marked
from kdtune.records.progress import duration
from kdtune.records.status import Status
from kdtune.text import printable


def lines(status: Status) -> list[str]:
    """The status as text."""
    found = [f"study {status.study}: {status.told}", f"results: {status.storage}"]
    launch = status.launch
    if launch and launch.submission_id:
        found.append(f"job {launch.submission_id}: {_said(status.job)}")
    if launch and launch.dashboard and status.state in ("running", "submitted"):
        found.append(f"dashboard: {launch.dashboard}")
    if status.stages:
        width = max(len(stage.name) for stage in status.stages)
        word = "running" if status.state == "running" else "cut off"
        judged = status.state == "running" and any(t.rung for stage in status.stages for t in stage.under_way)
        heads = ("planned", "completed", "stopped", "diverged", "failed", word, *(("waiting",) if judged else ()))
        found.append(f"{'stage':{width}}  {'  '.join(heads)}  best run, mIoU")
        for stage in status.stages:
            waiting = sum(trial.rung is not None for trial in stage.under_way) if judged else 0
            counts = [stage.planned, stage.completed, stage.stopped, stage.diverged, stage.failed]
            counts += [len(stage.under_way) - waiting, *([waiting] if judged else [])]
            cells = "  ".join(f"{n or '-':>{len(head)}}" for n, head in zip(counts, heads, strict=True))
            best = "left out" if stage.left_out else ""
            by = marked(stage.best_method or "")
            mark = DAGGER if DAGGER in by else ""
            best += "" if stage.best is None else f"{stage.best:9.2f}{mark}  {stage.best_trial}"
            found.append(f"{stage.name:{width}}  {cells}  {best}".rstrip())
        found += [FOOTNOTE] if any(DAGGER in line for line in found) else []
    trials = [trial for stage in status.stages for trial in stage.under_way]
    trials.sort(key=lambda trial: trial.stalled is None)  # what needs a look comes first
    for t in trials[:20]:
        how = f"waiting at rung {t.rung}" if judged and t.rung else word
        found.append(f"{how} {t.trial_id}: step {t.step} of {t.steps_total}" + (f", {t.stalled}" if t.stalled else ""))
    found += [f"... and {len(trials) - 20} more"] if len(trials) > 20 else []
    found += [*status.graph]
    found += [status.waiting] if status.waiting else []
    if status.seconds_left is not None:
        found.append(f"at most about {duration(status.seconds_left)} left at the pace of this launch")
    if status.energy_kwh is not None and status.co2_kg is not None:
        found.append(
            f"energy so far: {status.energy_kwh:.3g} kWh, {status.co2_kg:.3g} kg CO2-equivalent, idle included"
        )
    if launch and launch.again and status.state == "ended" and launch.outcome != "finished":
        found.append(f"continue with: {launch.again}")
    return [printable(line) for line in (*found, *(f"note: {note}" for note in status.notes))]


def _said(job: Mapping[str, str | None] | None) -> str:
    """The state of a job, with its reason: of one that failed, the last line of its log."""
    if job is None:
        return "not asked"
    words = [line for line in (job["message"] or "").splitlines() if line.strip()]
    reason = words[-1 if job["status"] == "FAILED" else 0] if words else ""
    return f"{job['status']} {reason}".strip()
